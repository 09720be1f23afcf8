// The page: which view is shown, the frame around it, and the banner when the daemon or the web process is gone.
import { html, render, Component } from "./html.js";
import { Dialogs, close } from "./dialog.js";
import { sentence } from "./format.js";
import { NewLimit } from "./form.js";
import { LimitPage } from "./limit.js";
import { LimitList } from "./list.js";
import { live } from "./live.js";
import { Since, oneLine } from "./marks.js";
import { Overview } from "./overview.js";
import { followLinks, viewOf } from "./router.js";
import { Toasts } from "./toasts.js";

const TITLES = { limits: "Limits", overview: "Overview", new: "New limit", nowhere: "No such page" };

class App extends Component {
  state = { at: viewOf(location.pathname) };

  componentDidMount() {
    live.listen(() => this.setState({}));
    addEventListener("popstate", () => this.move());
    followLinks();
    this.arrive();
  }

  move() {
    const at = viewOf(location.pathname);
    const { view, name } = this.state.at;
    if (at.view === view && at.name === name) return;
    close();
    this.setState({ at }, () => {
      this.arrive();
      scrollTo(0, 0);
      const main = document.getElementById("main");
      // The link that had the focus is gone; a form may have taken it already.
      if (!main.contains(document.activeElement)) main.focus({ preventScroll: true });
    });
  }

  arrive() {
    const { view, name } = this.state.at;
    live.watch(view === "limit" ? name : undefined);
    document.title = `${view === "limit" ? oneLine(name) : TITLES[view]} · atmost`;
  }

  render(_, { at }) {
    return html`<div class=${live.stale ? "stale" : ""}>
      <a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), document.getElementById("main").focus())}>Skip to content</a>
      <${Header} view=${at.view} />
      <${Banner} />
      <main class="wide" id="main" tabindex="-1"><${View} at=${at} /></main>
      <${Dialogs} />
      <${Toasts} />
    </div>`;
  }
}

function View({ at }) {
  if (at.view === "limits") return html`<${LimitList} />`;
  if (at.view === "overview") return html`<${Overview} />`;
  if (at.view === "new") return html`<${NewLimit} />`;
  if (at.view === "limit") return html`<${LimitPage} key=${at.name} name=${at.name} />`;
  return html`<div class="panel empty"><h1>No such page</h1><p><a class="button" href="/limits">All limits</a></p></div>`;
}

function Header({ view }) {
  const here = (name) => (name === view ? "page" : undefined);
  const [word, mark] = live.stale ? ["not connected", "bad"] : live.daemon ? ["live", "good"] : ["connecting", ""];
  return html`<header class="topbar">
    <div class="wide">
      <a class="brand" href="/limits"><${Logo} />atmost</a>
      <nav aria-label="Views"><a href="/limits" aria-current=${view === "limit" ? "true" : here("limits")}>Limits</a><a href="/overview" aria-current=${here("overview")}>Overview</a></nav>
      <span class="link-state" title=${live.daemon?.socket ?? ""} data-state=${mark}><i class="dot ${mark}"></i><span>${word}</span></span>
    </div>
  </header>`;
}

function Logo() {
  return html`<svg viewBox="0 0 24 24" aria-hidden="true"><rect class="logo-a" x="1" y="3" width="22" height="4.6" rx="1.6" /><rect class="logo-b" x="1" y="9.7" width="15" height="4.6" rx="1.6" /><rect class="logo-c" x="1" y="16.4" width="22" height="4.6" rx="1.6" /></svg>`;
}

function Banner() {
  const { daemon } = live;
  if (!live.stale) return html`<div role="alert"></div>`;
  return html`<div role="alert">
    <div class="banner"><div class="wide">
      ${live.lost
        ? html`<p><strong>Not connected.</strong> ${sentence(live.lost)} What is shown is the last that was known.</p>`
        : html`<p><strong>The daemon is gone</strong> (for <${Since} at=${daemon.since} />). ${sentence(daemon.why)} What is shown is the last that was known; it comes back by itself.</p>`}
    </div></div>
  </div>`;
}

const page = document.getElementById("page");
page.replaceChildren();
render(html`<${App} />`, page);
