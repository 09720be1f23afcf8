// Numbers and times as people read them. Pure, but for the reader's own zone and language.

const UNITS = [
  ["d", 86400],
  ["h", 3600],
  ["m", 60],
];

// 0.25 s, 3.1 s, 42 s, 4m10s, 2h05m, 3d4h: two parts at most, as `atmost ps` has them.
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0) seconds = 0;
  if (seconds < 0.0005) return "0 s";
  if (seconds < 1) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  seconds = Math.round(seconds);
  const [unit, size] = UNITS.find(([, size]) => seconds >= size);
  const whole = Math.floor(seconds / size);
  const rest = seconds - whole * size;
  if (unit === "d") return `${whole}d ${Math.floor(rest / 3600)}h`;
  if (unit === "h") return `${whole}h ${pad(Math.floor(rest / 60))}m`;
  return `${whole}m ${pad(rest)}s`;
}

function pad(number) {
  return String(number).padStart(2, "0");
}

export function count(number) {
  return Math.round(number).toLocaleString();
}

// Spent slots have fractions; more than two digits of them tell nobody anything.
export function slots(number) {
  return Number.isInteger(number) ? count(number) : (Math.round(number * 100) / 100).toLocaleString();
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

// Seconds since 1970 -> the reader's clock, without the date if it is today.
export function clock(at, now = Date.now() / 1000) {
  const date = new Date(at * 1000);
  const today = new Date(now * 1000).toDateString() === date.toDateString();
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  return today ? time : `${date.toLocaleDateString([], { day: "numeric", month: "short" })} ${time}`;
}

// The exact time, in the reader's zone, which it names.
export function exact(at) {
  const date = new Date(at * 1000);
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const millis = String(date.getMilliseconds()).padStart(3, "0");
  const day = `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
  const time = `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}.${millis}`;
  return `${day} ${time} (${zone})`;
}

// "nobody waits" -> "Nobody waits."
export function sentence(words) {
  return words && words[0].toUpperCase() + words.slice(1) + (/[.!?]$/.test(words) ? "" : ".");
}
