// Everything at a glance: which limit is the bottleneck, who waits longest, what went wrong, is the daemon well.
import { html, Component } from "./html.js";
import { api } from "./api.js";
import { count, duration, plural } from "./format.js";
import { EventList } from "./events.js";
import { live } from "./live.js";
import { Bar, Clock, Command, Name, Since, barTitle, oneLine, usedNow } from "./marks.js";
import { Empty, NewButton } from "./list.js";

const AGAIN_MS = 1000;
const QUIET_MS = 10000; // though nothing changed: the doctor may have looked

export class Overview extends Component {
  state = { told: null, problem: "" };

  componentDidMount() {
    this.fetch();
    this.timer = setInterval(() => this.due() && this.fetch(), AGAIN_MS);
  }

  componentWillUnmount() {
    clearInterval(this.timer);
    this.gone = true;
  }

  due() {
    if (document.hidden || live.lost || this.asking) return false;
    return live.changes !== this.changes || performance.now() - this.asked > QUIET_MS;
  }

  async fetch() {
    this.asking = true;
    this.asked = performance.now();
    this.changes = live.changes;
    try {
      const told = await api.get("/api/overview");
      if (!this.gone) this.setState({ told, problem: "" });
    } catch (problem) {
      if (!this.gone) this.setState({ problem: problem.detail });
    } finally {
      this.asking = false;
    }
  }

  render(_, { told, problem }) {
    if (!told) return html`<h1>Overview</h1><p class="none">${problem || "Loading…"}</p>`;
    if (told.totals.limits === 0 && told.daemon.state === "there") return html`<${Empty} />`;
    return html`<div>
      <div class="title"><h1>Overview</h1><${NewButton} /></div>
      ${problem && html`<p class="refused" role="alert">${problem}</p>`}
      <${Totals} totals=${live.totals ?? told.totals} since=${told.watching_since} />
      <div class="pair">
        <${Busiest} busiest=${told.busiest} />
        <${LongestWaiters} waiters=${told.longest_waiters} />
      </div>
      <div class="pair">
        <div class="panel"><header><h2>Refused, timed out, died</h2><span class="muted small">lately</span></header><${EventList} events=${told.troubles} limits none="Nothing went wrong since the page began to watch." /></div>
        <${Health} told=${told} />
      </div>
    </div>`;
  }
}

function Totals({ totals, since }) {
  const boxes = [
    ["Limits", count(totals.limits), totals.inactive ? `${count(totals.inactive)} inactive` : "all active"],
    ["Slots held", count(totals.held), "right now"],
    ["Waiting", count(totals.waiting), totals.waiting === 1 ? "request" : "requests", totals.waiting > 0],
    ["Grants a second", totals.grants_per_second.toLocaleString([], { maximumFractionDigits: 1 }), html`watching since <${Clock} at=${since} />`],
  ];
  return html`<div class="panel figures even">
    ${boxes.map(([label, value, note, hot]) => html`<div key=${label} class="figure-box"><span class="label">${label}</span><div class="value ${hot ? "hot" : ""}">${value}</div><div class="muted small">${note}</div></div>`)}
  </div>`;
}

function Busiest({ busiest }) {
  return html`<div class="panel">
    <header><h2>Busiest limits</h2><span class="muted small">of the last minute</span></header>
    ${busiest.length === 0 && html`<p class="none">No limit is in use.</p>`}
    <ul class="busy">
      ${busiest.map(({ limit, grants_per_second: rate }) => {
        const row = live.rows.get(limit.name) ?? limit;
        return html`<li key=${row.name}>
          <${Name} name=${row.name} />
          <span class="use" title=${barTitle(row)}><${Bar} row=${row} /><span class="figure">${count(usedNow(row, live.now()))} / ${count(row.limit)}</span></span>
          <span class="nowrap ${row.waiting ? "hot" : "muted"}">${row.waiting ? `${count(row.waiting)} waiting` : "no line"}</span>
          <span class="muted nowrap num">${rate.toLocaleString([], { maximumFractionDigits: 1 })} / s</span>
        </li>`;
      })}
    </ul>
  </div>`;
}

function LongestWaiters({ waiters }) {
  return html`<div class="panel">
    <header><h2>Longest waiters</h2></header>
    ${waiters.length === 0 && html`<p class="none">Nobody waits.</p>`}
    <ul class="busy longest">
      ${waiters.map(
        (ticket) => html`<li key=${`${ticket.limit} ${ticket.number}`}>
          <span class="hot nowrap"><${Since} at=${ticket.since} /></span>
          <${Name} name=${ticket.limit} />
          <span class="nowrap muted"><span class="mono">${ticket.pid}</span> <bdi>${oneLine(ticket.user)}</bdi></span>
          <${Command} command=${ticket.command} />
        </li>`,
      )}
    </ul>
  </div>`;
}

function Health({ told }) {
  const { daemon, findings, findings_at: at } = told;
  const well = findings.length === 0 && !daemon.trouble;
  return html`<div class="panel health">
    <header><h2>Health</h2>${at && html`<span class="muted small">looked <${Since} at=${at} /> ago</span>`}</header>
    <div class="body">
      ${daemon.trouble && html`<p class="finding"><span class="tag bad">trouble</span> <span>${daemon.trouble}</span></p>`}
      ${findings.map(
        (finding) => html`<div class="finding" key=${finding.finding + finding.text}>
          <span class="tag ${finding.serious ? "bad" : "full"}">${finding.serious ? "serious" : "notice"}</span>
          <span><span>${finding.text}</span>${finding.mend && html`<pre tabindex="0"><code>${finding.mend}</code></pre>`}</span>
        </div>`,
      )}
      ${well && html`<p class="finding"><span class="tag on">well</span> <span>${at ? "Nothing is wrong." : "Not looked yet."}</span></p>`}
      <dl class="facts">
        <dt>Daemon</dt><dd>${daemon.version ? `atmostd ${daemon.version}, pid ${daemon.pid}` : "–"}${daemon.uptime_seconds !== null && daemon.state === "there" ? `, up ${duration(daemon.uptime_seconds)}` : ""}</dd>
        <dt>Socket</dt><dd><bdi class="cut mono" title=${daemon.socket ?? ""}>${daemon.socket ?? "–"}</bdi></dd>
        <dt>Sessions</dt><dd>${daemon.sessions === null ? "–" : plural(daemon.sessions, "client")}</dd>
        <dt>History</dt><dd>of ${plural(told.history.kept, "limit")}${told.history.left_out ? `; ${count(told.history.left_out)} left out` : ""}</dd>
      </dl>
    </div>
  </div>`;
}
