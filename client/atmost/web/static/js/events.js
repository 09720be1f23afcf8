// What happened, in words.
import { html } from "./html.js";
import { count, duration, plural, sentence } from "./format.js";
import { Clock, Name, Person } from "./marks.js";

const KINDS = {
  created: ["created", ""],
  changed: ["changed", ""],
  deleted: ["deleted", "bad"],
  queued: ["waits", ""],
  granted: ["granted", "on"],
  released: ["released", ""],
  refused: ["refused", "bad"],
  timed_out: ["timed out", "full"],
  cancelled: ["cancelled", ""],
  died: ["died", "bad"],
  reconnected: ["back", ""],
  daemon_started: ["started", "mark"],
  missed: ["missed", "full"],
};

function said(event) {
  const { kind, slots, reason } = event;
  if (kind === "missed") return `${plural(event.missed, "event")} came too quickly to be told one by one`;
  if (kind === "daemon_started") return "the daemon started";
  const words = [];
  if (slots) words.push(plural(slots, "slot"));
  if (event.waited_seconds !== null && event.waited_seconds !== undefined) words.push(event.waited_seconds >= 0.0005 ? `after ${duration(event.waited_seconds)}` : "at once");
  if (event.held_seconds !== null && event.held_seconds !== undefined) words.push(`held for ${duration(event.held_seconds)}`);
  if (reason) words.push(reason.replaceAll("_", " "));
  return words.join(", ");
}

export function EventList({ events, limits, none }) {
  if (!events.length) return html`<p class="none">${none}</p>`;
  return html`<ol class="events" tabindex="0" aria-label="Events">
    ${events.map((event, index) => {
      const [word, mark] = KINDS[event.kind] ?? [event.kind.replaceAll("_", " "), ""];
      return html`<li key=${`${event.at} ${event.kind} ${event.number} ${index}`}>
        <span class="muted nowrap"><${Clock} at=${event.at} /></span>
        <span><span class="tag ${mark}">${word}</span></span>
        <span class="what">
          ${limits && event.limit && html`<${Name} name=${event.limit} />`}
          <span class="cut">${said(event)}${event.pid ? html` <span class="muted">·</span> <${Person} ticket=${event} />` : ""}</span>
        </span>
      </li>`;
    })}
  </ol>`;
}
