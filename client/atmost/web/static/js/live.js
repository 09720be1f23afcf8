// What is known now: one EventSource, and the state that it feeds. Everything drawn from it is drawn at
// most 4 times a second, however much happens. When the daemon or the web process is gone, what was known
// last stays, marked as such, until it is back.
import { api } from "./api.js";

const DRAW_MS = 250;
const TICK_MS = 1000; // ages go on by themselves
const LOST_MS = 1200; // a reconnect that takes less is told to nobody
const RETRY_MS = 5000; // after an answer that makes EventSource give up
const EVENTS_KEPT = 100;

class Live {
  daemon = null;
  rights = { may_change: false, why_not: "Not connected yet." };
  totals = null;
  watchingSince = null;
  detail = null; // of the limit that is watched; {gone: true} if there is none
  events = []; // newest first
  rows = new Map(); // name -> LimitRow, as far as told
  lost = ""; // why the stream is away
  changes = 0; // counts what may have changed the order of a list
  #limit = undefined;
  #watching = false;
  #source = null;
  #skew = 0;
  #listeners = new Set();
  #drawn = 0;
  #drawing = null;
  #losing = null;
  #retrying = null;

  constructor() {
    setInterval(() => this.changed(), TICK_MS);
    // A browser has six connections to a host, for all its tabs and the pages behind them that it keeps: who
    // is not looked at gives its own back.
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#rest() : this.#open()));
    addEventListener("pagehide", () => this.#rest());
    addEventListener("pageshow", (event) => event.persisted && this.#open());
  }

  // The clock of the web process: ages are right also where the reader's clock is not.
  now() {
    return Date.now() / 1000 + this.#skew;
  }

  listen(draw) {
    this.#listeners.add(draw);
    return () => this.#listeners.delete(draw);
  }

  // Something is to be drawn: soon, but never sooner than DRAW_MS after the last time.
  changed() {
    if (this.#drawing !== null) return;
    const wait = Math.max(0, this.#drawn + DRAW_MS - performance.now());
    this.#drawing = setTimeout(() => {
      this.#drawing = null;
      this.#drawn = performance.now();
      for (const draw of this.#listeners) draw();
    }, wait);
  }

  // Watch everything, or also one limit closely.
  watch(limit) {
    if (this.#watching && limit === this.#limit) return;
    this.#watching = true;
    this.#limit = limit;
    this.detail = null;
    this.events = [];
    this.#open();
  }

  get stale() {
    return this.lost !== "" || this.daemon?.state === "gone";
  }

  // Why nothing can be changed now, or "".
  get whyNot() {
    if (this.lost) return this.lost;
    if (this.daemon?.state === "gone") return "The daemon is gone; nothing can be changed until it is back.";
    return this.rights.may_change ? "" : this.rights.why_not;
  }

  take(row) {
    const known = this.rows.get(row.name);
    if (!known || known.at <= row.at) this.rows.set(row.name, row);
    return this.rows.get(row.name);
  }

  #open() {
    this.#rest();
    if (!this.#watching || document.hidden) return;
    const query = this.#limit === undefined ? "" : `?limit=${encodeURIComponent(this.#limit)}`;
    const source = new EventSource(`/api/stream${query}`);
    this.#source = source;
    for (const kind of ["snapshot", "changes", "detail", "events", "daemon"]) {
      source.addEventListener(kind, (event) => {
        if (source !== this.#source) return;
        this.#found();
        this[`_${kind}`](JSON.parse(event.data));
        this.changed();
      });
    }
    source.onopen = () => source === this.#source && this.#found();
    source.onerror = () => source === this.#source && this.#failed(source);
  }

  #rest() {
    clearTimeout(this.#retrying);
    this.#source?.close();
    this.#source = null;
  }

  #found() {
    clearTimeout(this.#losing);
    this.#losing = null;
    if (this.lost) this.changed();
    this.lost = "";
  }

  #failed(source) {
    this.#losing ??= setTimeout(() => this.#tellLoss(), LOST_MS);
    if (source.readyState === EventSource.CLOSED) {
      clearTimeout(this.#retrying);
      this.#retrying = setTimeout(() => this.#open(), RETRY_MS);
    }
  }

  async #tellLoss() {
    const losing = this.#losing;
    let why = "The stream of changes was cut off, or too many pages are open; trying again.";
    try {
      await api.get("/api/session");
    } catch (problem) {
      why = problem.status === 401 ? "This browser is not let in: open the address that `atmost web` printed." : problem.detail;
    }
    if (this.#losing !== losing) return; // it is back
    this.#losing = null; // the next failure asks again: the reason may be another by then
    this.lost = why;
    this.changed();
  }

  _snapshot(told) {
    this.#skew = told.now - Date.now() / 1000;
    Object.assign(this, { daemon: told.daemon, rights: told.rights, totals: told.totals });
    this.watchingSince = told.watching_since;
    this.rows = new Map((told.limits ?? []).map((row) => [row.name, row]));
    this.changes += 1;
  }

  _changes(told) {
    this.#skew = told.now - Date.now() / 1000;
    this.totals = told.totals;
    for (const row of told.limits) this.rows.set(row.name, row);
    for (const name of told.deleted) this.rows.delete(name);
    this.changes += 1;
  }

  _detail(told) {
    this.detail = told;
    if (told.limit) this.take(told.limit);
    if (told.events) this.events = told.events;
  }

  _events(told) {
    this.events = [...told.events.toReversed(), ...this.events].slice(0, EVENTS_KEPT);
  }

  _daemon(told) {
    this.daemon = told;
    if (told.rights) this.rights = told.rights;
  }
}

export const live = new Live();
