// Runs before the first paint, so that a chosen theme never flashes. The page's button writes the key.
try {
  const theme = localStorage.getItem("imgsvc.theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // Storage is blocked: the system's theme it is.
}
