// Dialogs: one at a time, over whatever is shown. The browser's own element keeps the focus inside, closes
// on Escape and gives the focus back.
import { html, Component } from "./html.js";

let current = null; // {number, content}
let draw = () => {};
let numbers = 0;

export function show(content) {
  current = { number: (numbers += 1), content };
  draw();
}

export function close() {
  current = null;
  draw();
}

// The browser tells a little later that it has closed one: there may be another by then.
function closed(number) {
  if (current?.number === number) close();
}

export class Dialogs extends Component {
  componentDidMount() {
    draw = () => this.setState({});
  }

  render() {
    return current && html`<${Modal} key=${current.number} number=${current.number}>${current.content}<//>`;
  }
}

class Modal extends Component {
  componentDidMount() {
    this.element.showModal();
  }

  componentWillUnmount() {
    this.element.close();
  }

  render({ number, children }) {
    return html`<dialog
      ref=${(element) => (this.element = element ?? this.element)}
      aria-labelledby="dialog-title"
      onClose=${() => closed(number)}
    >
      ${children}
    </dialog>`;
  }
}
