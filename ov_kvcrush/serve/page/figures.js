// Figures as people read them.

export const count = (number) => (number == null ? "–" : number.toLocaleString("en"));

export function megabytes(bytes) {
  const mb = bytes / 1e6;
  // Three digits or whole megabytes, and a plain 0.
  const digits = { minimumSignificantDigits: 3, maximumSignificantDigits: 3 };
  if (mb === 0 || mb >= 100) return `${Math.round(mb).toLocaleString("en")} MB`;
  return `${mb.toLocaleString("en", digits)} MB`;
}

export function duration(seconds) {
  if (seconds == null) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  return age(seconds);
}

export function age(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
export const mean = ({ sum, count }) => (count ? duration(sum / count) : "–");
