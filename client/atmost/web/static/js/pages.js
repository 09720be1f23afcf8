// A long list in parts: the parts that are seen are fetched, kept, and fetched again when they may have
// changed. What is on the screen stays there until the new answer has come.
import { api } from "./api.js";
import { live } from "./live.js";

const PART = 100; // rows
const PARTS_KEPT = 30;
const AGAIN_MS = 1000; // at most so often for changes
const SPARKS_MS = 20000; // and so often for the small charts

export class Pages {
  total = null; // of all limits; null: not known yet
  matching = 0;
  counts = {};
  problem = "";
  #query = "";
  #parts = new Map(); // number -> {rows, at, changes}
  #asking = new Set();
  #first = 0;
  #last = 0;
  #draw;

  constructor(draw) {
    this.#draw = draw;
    this.timer = setInterval(() => this.#refresh(), AGAIN_MS);
  }

  close() {
    clearInterval(this.timer);
  }

  ask(query) {
    if (query === this.#query) return;
    this.#query = query;
    this.#asking.clear();
    for (const part of this.#parts.values()) part.at = -Infinity; // shown until the new ones are there
    this.want(0, PART - 1);
  }

  // These rows are seen.
  want(first, last) {
    [this.#first, this.#last] = [first, last];
    for (const number of this.#seen()) if (!this.#fresh(number)) this.#fetch(number);
  }

  row(index) {
    return this.#parts.get(Math.floor(index / PART))?.rows[index % PART];
  }

  #seen() {
    const parts = [];
    for (let number = Math.floor(this.#first / PART); number <= Math.floor(this.#last / PART); number += 1) parts.push(number);
    return parts;
  }

  #fresh(number) {
    const part = this.#parts.get(number);
    return part && part.query === this.#query && performance.now() - part.at < SPARKS_MS;
  }

  #refresh() {
    if (document.hidden || live.lost) return;
    for (const number of this.#seen()) {
      const part = this.#parts.get(number);
      if (!this.#fresh(number) || part.changes !== live.changes) this.#fetch(number);
    }
  }

  async #fetch(number) {
    const [query, key] = [this.#query, `${this.#query} ${number}`];
    if (this.#asking.has(key)) return;
    this.#asking.add(key);
    const changes = live.changes;
    try {
      const told = await api.get(`/api/limits?${query}&offset=${number * PART}&count=${PART}`);
      if (query !== this.#query) return;
      this.problem = "";
      this.#take(number, told, changes);
    } catch (problem) {
      if (query === this.#query) this.problem = problem.detail;
    } finally {
      this.#asking.delete(key);
      this.#draw();
    }
  }

  #take(number, told, changes) {
    Object.assign(this, { total: told.total, matching: told.matching, counts: told.counts });
    for (const [other, part] of this.#parts) if (part.query !== this.#query) this.#parts.delete(other);
    this.#parts.delete(number); // and in again, as the newest
    this.#parts.set(number, { rows: told.limits, at: performance.now(), changes, query: this.#query });
    for (const other of this.#parts.keys()) if (this.#parts.size > PARTS_KEPT) this.#parts.delete(other);
    if (live.rows.size > 5000) live.rows.clear(); // of limits once seen in a list of very many
    for (const row of told.limits) live.take(row);
  }
}
