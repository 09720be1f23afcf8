// The small drawings and words that several views share: the bar of slots, the sparkline, tags, times, people.
// SVG attributes only: the page's policy allows no style in markup.
import { html } from "./html.js";
import { live } from "./live.js";
import { clock, count, duration, exact, slots } from "./format.js";
import { linkTo } from "./router.js";

const CELLS_MAX = 24; // up to here every slot is a cell of the bar of its own
const WIDTH = 240;

export function spentNow(row, now) {
  return row.active ? Math.max(0, row.spent - row.slot_decay_per_second * Math.max(0, now - row.at)) : row.spent;
}

export function usedNow(row, now) {
  return row.held + Math.ceil(spentNow(row, now) - 1e-9);
}

// Held, spent and free slots of a limit.
export function Bar({ row, tall }) {
  const spent = spentNow(row, live.now());
  const size = Math.max(row.limit, row.held, 1);
  const scale = WIDTH / size;
  const at = (slot) => Math.min(slot, size) * scale;
  const height = tall ? 18 : 8;
  const cells = size <= CELLS_MAX ? size : 1;
  const gaps = Array.from({ length: cells - 1 }, (_, cell) => at(cell + 1));
  return html`<svg class="bar ${row.active ? "" : "off"}" viewBox="0 0 ${WIDTH} ${height}" preserveAspectRatio="none" aria-hidden="true">
    <rect class="free" width=${WIDTH} height=${height} />
    <rect class="spent" x=${at(row.held)} width=${Math.max(0, at(row.held + spent) - at(row.held))} height=${height} />
    <rect class="held" width=${at(row.held)} height=${height} />
    ${gaps.length > 0 && html`<path class="gap" d=${gaps.map((x) => `M${x.toFixed(2)} 0V${height}`).join("")} />`}
    ${row.held > row.limit && html`<path class="over" d="M${at(row.limit).toFixed(2)} 0V${height}" />`}
  </svg>`;
}

export function barTitle(row) {
  const spent = spentNow(row, live.now());
  const free = Math.max(0, row.limit - row.held - spent);
  return `${count(row.held)} held, ${slots(spent)} spent, ${slots(free)} free`;
}

// The last 10 minutes: most slots in use at a time, from left to right. null: not watched then.
export function Spark({ values, limit }) {
  if (!values) return html`<span class="muted small" title="No history is kept of this limit">–</span>`;
  const most = Math.max(limit, 1, ...values.map((value) => value ?? 0));
  const step = 120 / (values.length - 1);
  const y = (value) => (25 - (value / most) * 23).toFixed(1);
  let [line, area, pen] = ["", "", false];
  let begin = 0;
  values.forEach((value, index) => {
    const x = (index * step).toFixed(1);
    if (value === null) {
      if (pen) area += `L${((index - 1) * step).toFixed(1)} 26L${begin} 26Z`;
      pen = false;
      return;
    }
    if (!pen) begin = x;
    line += `${pen ? "L" : "M"}${x} ${y(value)}`;
    area += `${pen ? "L" : "M"}${x} ${y(value)}`;
    pen = true;
  });
  if (pen) area += `L120 26L${begin} 26Z`;
  const seen = values.filter((value) => value !== null);
  const words = seen.length ? `at most ${count(Math.max(...seen))} slots in use in the last 10 minutes` : "not watched yet";
  return html`<svg class="spark" viewBox="0 0 120 27" preserveAspectRatio="none" role="img" aria-label=${words}>
    <title>${words}</title>
    <path class="area" d=${area} /><path class="line" d=${line} />
  </svg>`;
}

export function State({ row }) {
  if (row.state === "implicit")
    return html`<span class="tag" title="Made by its first use, and not enforced until somebody enables it">implicit</span>`;
  if (!row.active) return html`<span class="tag" title="Not enforced: nothing is occupied, nobody waits">inactive</span>`;
  const full = row.waiting > 0 && usedNow(row, live.now()) >= row.limit;
  return full
    ? html`<span class="tag full" title="All slots are in use, and somebody waits">full</span>`
    : html`<span class="tag on">active</span>`;
}

export function Origin({ row }) {
  if (row.declared) return html`<span class="tag mark" title="The file says: ${row.declared}">drifted</span>`;
  const from = { file: "From the configuration file", template: "Made by a template on its first use" }[row.origin];
  return from && html`<span class="tag" title=${from}>${row.origin}</span>`;
}

// Names and commands are strangers' text: as text, apart from the direction of what surrounds them, on one line.
export function Name({ name, link = true }) {
  const shown = oneLine(name);
  return link
    ? html`<a class="cut" href=${linkTo(name)} title=${shown}><bdi>${shown}</bdi></a>`
    : html`<bdi class="cut" title=${shown}>${shown}</bdi>`;
}

export function Command({ command }) {
  const shown = oneLine(command) || "–";
  return html`<bdi class="cut mono" title=${shown}>${shown}</bdi>`;
}

// Line breaks and other controls as signs, so that nothing looks like two lines that is one.
export function oneLine(text) {
  return (text ?? "").replace(/[\n\u2028\u2029]/g, "↵").replaceAll("\t", "→").replace(/[\u0000-\u001f\u007f-\u009f]/g, "�");
}

// How long ago, with the exact time on hover.
export function Since({ at }) {
  if (!at) return html`<span>–</span>`;
  return html`<time datetime=${new Date(at * 1000).toISOString()} title=${exact(at)}>${duration(live.now() - at)}</time>`;
}

export function Clock({ at }) {
  return html`<time datetime=${new Date(at * 1000).toISOString()} title=${exact(at)}>${clock(at, live.now())}</time>`;
}

export function Person({ ticket }) {
  return html`<span class="person">pid ${ticket.pid} <span class="muted">(<bdi>${oneLine(ticket.user)}</bdi>, <bdi title=${oneLine(ticket.command)}>${oneLine(ticket.command)}</bdi>)</span></span>`;
}

// A control that says why it is off, and can still be reached with the keyboard to hear it.
export function Act({ onClick, why = live.whyNot, kind = "", title, label, children }) {
  return html`<button
    type="button"
    class=${kind}
    aria-disabled=${why ? "true" : undefined}
    aria-label=${label}
    title=${why || title}
    aria-description=${why || undefined}
    onClick=${(event) => !why && onClick(event)}
  >
    ${children}
  </button>`;
}
