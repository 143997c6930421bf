// The server's answers. Every failure becomes a Failure with rule, value and remedy, ready to be shown; `temporary`
// says whether the same again may succeed.

const TOKEN = "macl-token";
const JSON_BODY = { "Content-Type": "application/json" };

export class Failure extends Error {
  constructor({ rule, value = "", remedy = "", status = 0, temporary = false }) {
    super(rule);
    Object.assign(this, { rule, value, remedy, status, temporary });
  }
}

// What a proxy between the page and the server says by itself, which it does not say in our form.
const OTHERS = {
  413: ["The file is too large for the server, or for a proxy before it.", "Make it smaller: scale a picture down."],
  502: ["The proxy before the server does not reach it.", "See whether macl serve is still running, then try again."],
  504: ["The proxy before the server does not reach it.", "See whether macl serve is still running, then try again."],
};

/** Where something of the API is, whatever stands before the page's own path. */
export const address = (path) => new URL(`api/v1/${path}`, document.baseURI).href;
export const token = () => sessionStorage.getItem(TOKEN);
export const setToken = (value) => sessionStorage.setItem(TOKEN, value);

export const info = () => ask("info");
export const labels = () => ask("labels");
export const item = async (id, signal) => (await ask(`items?id=${encodeURIComponent(id)}`, { signal })).item;
/** Tiles whose ids hold a text: first the one that is it, then those that end so after a slash. */
export const named = async (text, signal) => (await ask(`ids?${parameters({ like: text, limit: 8 })}`, { signal })).items;
/** How many tiles a filter leaves, and how many of them hold each label. */
export const countTiles = (filter, index, signal) =>
  ask("count", { method: "POST", body: JSON.stringify({ filter, index }), headers: JSON_BODY, signal });
export const diverse = (seed, signal) => ask(`diverse?${parameters({ seed })}`, { signal });
/** Where tiles lie in the plot; and which of them, in a box and with a filter. */
export const plot = (index, signal) => ask(index ? `plot?${parameters({ index })}` : "plot", { signal });
export const plotted = (asked, signal) =>
  ask("plot/tiles", { method: "POST", body: JSON.stringify(asked), headers: JSON_BODY, signal });
export const search = (query, signal) =>
  ask("search", {
    method: "POST",
    body: JSON.stringify(query),
    headers: JSON_BODY,
    signal,
  });

/** Where in tiles what was searched for is: rows of cosines for each. */
export const matches = async (ids, vector, index) => (await send("matches", { ids, vector, index })).matches;

function formOf(fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) for (const one of [value].flat()) form.append(name, one);
  return form;
}

const parameters = (given) => new URLSearchParams(given).toString();
const send = (path, body) =>
  ask(path, { method: "POST", body: JSON.stringify(body), headers: JSON_BODY });

export const collections = () => ask(`collections?${parameters({ limit: 200 })}`);
export const marksOf = (name, offset, limit, signal) =>
  ask(`collections/marks?${parameters({ name, offset, limit })}`, { signal });
export const round = (name, sampled, signal) => ask(`collections/round?${parameters({ name, sampled })}`, { signal });
export const mark = (body) => send("collections/marks", body);
export const relabel = (body) => send("items/labels", body);
export const deleteTile = (id) => ask(`items?${parameters({ id })}`, { method: "DELETE" });
export const rename = (name, to) => send("collections/rename", { name, new: to });
/** Takes the marks of a file into a collection. fields: file, name, mark and by. */
export const importMarks = (fields) => ask("collections/file", { method: "POST", body: formOf(fields) });
/** Adds a picture as a tile. fields: image, id, and lists of labels and new_labels. */
export const addTile = (fields) => ask("items", { method: "PUT", body: formOf(fields) });
export const toLabel = (body) => send("collections/label", body);
export const deleteCollection = (name) => ask(`collections?${parameters({ name })}`, { method: "DELETE" });

export const suggestions = (label, signal) => ask(`suggestions?${parameters({ label })}`, { signal });
export const teach = (body) => send("teach", body);
export const teaching = () => ask("teach");

/** Saves a collection as a file, as the browser saves what it downloads. */
export const download = (name, format) =>
  saved(`collections/file?${parameters({ name, format })}`, {}, `${name}.${format}`);

/** Saves the results of a query as a file. */
export const downloadResults = (query, name) =>
  saved("search", { method: "POST", body: JSON.stringify(query), headers: JSON_BODY }, `${name}.${query.format}`);

/** Saves the file of a tile. */
export const downloadTile = (id, name) => saved(`file?${parameters({ id })}`, {}, name);

async function saved(path, options, name) {
  const response = await reach(path, options);
  if (!response.ok) throw failureOf(response, await response.json().catch(() => null));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** The answer to a picture; its query.vector, where asked for, is the picture's embedding where it is the only example. */
export function searchImage(file, query, signal) {
  const body = formOf({ image: file, query: JSON.stringify(query) });
  return ask("search/image", { method: "POST", body, signal });
}

/** Shows a small picture of the server in an <img>, which cannot send a token itself; a lazy one once it is nearly seen. */
export function showPicture(image, path) {
  if (!token()) image.src = address(path);
  else if (image.loading === "lazy") {
    lazy.set(image, path);
    sight.observe(image);
  } else return fetched(image, path);
}

const lazy = new WeakMap();
const seen = (entries) =>
  entries
    .filter(({ isIntersecting }) => isIntersecting)
    .forEach(({ target }) => (sight.unobserve(target), fetched(target, lazy.get(target))));
const sight = new IntersectionObserver(seen, { rootMargin: "600px" });

async function fetched(image, path) {
  const response = await fetch(address(path), { headers: authorization() }).catch(() => null);
  if (!response?.ok) return image.dispatchEvent(new Event("error"));
  const source = URL.createObjectURL(await response.blob());
  image.addEventListener("load", () => URL.revokeObjectURL(source), { once: true });
  image.src = source;
}

async function ask(path, options = {}) {
  const response = await reach(path, options);
  const body = await response.json().catch(() => null);
  if (response.ok && body) return body;
  throw failureOf(response, body);
}

async function reach(path, options = {}) {
  try {
    return await fetch(address(path), { ...options, headers: { ...options.headers, ...authorization() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure({
      rule: "The server does not answer.",
      remedy: "See whether macl serve is still running and this machine is connected, then try again.",
      temporary: true,
    });
  }
}

function failureOf({ status }, body) {
  const told = body?.error;
  const other = [`The server answered with status ${status}.`, "The server's log says more."];
  const [rule, remedy] = OTHERS[status] ?? other;
  return new Failure({
    rule: told?.rule ?? rule,
    value: told?.value === undefined || told.value === null ? "" : String(told.value),
    remedy: told?.remedy ?? remedy,
    status,
    temporary: [401, 408, 429].includes(status) || status >= 500,
  });
}

const authorization = () => (token() ? { Authorization: `Bearer ${token()}` } : {});
