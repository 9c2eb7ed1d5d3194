// Numbers, sizes, times and codes as a person reads them.

// The page speaks English; whose English, the browser knows.
const LOCALE = navigator.languages?.find((language) => language.startsWith("en")) ?? "en-GB";
const NUMBER = new Intl.NumberFormat(LOCALE);
const WHEN = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium", timeStyle: "short" });

export const count = (n) => NUMBER.format(n);

/** `many(1, "image")` is "1 image", `many(2, "image")` "2 images". */
export const many = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

/** Bytes with three significant digits, in powers of 1000. */
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

/** Seconds as "3 s", "2 min 10 s", "1 h 5 min". */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ""}`;
  const minutes = Math.round(whole / 60);
  return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
}

/** A forecast, as roughly as it deserves: "about 2 min left". */
export function roughly(seconds) {
  if (seconds < 10) return "a few seconds left";
  if (seconds < 55) return `about ${Math.ceil(seconds / 10) * 10} s left`;
  if (seconds < 3570) return `about ${Math.max(1, Math.round(seconds / 60))} min left`;
  return `about ${(seconds / 3600).toFixed(1).replace(".0", "")} h left`;
}

export const when = (time) => WHEN.format(new Date(time));

/** How much smaller `after` is than `before`, in whole percent; null where there is nothing to say. */
export function savedPercent(before, after) {
  if (!before || after === null || after === undefined) return null;
  return Math.round((1 - after / before) * 100);
}

/** A percentage of saving as a sign shows it: "−67%", "+4%". */
export const change = (percent) => (percent < 0 ? `+${-percent}%` : percent ? `−${percent}%` : "0%");

export const STATUS = {
  pending: "Waiting",
  processing: "Working",
  completed: "Done",
  partial: "Partly done",
  failed: "Failed",
  cancelled: "Cancelled",
};

const REASONS = {
  invalid_url: "The address is not valid",
  blocked_address: "The address is not allowed",
  dns_failure: "The host was not found",
  connect_failed: "No connection",
  tls_error: "No secure connection",
  timeout: "Took too long",
  http_status: "The host refused",
  too_many_redirects: "Too many redirects",
  too_large: "The file is too large",
  empty_body: "The file is empty",
  incomplete_body: "The download broke off",
  not_an_image: "Not an image",
  unsupported_format: "Unsupported format",
  too_many_pixels: "Too many pixels",
  corrupt_image: "The image is damaged",
  compress_timeout: "Compressing took too long",
  compress_crashed: "Compressing failed",
  out_of_memory: "Needs too much memory",
  storage_failed: "Could not be stored",
  internal: "An error of the service",
};

/** An image error's code in a few words. */
export const reason = (code) => REASONS[code] ?? code.replaceAll("_", " ");
