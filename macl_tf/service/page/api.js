// The server's answers. Every failure becomes a Failure with rule, value and remedy, ready to be shown.

const TOKEN = "macl-token";

export class Failure extends Error {
  constructor({ rule, value = "", remedy = "", status = 0 }) {
    super(rule);
    Object.assign(this, { rule, value, remedy, status });
  }
}

export const address = (path) => new URL(path.replace(/^\//, ""), document.baseURI).href;
export const token = () => sessionStorage.getItem(TOKEN);
export const setToken = (value) => sessionStorage.setItem(TOKEN, value);

export const info = () => ask("api/v1/info");
export const labels = () => ask("api/v1/labels");
export const item = async (id, signal) => (await ask(`api/v1/items?id=${encodeURIComponent(id)}`, { signal })).item;
export const search = (query, signal) =>
  ask("api/v1/search", {
    method: "POST",
    body: JSON.stringify(query),
    headers: { "Content-Type": "application/json" },
    signal,
  });

/** The answer to a picture; its query.vector is the picture's embedding where it is the only example. */
export function searchImage(file, query, signal) {
  const body = new FormData();
  body.append("image", file);
  body.append("query", JSON.stringify(query));
  return ask("api/v1/search/image", { method: "POST", body, signal });
}

/** Shows a small picture of the server in an <img>, which cannot send a token itself. */
export async function showPicture(image, path) {
  if (!token()) {
    image.src = address(path);
    return;
  }
  const response = await fetch(address(path), { headers: authorization() }).catch(() => null);
  if (!response?.ok) return;
  const source = URL.createObjectURL(await response.blob());
  image.addEventListener("load", () => URL.revokeObjectURL(source), { once: true });
  image.src = source;
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(address(path), { ...options, headers: { ...options.headers, ...authorization() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure({
      rule: "The server does not answer.",
      remedy: "See whether macl serve is still running and this machine is connected, then try again.",
    });
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body) return body;
  const told = body?.error;
  throw new Failure({
    rule: told?.rule ?? `The server answered with status ${response.status}.`,
    value: told?.value === undefined || told.value === null ? "" : String(told.value),
    remedy: told?.remedy ?? "Try again; if it stays so, the server's log says more.",
    status: response.status,
  });
}

const authorization = () => (token() ? { Authorization: `Bearer ${token()}` } : {});
