// What one does to a limit: each act says before what will happen, and after what did, in the daemon's words.
import { html, Component } from "./html.js";
import { api, limitPath } from "./api.js";
import { close, show } from "./dialog.js";
import { count, plural, sentence, slots } from "./format.js";
import { live } from "./live.js";
import { oneLine, spentNow } from "./marks.js";
import { say } from "./toasts.js";
import { go } from "./router.js";
import { LimitForm, settings } from "./form.js";

const LOOK_MS = 1000; // what would happen changes while one thinks

// Asks, saying what would happen. `foretell()` gives a sentence; `run(version)` does it.
class Ask extends Component {
  state = { words: "", problem: "", busy: false, version: this.props.version };

  componentDidMount() {
    this.look();
    this.looking = setInterval(() => this.look(), LOOK_MS);
  }

  componentWillUnmount() {
    clearInterval(this.looking);
  }

  look = async () => {
    try {
      this.setState({ words: await this.props.foretell() });
    } catch (problem) {
      this.setState({ words: problem.detail });
    }
  };

  run = async (event) => {
    event.preventDefault();
    if (this.state.busy || live.whyNot) return;
    this.setState({ busy: true, problem: "" });
    try {
      await this.props.run(this.state.version);
      close();
      this.props.done?.();
    } catch (problem) {
      const now = problem.code === "changed_meanwhile" && problem.fields.now;
      const text = now ? `It changed meanwhile: ${settings(now)} now. Press again if you still want to.` : problem.detail;
      this.setState((before) => ({ busy: false, problem: text, version: now ? now.version : before.version }));
    }
  };

  render({ title, verb, danger }, { words, problem, busy }) {
    const off = live.whyNot;
    return html`<form onSubmit=${this.run}>
      <h2 id="dialog-title">${title}</h2>
      <p class="foretold" aria-live="polite">${words || "…"}</p>
      ${problem && html`<p class="refused" role="alert">${problem}</p>`}
      ${off && html`<p class="refused" role="alert">${off}</p>`}
      <div class="buttons">
        <button type="button" onClick=${close} autofocus=${danger}>Cancel</button>
        <button type="submit" class=${danger ? "danger" : "main"} aria-disabled=${busy || off ? "true" : undefined} autofocus=${!danger}>${verb}</button>
      </div>
    </form>`;
  }
}

function called(name) {
  return html`<bdi class="called">${oneLine(name)}</bdi>`;
}

async function foretold(name, change) {
  return sentence((await api.post(limitPath(name, "/preview"), change)).words);
}

export function askDelete(row) {
  show(html`<${Ask}
    title=${html`Delete ${called(row.name)}?`}
    verb="Delete"
    danger
    version=${row.version}
    foretell=${() => foretold(row.name, { delete: true })}
    run=${(version) => api.remove(limitPath(row.name), { version })}
    done=${() => {
      live.rows.delete(row.name);
      live.changes += 1;
      go("/limits");
      say(`${oneLine(row.name)} is deleted.`);
    }}
  />`);
}

export function askActive(row, active) {
  show(html`<${Ask}
    title=${html`${active ? "Enable" : "Disable"} ${called(row.name)}?`}
    verb=${active ? "Enable" : "Disable"}
    version=${row.version}
    foretell=${() => foretold(row.name, { active })}
    run=${async (version) => live.take(await api.patch(limitPath(row.name), { active }, { version }))}
    done=${() => say(`${oneLine(row.name)} is ${active ? "enforced now" : "not enforced any more"}.`)}
  />`);
}

export function askReset(row) {
  const words = () => {
    const now = live.rows.get(row.name) ?? row;
    const spent = slots(spentNow(now, live.now()));
    const waiting = now.waiting ? ` ${plural(now.waiting, "request")} ${now.waiting === 1 ? "waits" : "wait"} here.` : "";
    return Promise.resolve(`${spent} spent ${spent === "1" ? "slot is" : "slots are"} free at once; what is held stays held.${waiting}`);
  };
  show(html`<${Ask}
    title=${html`Reset what is spent of ${called(row.name)}?`}
    verb="Reset"
    foretell=${words}
    run=${async () => live.take(await api.post(limitPath(row.name, "/reset")))}
    done=${() => say(`Nothing is spent of ${oneLine(row.name)} any more.`)}
  />`);
}

export function askRelease(holder, name) {
  const waiting = () => live.rows.get(name)?.waiting ?? 0;
  const who = `pid ${holder.pid} (${oneLine(holder.user)}, ${oneLine(holder.command)})`;
  show(html`<${Ask}
    title=${html`Take back ${plural(holder.slots, "slot")} of ${called(name)}?`}
    verb="Release"
    danger
    foretell=${() =>
      Promise.resolve(
        `\u2068${who}\u2069 runs on, and is told that it has lost what it holds. Others may be inside with it: ${count(waiting())} waiting here.`,
      )}
    run=${() => api.remove(`/api/grants/${holder.token}`)}
    done=${() => say(`${plural(holder.slots, "slot")} of ${oneLine(name)} taken back from pid ${holder.pid}.`)}
  />`);
}

export function edit(row) {
  show(html`<${LimitForm} row=${row} onCancel=${close} onDone=${close} />`);
}

// One click: a slot more, or less.
export async function step(row, by) {
  const limit = row.limit + by;
  try {
    const now = live.take(await api.patch(limitPath(row.name), { limit }, { version: row.version }));
    say(`${oneLine(row.name)}: ${plural(now.limit, "slot")}.`);
  } catch (problem) {
    const now = problem.code === "changed_meanwhile" && problem.fields.now;
    if (now) live.take(now);
    say(now ? `${oneLine(row.name)} changed meanwhile, and was left as it is: ${settings(now)}.` : problem.detail, true);
  }
  live.changed();
}
