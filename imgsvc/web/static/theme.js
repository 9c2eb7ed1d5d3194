// Applies the stored theme before the first paint, so that the page does not flash. The theme button writes the key.
try {
  const theme = localStorage.getItem("imgsvc.theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // Storage is blocked: use the system's theme.
}
