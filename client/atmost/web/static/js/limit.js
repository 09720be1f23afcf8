// One limit: who holds, who waits and why, what happened, and what one can do about it.
import { html, Component } from "./html.js";
import { askActive, askDelete, askRelease, askReset, edit, step } from "./acts.js";
import { count, duration, plural, sentence, slots } from "./format.js";
import { EventList } from "./events.js";
import { History } from "./history.js";
import { live } from "./live.js";
import { Act, Bar, Command, Name, Origin, Since, State, oneLine, spentNow, usedNow } from "./marks.js";
import { Snippets } from "./snippets.js";
import { NewButton } from "./list.js";

export class LimitPage extends Component {
  render({ name }) {
    const { detail } = live;
    if (detail?.gone) return html`<${Missing} name=${name} />`;
    if (!detail || detail.limit.name !== name) return html`<${Crumbs} name=${name} /><p class="none">Loading…</p>`;
    const row = live.rows.get(name) ?? detail.limit;
    return html`<div>
      <${Crumbs} name=${name} />
      <${Head} row=${row} />
      <${Figures} row=${row} detail=${detail} />
      <div class="pair">
        <${Holders} row=${row} detail=${detail} />
        <${Line} row=${row} detail=${detail} />
      </div>
      <${History} key=${name} name=${name} limit=${row.limit} />
      <div class="pair">
        <div class="panel"><header><h2>Latest events</h2></header><${EventList} events=${live.events.slice(0, 30)} none="Nothing happened since the page began to watch." /></div>
        <${Snippets} snippets=${detail.snippets} />
      </div>
    </div>`;
  }
}

function Crumbs({ name }) {
  return html`<nav class="crumbs" aria-label="Where"><a href="/limits">Limits</a><span aria-hidden="true">›</span><bdi class="cut">${oneLine(name)}</bdi></nav>`;
}

function Missing({ name }) {
  return html`<div>
    <${Crumbs} name=${name} />
    <div class="panel empty"><h1>No such limit</h1>
      <p>There is no limit named <bdi class="called">${oneLine(name)}</bdi>, or not any more.</p>
      <p class="row"><a class="button" href="/limits">All limits</a><${NewButton} /></p>
    </div>
  </div>`;
}

function Head({ row }) {
  const why = live.whyNot;
  return html`<div class="title">
    <div class="row grow"><h1 class="cut" title=${oneLine(row.name)}><bdi>${oneLine(row.name)}</bdi></h1><${State} row=${row} /><${Origin} row=${row} /></div>
    <div class="row acts">
      <${Act} kind="main" onClick=${() => edit(row)}>Edit<//>
      <${Act} onClick=${() => askActive(row, !row.active)}>${row.active ? "Disable" : "Enable"}<//>
      <${Act} onClick=${() => askReset(row)} title="Have nothing spent any more">Reset spent<//>
      <${Act} kind="danger" onClick=${() => askDelete(row)}>Delete<//>
    </div>
    ${why && html`<p class="muted small why">${sentence(why)}</p>`}
  </div>`;
}

function Figures({ row, detail }) {
  const now = live.now();
  const spent = spentNow(row, now);
  const free = Math.max(0, row.limit - row.held - spent);
  const oldest = row.oldest_wait_at;
  return html`<div class="panel figures">
    <div class="figure-box wide-box">
      <div class="row between"><span class="label">Slots in use</span>
        <span class="row tight">
          <${Act} kind="slight" label="One slot fewer" why=${live.whyNot || (row.limit === 0 ? "It is 0 already." : "")} title="Lower the limit to ${count(row.limit - 1)}" onClick=${() => step(row, -1)}>−<//>
          <${Act} kind="slight" label="One slot more" title="Raise the limit to ${count(row.limit + 1)}" onClick=${() => step(row, 1)}>+<//>
        </span>
      </div>
      <div class="value" data-what="slots">${count(usedNow(row, now))} <small>of ${count(row.limit)}</small></div>
      <${Bar} row=${row} tall />
      <div class="legend">
        <span><i class="key held"></i>${count(row.held)} held</span>
        <span><i class="key spent"></i>${slots(spent)} spent</span>
        <span><i class="key free"></i>${slots(free)} free</span>
      </div>
    </div>
    <${Figure} label="Waiting" value=${count(row.waiting)} hot=${row.waiting > 0} note=${row.waiting && oldest ? html`the longest for <${Since} at=${oldest} />` : "nobody"} />
    <${Figure} label="Comes back" value=${row.decay || "on release"} words note=${row.decay ? "what rate_limit spends" : "no decay: rate_limit is refused"} />
    <${Figure} label="Held for" value=${detail.mean_hold_seconds === null ? "–" : duration(detail.mean_hold_seconds)} note=${detail.mean_hold_seconds === null ? "known while somebody waits" : "on average, lately"} />
  </div>`;
}

function Figure({ label, value, note, hot, words }) {
  return html`<div class="figure-box"><span class="label">${label}</span><div class="value ${hot ? "hot" : ""} ${words ? "words" : ""}" data-what=${label.toLowerCase()}>${value}</div><div class="muted small">${note}</div></div>`;
}

function Holders({ row, detail }) {
  const { holders, holders_more: more } = detail;
  return html`<div class="panel people">
    <header><h2>Who holds</h2><span class="muted small">${holders.length ? plural(holders.length + more, "holder") : ""}</span></header>
    ${holders.length === 0
      ? html`<p class="none">Nobody holds a slot.</p>`
      : html`<div class="table" role="table" tabindex="0" aria-label="Who holds">
          <div role="row" class="line head"><span role="columnheader">Process</span><span role="columnheader">Command</span><span role="columnheader" class="num">Slots</span><span role="columnheader" class="num">Since</span><span role="columnheader"><span class="unseen">Act</span></span></div>
          ${holders.map(
            (holder) => html`<div role="row" class="line" key=${holder.token}>
              <span role="cell"><${Process} ticket=${holder} /></span>
              <span role="cell" class="command"><${Command} command=${holder.command} /></span>
              <span role="cell" class="num" data-label="slots">${count(holder.slots)}</span>
              <span role="cell" class="num" data-label="since"><${Since} at=${holder.since} /></span>
              <span role="cell" class="num"><${Act} kind="slight" label="Release what pid ${holder.pid} holds" onClick=${() => askRelease(holder, row.name)}>Release<//></span>
            </div>`,
          )}
        </div>`}
    ${more > 0 && html`<p class="none">and ${count(more)} more</p>`}
  </div>`;
}

function Line({ row, detail }) {
  const { line, line_more: more } = detail;
  const nobody = row.active ? "Nobody waits." : "Nobody waits: the limit is not enforced.";
  return html`<div class="panel people waiters">
    <header><h2>Who waits</h2><span class="muted small">${line.length ? `${count(line.length + more)} in line` : ""}</span></header>
    ${line.length === 0
      ? html`<p class="none">${nobody}</p>`
      : html`<div class="table" role="table" tabindex="0" aria-label="Who waits">
          <div role="row" class="line head"><span role="columnheader" class="num">#</span><span role="columnheader">Process</span><span role="columnheader">Command</span><span role="columnheader" class="num">Slots</span><span role="columnheader" class="num">Since</span><span role="columnheader" class="num">Expected</span></div>
          ${line.map((ticket) => html`<${Waiter} key=${ticket.number} ticket=${ticket} />`)}
        </div>`}
    ${more > 0 && html`<p class="none">and ${count(more)} more behind them</p>`}
  </div>`;
}

function Waiter({ ticket }) {
  const { lacks } = ticket;
  return html`<div role="row" class="line">
    <span role="cell" class="num muted">${ticket.place}</span>
    <span role="cell"><${Process} ticket=${ticket} /></span>
    <span role="cell" class="command"><${Command} command=${ticket.command} />
      ${lacks.length > 0 && html`<span class="small also"><span class="muted nowrap">also lacks</span>${lacks.map((lack) => html`<span key=${lack.limit} class="row tight"><${Name} name=${lack.limit} /><span class="muted">(${count(lack.slots)})</span></span>`)}</span>`}
    </span>
    <span role="cell" class="num" data-label="slots">${count(ticket.slots)}</span>
    <span role="cell" class="num" data-label="since"><${Since} at=${ticket.since} /></span>
    <span role="cell" class="num" data-label="starts"><${Expected} ticket=${ticket} /></span>
  </div>`;
}

function Expected({ ticket }) {
  if (ticket.starts_at === null) return html`<span class="muted" title="Not known">–</span>`;
  const left = Math.max(0, ticket.starts_at - live.now());
  const title = ticket.exact ? "Exact: only the decay decides" : "An estimate, from how long holders took lately";
  return html`<span title=${title}>${left < 1 ? "soon" : `${ticket.exact ? "" : "~ "}${duration(left)}`}</span>`;
}

function Process({ ticket }) {
  return html`<span class="process"><span class="mono">${ticket.pid}</span> <bdi class="muted cut" title=${oneLine(ticket.user)}>${oneLine(ticket.user)}</bdi></span>`;
}
