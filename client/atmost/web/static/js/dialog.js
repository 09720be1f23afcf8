// Dialogs: one at a time, over whatever is shown. The browser's own element keeps the focus inside, closes
// on Escape and gives the focus back.
import { html, Component } from "./html.js";

let current = null;
let draw = () => {};

export function show(content) {
  current = content;
  draw();
}

export function close() {
  show(null);
}

export class Dialogs extends Component {
  componentDidMount() {
    draw = () => this.setState({});
  }

  render() {
    return current && html`<${Modal}>${current}<//>`;
  }
}

class Modal extends Component {
  componentDidMount() {
    this.element.showModal();
  }

  componentWillUnmount() {
    this.element.close();
  }

  render({ children }) {
    return html`<dialog
      ref=${(element) => (this.element = element ?? this.element)}
      aria-labelledby="dialog-title"
      onClose=${() => current && close()}
    >
      ${children}
    </dialog>`;
  }
}
