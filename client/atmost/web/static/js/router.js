// Which view a path is, and links that change it without a new page.
import { inPath } from "./api.js";

export function viewOf(path) {
  if (path === "/" || path === "/limits" || path === "/limits/") return { view: "limits" };
  if (path === "/overview") return { view: "overview" };
  if (path === "/new") return { view: "new" };
  const found = /^\/limits\/([^/]+)\/?$/.exec(path);
  if (!found) return { view: "nowhere" };
  try {
    const name = decodeURIComponent(found[1]);
    return { view: "limit", name: /^(%2e){1,2}$/i.test(name) ? decodeURIComponent(name) : name };
  } catch {
    return { view: "nowhere" };
  }
}

export function linkTo(name) {
  return `/limits/${inPath(name)}`;
}

export function go(path, replace = false) {
  if (replace) history.replaceState(null, "", path);
  else history.pushState(null, "", path);
  dispatchEvent(new PopStateEvent("popstate"));
}

// Every plain click on a link within the page.
export function followLinks() {
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.target.closest?.("a[href]");
    if (!link || link.target || link.origin !== location.origin || link.hash) return;
    if (viewOf(link.pathname).view === "nowhere") return;
    event.preventDefault();
    go(link.pathname + link.search);
  });
}
