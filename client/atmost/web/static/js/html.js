// Preact and htm as the rest of the page uses them: html`<p>${text}</p>`.
// Rule: text goes in as a value, never as markup; nothing here or elsewhere sets innerHTML.
import { h, render, Component, Fragment } from "../vendor/preact/preact.mjs";
import htm from "../vendor/htm/htm.mjs";

export const html = htm.bind(h);
export { render, Component, Fragment };
