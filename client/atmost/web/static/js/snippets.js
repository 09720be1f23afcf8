// The code that asks for this limit, to be copied.
import { html, Component } from "./html.js";
import { say } from "./toasts.js";

const KINDS = [
  ["sync", "Python"],
  ["asyncio", "async Python"],
  ["command", "Command"],
];

export class Snippets extends Component {
  state = { kind: "sync" };

  copy = async () => {
    try {
      await navigator.clipboard.writeText(this.props.snippets[this.state.kind]);
      say("Copied.");
    } catch {
      say("The browser does not let the page copy: mark the text and copy it by hand.", true);
    }
  };

  render({ snippets }, { kind }) {
    return html`<div class="panel">
      <header>
        <h2>In your code</h2>
        <div class="choice" role="group" aria-label="Kind of code">
          ${KINDS.map(([name, label]) => html`<button key=${name} type="button" aria-pressed=${name === kind ? "true" : "false"} onClick=${() => this.setState({ kind: name })}>${label}</button>`)}
        </div>
      </header>
      <div class="body snippet"><pre tabindex="0" aria-label="Code for this limit"><code>${snippets[kind]}</code></pre><button type="button" class="slight" onClick=${this.copy}>Copy</button></div>
    </div>`;
  }
}
