// Dates, sizes and places in everyday words.

const MONTH = new Intl.DateTimeFormat(undefined, { month: "long", year: "numeric", timeZone: "UTC" });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "long", year: "numeric", timeZone: "UTC" });
const MOMENT = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "long", year: "numeric", hour: "2-digit", minute: "2-digit" });
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", timeZone: "UTC" });

export const number = (value) => value.toLocaleString();
export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** Return "2021-06" of a time. */
export const monthOf = (time) => (time ? time.slice(0, 7) : "");
export const monthName = (month) => (month ? MONTH.format(new Date(`${month}-01T00:00:00Z`)) : "Without a date");
export const dayName = (time) => DAY.format(new Date(time));
export const clock = (time) => CLOCK.format(new Date(time));
/** Return a point in time as the clock here showed it. The clock of a photo is where it was taken. */
export const moment = (time) => MOMENT.format(new Date(time));
/** Return whether a field has points in time. */
export const isTime = ({ name, type }) => type === "timestamp" || (type === "int64" && name.endsWith("_at"));

/** Return the first moment after a month: "2021-06" becomes "2021-07-01T00:00:00Z". */
export function endOf(month) {
  const [year, index] = month.split("-").map(Number);
  return new Date(Date.UTC(year, index, 1)).toISOString();
}

export function size(bytes) {
  const units = ["bytes", "KB", "MB", "GB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < 3) [value, unit] = [value / 1000, unit + 1];
  return `${value >= 10 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function place({ latitude, longitude }) {
  const north = `${Math.abs(latitude).toFixed(4)}° ${latitude < 0 ? "S" : "N"}`;
  return `${north}, ${Math.abs(longitude).toFixed(4)}° ${longitude < 0 ? "W" : "E"}`;
}

/** Return "taken_at" as "Taken at". */
export const fieldName = (name) => name.replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase());
export const fileName = (path) => path.replaceAll("\\", "/").split("/").at(-1);
export const milliseconds = (seconds) => (seconds < 0.0095 ? `${(seconds * 1000).toFixed(1)} ms` : seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(2)} s`);

const LEVELS = { strong: "Strong matches", fair: "Fair matches", weak: "Weak matches" };
export const levelName = (level) => LEVELS[level] ?? "";

/** Return how good a score is, 0 to 1, on a scale that does not depend on the other hits. */
export function strength(score, levels) {
  const clamp = (value) => Math.max(0, Math.min(1, value));
  if (!levels) return clamp(score);
  const { fair, strong } = levels;
  if (score < fair) return clamp(score / fair) / 3;
  if (score < strong) return (1 + (score - fair) / (strong - fair || 1)) / 3;
  return clamp((2 + (score - strong) / (Math.max(0.02, strong - fair) * 2)) / 3);
}
