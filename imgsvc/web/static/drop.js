// Files that are dropped on any view of the page.

import { toast } from "./dom.js";

let receive = null; // The function of the view that takes files.
let waiting = null; // A file that was dropped on another view.

/** Take dropped files until `signal` aborts: also the one that was dropped on the view before. */
export function onDroppedFile(handler, signal) {
  receive = handler;
  signal.addEventListener("abort", () => {
    if (receive === handler) receive = null;
  });
  const file = waiting;
  waiting = null;
  if (file) handler(file);
}

/** Catch files that are dropped on the page. `openUpload` shows the view that takes them. */
export function catchDrops(openUpload) {
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const highlight = (enabled) => document.body.classList.toggle("drag-over", enabled);
  const mayUpload = () => document.documentElement.dataset.role !== "read";
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault(); // Otherwise the browser leaves the page for the file.
    highlight(mayUpload());
  });
  addEventListener("dragleave", (event) => !event.relatedTarget && highlight(false));
  addEventListener("drop", (event) => {
    highlight(false);
    if (!hasFiles(event)) return;
    event.preventDefault();
    const { files } = event.dataTransfer;
    if (!files[0] || !mayUpload()) return;
    if (files.length > 1) toast(`Only one file can be uploaded at a time: ${files[0].name}.`);
    if (receive) receive(files[0]);
    else {
      [waiting] = files;
      openUpload();
    }
  });
}
