// Formats numbers, sizes, times and codes for people.

// The page is in English. The browser decides which variant, for example en-US or en-GB.
const LOCALE = navigator.languages?.find((language) => language.startsWith("en")) ?? "en-GB";
const NUMBER = new Intl.NumberFormat(LOCALE);
const DATE_TIME = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium", timeStyle: "short" });

export const count = (n) => NUMBER.format(n);

/** Return a number with its noun: `plural(1, "image")` is "1 image", `plural(2, "image")` is "2 images". */
export const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

/** Format bytes in units of 1000, with at most one decimal: "1.5 MB", "120 kB". */
export function bytes(n) {
  if (n === null || n === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let value = n;
  while (Math.abs(value) >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || Math.abs(value) >= 99.95 ? 0 : 1;
  return `${value.toFixed(digits)} ${units[unit]}`;
}

/** Format seconds as "3 s", "2 min 10 s" or "1 h 5 min". */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ""}`;
  const minutes = Math.round(whole / 60);
  return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
}

/** Format an estimate of the remaining seconds, rounded: "about 2 min left". */
export function timeLeft(seconds) {
  if (seconds < 10) return "a few seconds left";
  if (seconds < 55) return `about ${Math.ceil(seconds / 10) * 10} s left`;
  if (seconds < 3570) return `about ${Math.max(1, Math.round(seconds / 60))} min left`;
  return `about ${(seconds / 3600).toFixed(1).replace(".0", "")} h left`;
}

export const dateTime = (time) => DATE_TIME.format(new Date(time));

/** Return how much smaller `after` is than `before`, in whole percent. Return null if either is unknown. */
export function savedPercent(before, after) {
  if (!before || after === null || after === undefined) return null;
  return Math.round((1 - after / before) * 100);
}

/** Format the percentage saved as a change in size: "−67%", "+4%". */
export const sizeChange = (percent) => (percent < 0 ? `+${-percent}%` : percent ? `−${percent}%` : "0%");

export const STATUS = {
  pending: "Queued",
  processing: "In progress",
  completed: "Done",
  partial: "Finished, some failed",
  failed: "Failed",
  cancelled: "Cancelled",
};

const LAYOUTS = {
  standard: "Standard columns",
  woocommerce: "WooCommerce export",
  shopify: "Shopify export",
  magento: "Magento export",
  google: "Google Merchant feed",
  prestashop: "PrestaShop export",
  bigcommerce: "BigCommerce export",
  wix: "Wix export",
  etsy: "Etsy export",
  amazon: "Amazon listing file",
  squarespace: "Squarespace export",
  generic: "Table with image URLs",
};

/** Return the title of a table's layout. Other versions of the server can have others. */
export const layoutTitle = (layout) => LAYOUTS[layout] ?? layout;

const ERRORS = {
  invalid_url: "Invalid URL",
  blocked_address: "Private address",
  dns_failure: "Host not found",
  connect_failed: "Connection failed",
  tls_error: "No secure connection",
  timeout: "Download timed out",
  http_status: "Host error",
  too_many_redirects: "Too many redirects",
  too_large: "File too large",
  empty_body: "Empty file",
  incomplete_body: "Download interrupted",
  invalid_response: "Invalid response",
  not_an_image: "Not an image",
  unsupported_format: "Unsupported format",
  too_many_pixels: "Too many pixels",
  corrupt_image: "Damaged image",
  compress_timeout: "Compression timed out",
  compress_crashed: "Compression failed",
  out_of_memory: "Needs too much memory",
  storage_failed: "Could not be saved",
  internal: "Internal error",
};

/**
 * Return the text for an image's error code, in a few words. The `message` of an `http_status` error
 * contains the HTTP status, which makes the text more exact.
 */
export function errorText(code, message = "") {
  const status = code === "http_status" && httpStatus(message);
  return status ? `${httpErrorText(status)} (${status})` : ERRORS[code] ?? code.replaceAll("_", " ");
}

const httpStatus = (message) => /\b[3-5]\d\d\b/.exec(message)?.[0];

function httpErrorText(status) {
  if (status === "404" || status === "410") return "Not found";
  if (status === "401" || status === "403") return "Access denied";
  if (status === "429") return "Too many requests";
  return status.startsWith("5") ? "Server error" : ERRORS.http_status;
}

/** Return what to do about an HTTP error of an image's host, or "" if that is not known. */
export function httpErrorAction(message) {
  const status = httpStatus(message);
  if (!status) return "";
  if (status === "404" || status === "410") return "Correct the URL in your file: the host has no image there.";
  if (status === "401" || status === "403") return "Use a public URL, or allow this server at the host.";
  return status === "429" || status.startsWith("5") ? "Try it again later." : "";
}
