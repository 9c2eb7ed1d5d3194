// Says so if the browser is too old for the page, or if a script of the page fails. No module, and in old
// syntax, so that old browsers run it.
(function () {
  function report(text) {
    var box = document.getElementById("page-error");
    if (!box) {
      box = document.createElement("p");
      box.id = "page-error";
      box.className = "notice bad-notice page-error";
      box.setAttribute("role", "alert");
      document.body.insertBefore(box, document.getElementById("main"));
    }
    box.textContent = text;
  }

  function isTooOld() {
    return !(window.AbortSignal && AbortSignal.any && Map.groupBy && window.CSS && CSS.supports("color", "light-dark(#000, #fff)"));
  }

  function onError(error) {
    if (error && error.name === "AbortError") return; // A view was left.
    if (error) report("Something went wrong on this page: " + (error.message || error) + ". Reload it to try again.");
  }

  window.addEventListener("error", function (event) {
    onError(event.error);
  });
  window.addEventListener("unhandledrejection", function (event) {
    onError(event.reason);
  });
  document.addEventListener("DOMContentLoaded", function () {
    if (isTooOld()) report("This browser is too old for this page. Use Chrome or Edge 123, Firefox 124 or Safari 17.5, or a later version.");
  });
})();
