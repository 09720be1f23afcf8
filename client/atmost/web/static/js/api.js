// The JSON API of the web process, as promises. What goes wrong is a Problem, whose `detail` is for people.

export class Problem extends Error {
  constructor(status, code, detail, fields = {}) {
    super(detail);
    this.status = status;
    this.code = code;
    this.detail = detail;
    this.fields = fields;
  }
}

// A name as a part of a path. A browser takes "." and ".." for folders, however they are escaped once.
export function inPath(name) {
  return name === "." || name === ".." ? name.replaceAll(".", "%252e") : encodeURIComponent(name);
}

export function limitPath(name, rest = "") {
  return `/api/limits/${inPath(name)}${rest}`;
}

async function call(method, path, { body, version, signal } = {}) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (version) headers["If-Match"] = `"${version}"`;
  let answer;
  try {
    answer = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "no_answer", "The web process does not answer. Is `atmost web` still running?");
  }
  const text = await answer.text();
  if (answer.ok) return text ? JSON.parse(text) : null;
  throw problemOf(answer, text);
}

function problemOf(answer, text) {
  try {
    const told = JSON.parse(text);
    return new Problem(answer.status, told.code ?? "", told.detail ?? told.title, told.fields ?? {});
  } catch {
    return new Problem(answer.status, "", `The web process answered ${answer.status} ${answer.statusText}.`);
  }
}

export const api = {
  get: (path, options) => call("GET", path, options),
  post: (path, body = {}, options) => call("POST", path, { body, ...options }),
  patch: (path, body, options) => call("PATCH", path, { body, ...options }),
  remove: (path, options) => call("DELETE", path, options),
};
