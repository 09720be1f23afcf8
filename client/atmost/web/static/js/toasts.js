// Short news of what an act did, read out by screen readers too.
import { html, Component } from "./html.js";

const SHOWN_MS = 6000;
const SHOWN_MAX = 4;

let toasts = [];
let draw = () => {};
let numbers = 0;

export function say(text, bad = false) {
  const toast = { number: (numbers += 1), text, bad };
  toasts = [...toasts, toast].slice(-SHOWN_MAX);
  draw();
  if (!bad) setTimeout(() => drop(toast), SHOWN_MS); // bad news stays until it was read
}

function drop(toast) {
  toasts = toasts.filter((other) => other !== toast);
  draw();
}

export class Toasts extends Component {
  componentDidMount() {
    draw = () => this.setState({});
  }

  render() {
    return html`<div class="toasts" role="status" aria-live="polite">
      ${toasts.map(
        (toast) => html`<div key=${toast.number} class="toast ${toast.bad ? "bad" : ""}">
          <span class="grow">${toast.text}</span>
          <button type="button" aria-label="Dismiss" onClick=${() => drop(toast)}>✕</button>
        </div>`,
      )}
    </div>`;
  }
}
