// All limits: search, sort, filter. Only the rows in sight are in the document, so 10,000 are as quick as 10.
import { html, Component } from "./html.js";
import { live } from "./live.js";
import { count, duration, sentence } from "./format.js";
import { Act, Bar, Name, Origin, Since, Spark, State, barTitle, usedNow } from "./marks.js";
import { Pages } from "./pages.js";
import { go } from "./router.js";

const SPARE = 8; // rows beyond the edges of the window, so that tabbing and scrolling find them
const ROW_PX = 45;
const CARD_PX = 104; // of a row on a narrow screen
const NARROW = matchMedia("(max-width: 860px)");

const COLUMNS = [
  ["name", "Limit", "asc"],
  [null, "State"],
  ["used", "In use", "desc"],
  ["waiting", "Waiting", "desc"],
  ["oldest", "Oldest wait", "desc"],
  ["rate", "Comes back", "desc"],
  [null, "Last 10 min"],
];

const FILTERS = [
  ["waiting", "Waiting now"],
  ["inactive", "Inactive"],
  ["implicit", "Made implicitly"],
  ["file", "From the file"],
  ["drifted", "Drifted"],
];

function queryOf(search) {
  const asked = new URLSearchParams(search);
  return {
    q: asked.get("q") ?? "",
    filters: asked.getAll("filter").filter((name) => FILTERS.some(([known]) => known === name)),
    sort: COLUMNS.some(([name]) => name && name === asked.get("sort")) ? asked.get("sort") : "name",
    order: asked.get("order") === "desc" ? "desc" : "asc",
  };
}

function words({ q, filters, sort, order }) {
  const asked = new URLSearchParams();
  if (q) asked.set("q", q);
  for (const filter of filters) asked.append("filter", filter);
  if (sort !== "name" || order !== "asc") asked.set("sort", sort), asked.set("order", order);
  return asked.toString();
}

export class LimitList extends Component {
  state = { ...queryOf(location.search), first: 0, last: 30 };
  pages = new Pages(() => live.changed());

  componentDidMount() {
    this.pages.ask(words(this.state));
    addEventListener("scroll", this.scrolled, { passive: true });
    addEventListener("resize", this.scrolled);
    addEventListener("keydown", this.key);
    this.scrolled();
  }

  componentWillUnmount() {
    this.pages.close();
    removeEventListener("scroll", this.scrolled);
    removeEventListener("resize", this.scrolled);
    removeEventListener("keydown", this.key);
  }

  componentDidUpdate() {
    if (this.focusing !== undefined) {
      const link = this.body?.querySelector(`[data-index="${this.focusing}"] a`);
      if (link) link.focus(), (this.focusing = undefined);
    }
  }

  scrolled = () => {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      if (!this.body) return;
      const height = NARROW.matches ? CARD_PX : ROW_PX;
      const top = -this.body.getBoundingClientRect().top;
      const first = Math.max(0, Math.floor(top / height) - SPARE);
      const last = Math.max(0, Math.ceil((top + innerHeight) / height) + SPARE);
      this.pages.want(first, last);
      if (first !== this.state.first || last !== this.state.last) this.setState({ first, last });
    });
  };

  // "/" goes to the search, arrows go from limit to limit.
  key = (event) => {
    const at = event.target;
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(at.tagName) && !at.closest("dialog")) {
      event.preventDefault();
      this.field.focus();
      this.field.select();
    }
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const row = at.closest?.("[data-index]");
    if (!by || !this.body?.contains(at) || !row) return;
    event.preventDefault();
    const index = Math.min(Math.max(0, Number(row.dataset.index) + by), this.pages.matching - 1);
    const link = this.body.querySelector(`[data-index="${index}"] a`);
    if (link) link.focus();
    else this.focusing = index;
  };

  set(change) {
    this.setState(change, () => {
      const query = words(this.state);
      history.replaceState(null, "", query ? `/limits?${query}` : "/limits");
      this.pages.ask(query);
      if (this.body?.getBoundingClientRect().top < 0) scrollTo(0, 0);
    });
  }

  sortBy([name, , usual]) {
    const { sort, order } = this.state;
    const turned = order === "asc" ? "desc" : "asc";
    this.set({ sort: name, order: sort === name ? turned : usual });
  }

  toolbar() {
    const { q, filters } = this.state;
    const toggle = (name) => this.set({ filters: filters.includes(name) ? filters.filter((other) => other !== name) : [...filters, name] });
    return html`<div class="toolbar" role="search">
      <input
        ref=${(element) => (this.field = element ?? this.field)}
        type="search"
        aria-label="Search limits by name"
        placeholder="Search by name  ( / )"
        value=${q}
        onInput=${(event) => this.set({ q: event.target.value })}
      />
      <div class="filters" role="group" aria-label="Show only">
        ${FILTERS.map(
          ([name, label]) => html`<button key=${name} type="button" class="slight chip" data-filter=${name} aria-pressed=${filters.includes(name) ? "true" : "false"} onClick=${() => toggle(name)}>
            ${label} <span class="number">${count(this.pages.counts[name] ?? 0)}</span>
          </button>`,
        )}
      </div>
    </div>`;
  }

  head() {
    const { sort, order } = this.state;
    return html`<div class="line head" role="row">
      ${COLUMNS.map((column) => {
        const [name, label] = column;
        const sorted = name && name === sort;
        const direction = sorted ? (order === "asc" ? "ascending" : "descending") : undefined;
        return html`<div role="columnheader" key=${label} aria-sort=${name ? (direction ?? "none") : undefined}>
          ${name ? html`<button type="button" class="sort" onClick=${() => this.sortBy(column)}>${label}<span aria-hidden="true">${sorted ? (order === "asc" ? " ↑" : " ↓") : ""}</span></button>` : label}
        </div>`;
      })}
    </div>`;
  }

  rows(height) {
    const { first, last } = this.state;
    const rows = [];
    for (let index = first; index <= Math.min(last, this.pages.matching - 1); index += 1) {
      const known = this.pages.row(index);
      rows.push(html`<${Row} key=${index} index=${index} known=${known} top=${index * height} />`);
    }
    return rows;
  }

  render(_, { q, filters }) {
    const { total, matching, problem } = this.pages;
    const height = NARROW.matches ? CARD_PX : ROW_PX;
    if (total === 0 && !q && !filters.length) return html`<${Empty} />`;
    const told = total === null ? "" : matching === total ? count(total) : `${count(matching)} of ${count(total)}`;
    return html`<div>
      <div class="title"><h1>Limits <span class="muted count" role="status">${told}</span></h1><${NewButton} /></div>
      ${this.toolbar()}
      ${problem && html`<p class="refused" role="alert">${problem}</p>`}
      <div class="panel limits" role="table" aria-label="Limits" aria-rowcount=${matching + 1}>
        <div role="rowgroup" class="heads">${this.head()}</div>
        <div role="rowgroup" class="rows" ref=${(element) => (this.body = element ?? this.body)} style=${{ height: `${matching * height}px` }}>
          ${this.rows(height)}
        </div>
        ${total !== null && !matching && html`<p class="none">No limit matches. <button type="button" class="slight" onClick=${() => this.set({ q: "", filters: [] })}>Show all</button></p>`}
        ${total === null && !problem && html`<p class="none">Loading…</p>`}
      </div>
    </div>`;
  }
}

function Row({ index, known, top }) {
  const place = { role: "row", class: "line", "data-index": index, "aria-rowindex": index + 2, style: { top: `${top}px` } };
  if (!known) return html`<div ...${place}><div role="cell" class="muted">…</div></div>`;
  const row = live.rows.get(known.name) ?? known;
  const waits = row.active && row.waiting > 0;
  return html`<div ...${place}>
    <div role="cell" class="name"><${Name} name=${row.name} /></div>
    <div role="cell" class="state"><${State} row=${row} /><${Origin} row=${row} /></div>
    <div role="cell" class="use" title=${barTitle(row)}><${Bar} row=${row} /><span class="figure">${count(usedNow(row, live.now()))} / ${count(row.limit)}</span></div>
    <div role="cell" class="waiting" data-label="waiting"><span class=${waits ? "hot" : "muted"}>${waits ? count(row.waiting) : "–"}</span></div>
    <div role="cell" class="oldest" data-label="oldest">${waits && row.oldest_wait_at ? html`<${Since} at=${row.oldest_wait_at} />` : html`<span class="muted">–</span>`}</div>
    <div role="cell" class="decay"><span class=${row.decay ? "cut" : "muted"} title=${row.rate}>${row.decay || "–"}</span></div>
    <div role="cell" class="sparkline"><${Spark} values=${known.spark} limit=${row.limit} /></div>
  </div>`;
}

export function NewButton() {
  return html`<${Act} kind="main" onClick=${() => go("/new")}>New limit<//>`;
}

// No limit yet: how to make the first one.
export function Empty() {
  return html`<div class="panel empty">
    <h1>No limits yet</h1>
    <p>A limit has a name and a number of slots: at most so many at the same time, across every process of this host.</p>
    <p><${NewButton} /></p>
    <p class="muted">or on the command line:</p>
    <pre tabindex="0"><code>atmost create database --limit 5</code></pre>
    <p class="muted">and then, in front of what has to wait for its turn:</p>
    <pre tabindex="0"><code>atmost run database -- ./job.sh</code></pre>
    ${live.whyNot && html`<p class="muted">${sentence(live.whyNot)}</p>`}
  </div>`;
}
