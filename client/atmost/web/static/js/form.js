// The form of a limit, new or known. It checks while one types, says what would happen, shows the daemon's
// own refusal beside its field, and never loses what was typed.
import { html, Component } from "./html.js";
import { api, limitPath } from "./api.js";
import { plural, sentence } from "./format.js";
import { live } from "./live.js";
import { oneLine } from "./marks.js";
import { go, linkTo } from "./router.js";
import { decayOf, wrongDecay, wrongLimit, wrongName } from "./rules.js";
import { say } from "./toasts.js";

const PAUSE_MS = 200; // after a key, before the daemon is asked
const LOOK_MS = 2000; // and again, since others go on
const FIELD = { name: "name", limit: "limit", rate: "decay", slot_decay_per_second: "decay", active: "active" };
const EMPTY = { name: "", limit: "1", decay: "", active: true };
let draft = EMPTY; // of a new limit, until it is made

// "5 slots, 1 every 2 s, active"
export function settings(row) {
  return [plural(row.limit, "slot"), row.decay || "no decay", row.active ? "active" : "inactive"].join(", ");
}

function typed(row) {
  return row ? { name: row.name, limit: String(row.limit), decay: row.rate, active: row.active } : draft;
}

export class LimitForm extends Component {
  state = { base: this.props.row, told: "", wrong: {}, touched: {}, refused: "", busy: false, ...typed(this.props.row) };

  componentDidMount() {
    this.looking = setInterval(() => this.look(), LOOK_MS);
    this.look();
    this.first?.focus();
    this.first?.select();
  }

  componentWillUnmount() {
    clearInterval(this.looking);
    clearTimeout(this.pause);
    this.asked?.abort();
  }

  // Another one's settings, if they came since this form was opened or last looked at.
  meanwhile() {
    const { base } = this.state;
    if (!base) return null;
    const now = this.state.now ?? live.rows.get(base.name);
    return now && now.version !== base.version ? now : null;
  }

  type(field, value) {
    const { name, limit, decay, active } = { ...this.state, [field]: value };
    if (!this.props.row) draft = { name, limit, decay, active };
    const wrong = { ...this.state.wrong, [field]: "" };
    this.setState({ [field]: value, touched: { ...this.state.touched, [field]: true }, wrong, refused: "" });
    clearTimeout(this.pause);
    this.pause = setTimeout(() => this.look(), PAUSE_MS);
  }

  // What is wrong by the rules, or by the daemon's word for just this value.
  wrongs() {
    const { base, name, limit, decay, wrong, told } = this.state;
    const rules = { name: base ? "" : wrongName(name), limit: wrongLimit(limit), decay: wrongDecay(decay), active: "" };
    return { rules, shown: Object.fromEntries(Object.keys(rules).map((field) => [field, rules[field] || wrong[field] || ""])), told };
  }

  body() {
    const { base, name, limit, decay, active } = this.state;
    if (!base) return { name, limit: Number(limit), ...decayOf(decay), active };
    const body = {};
    if (Number(limit) !== base.limit) body.limit = Number(limit);
    if (decay.trim() !== base.rate) Object.assign(body, decayOf(decay));
    if (active !== base.active) body.active = active;
    return body;
  }

  look = async () => {
    const { rules } = this.wrongs();
    if (Object.values(rules).some(Boolean) || live.whyNot) return this.setState({ told: "" });
    this.asked?.abort();
    const asked = (this.asked = new AbortController());
    const body = this.body();
    const path = this.state.base ? limitPath(this.state.base.name, "/preview") : "/api/preview";
    try {
      const { words } = await api.post(path, body, { signal: asked.signal });
      if (asked === this.asked) this.setState({ told: words, wrong: {} });
    } catch (problem) {
      if (problem.name !== "AbortError" && asked === this.asked) this.refuse(problem, false);
    }
  };

  refuse(problem, aloud) {
    const field = problem.code === "limit_exists" ? "name" : FIELD[problem.fields?.field];
    if (problem.code === "changed_meanwhile") return this.setState({ now: problem.fields.now, gone: !problem.fields.now });
    if (field) this.setState({ wrong: { [field]: problem.detail }, told: "" });
    else this.setState({ refused: aloud ? problem.detail : this.state.refused, told: "" });
  }

  submit = async (event) => {
    event.preventDefault();
    this.setState({ touched: { name: true, limit: true, decay: true } });
    const { rules } = this.wrongs();
    const first = Object.keys(rules).find((field) => rules[field]);
    if (first) return document.getElementById(`field-${first}`)?.focus();
    if (this.state.busy || live.whyNot) return;
    const { base } = this.state;
    const body = this.body();
    if (base && !Object.keys(body).length) return this.props.onDone(base);
    this.setState({ busy: true, refused: "" });
    try {
      const row = await (base ? api.patch(limitPath(base.name), body, { version: base.version }) : api.post("/api/limits", body));
      if (!base) draft = EMPTY;
      live.take(row);
      live.changes += 1;
      say(`${oneLine(row.name)}: ${settings(row)}.`);
      this.props.onDone(row);
    } catch (problem) {
      this.refuse(problem, true);
      this.setState({ busy: false });
    }
  };

  field(name, label, hint, more = {}) {
    const { shown } = this.wrongs();
    const wrong = shown[name] && (this.state.touched[name] || this.state.wrong[name]) ? shown[name] : "";
    return html`<div class="field">
      <label for="field-${name}">${label}</label>
      <input
        id="field-${name}"
        name=${name}
        type="text"
        autocomplete="off"
        spellcheck=${false}
        value=${this.state[name]}
        aria-invalid=${wrong ? "true" : undefined}
        aria-describedby="hint-${name} wrong-${name}"
        onInput=${(event) => this.type(name, event.target.value)}
        ...${more}
      />
      <p class="hint" id="hint-${name}">${hint}</p>
      <p class="wrong" id="wrong-${name}" aria-live="polite">${wrong}</p>
    </div>`;
  }

  meanwhileNote(now) {
    const take = () => this.setState({ base: now, now: null, ...typed(now), wrong: {} }, this.look);
    const keep = () => this.setState({ base: now, now: null }, this.look);
    return html`<div class="meanwhile" role="alert">
      <p><strong>It changed meanwhile.</strong> It is now: ${settings(now)}. You began with: ${settings(this.state.base)}. What you typed is still here.</p>
      <p class="row">
        <button type="button" class="slight" onClick=${take}>Start from theirs</button>
        <button type="button" class="slight" onClick=${keep}>Keep mine</button>
      </p>
    </div>`;
  }

  render({ row, onCancel }, { base, active, told, refused, busy, gone }) {
    const off = live.whyNot;
    const now = this.meanwhile();
    const title = base ? html`Edit <bdi class="called">${oneLine(base.name)}</bdi>` : "New limit";
    const first = (element) => (this.first ??= element);
    return html`<form class="limit-form" onSubmit=${this.submit} novalidate>
      <h2 id="dialog-title">${title}</h2>
      ${now && this.meanwhileNote(now)}
      ${gone && html`<p class="refused" role="alert">It was deleted meanwhile. What you typed is still here.</p>`}
      ${!base && this.field("name", "Name", "What code asks for, such as database.", { ref: first, maxlength: 400 })}
      ${this.field("limit", "Slots", "How many may be occupied at the same time.", { inputmode: "numeric", ref: row ? first : undefined })}
      ${this.field("decay", "Slots come back at", "For rate limits: 100/min, 2/s or 0.5 (a second). Empty: only when they are let go.", { placeholder: "no decay" })}
      <div class="field check">
        <input type="checkbox" id="field-active" checked=${active} onChange=${(event) => this.type("active", event.target.checked)} />
        <label for="field-active">Active</label>
        <span class="hint">Inactive: not enforced, nobody waits.</span>
      </div>
      <p class="foretold ${told ? "" : "quiet"}" aria-live="polite" data-what="foretold">${told ? sentence(told) : "\u00a0"}</p>
      ${refused && html`<p class="refused" role="alert">${refused}</p>`}
      ${off && html`<p class="refused" role="alert">${off}</p>`}
      <div class="buttons">
        <button type="button" onClick=${onCancel}>Cancel</button>
        <button type="submit" class="main" aria-disabled=${busy || off ? "true" : undefined}>${base ? "Save" : "Create"}</button>
      </div>
    </form>`;
  }
}

export function NewLimit() {
  return html`<div class="panel narrow"><div class="body">
    <${LimitForm} row=${null} onCancel=${() => go("/limits")} onDone=${(row) => go(linkTo(row.name))} />
  </div></div>`;
}
