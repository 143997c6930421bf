// A search and its link: what is searched for and how it is shown follow from the URL's fragment.
//
//   #like=ship01.jpg&unlike=dock7.jpg&any_of=ship&any_of=dock&none_of=cars&since=2020-01-01&bbox=5,45,10,50&k=48&map
//
// view=<lat>,<lon>,<zoom> is where the map was moved to. plot shows the plot, within=<left>,<top>,<right>,<bottom> the
// tiles in a box of it, in shares of its sides.
//
// collection=<name> searches from the tiles of a collection, with marks it shows these, and with round those that are
// to be marked next, random=<number> of them drawn at random.
//
// Ids and labels are whole, whatever they hold: each stands in a part of its own.
//
// suggest=<label> shows tiles that probably hold it, or do not.
//
// A picture that was dropped stands in it as its embedding, a tiny JPEG and its name:
// picture=<encoder>~<vector>~<JPEG>~<name>, the first two base64url.
//
// A part of a tile is part=<left>,<top>,<right>,<bottom>~<id>, in shares of its width and height.

export const EMPTY = Object.freeze({
  like: [],
  unlike: [],
  any_of: [],
  all_of: [],
  none_of: [],
  bbox: null,
  since: "",
  until: "",
  k: 48,
  collection: "",
  marks: false,
  round: false,
  random: 5,
  suggest: "",
  index: null,
  versus: null,
  map: false,
  view: null,
  plot: false,
  within: null,
  seed: 0,
});
const LISTS = ["any_of", "all_of", "none_of"];
/** Names of the conditions, which are the API's. */
export const FILTER = [...LISTS, "bbox", "since", "until"];
const DAY = /^\d{4}-\d{2}-\d{2}$/;

/**
 * An example is {id}, {id, box} or {encoder, vector, picture, name}: vector and picture base64url, picture "" where it cannot be drawn,
 * name that of the file, where it is known.
 */
export const keyOf = ({ id, box, vector }) => (box ? `${box}~${id}` : (id ?? `~${vector}`));

export function toFragment(search) {
  const parts = [];
  const add = (key, text) => parts.push(`${key}=${readable(text)}`);
  for (const key of ["like", "unlike"]) {
    for (const { id, box, encoder, vector, picture, name } of search[key]) {
      if (box) add("part", `${box}~${id}`);
      else if (id !== undefined) add(key, id);
      else add("picture", [encoder, vector, picture, ...(name ? [name] : [])].join("~"));
    }
  }
  for (const key of LISTS) for (const label of search[key]) add(key, label);
  if (search.bbox) add("bbox", search.bbox.join(","));
  for (const key of ["since", "until"]) if (search[key]) add(key, search[key]);
  for (const key of ["k", "seed"]) if (search[key] !== EMPTY[key]) add(key, String(search[key]));
  for (const key of ["index", "versus"]) if (search[key] !== null) add(key, String(search[key]));
  if (search.collection) add("collection", search.collection);
  for (const key of ["marks", "round"]) if (search.collection && search[key]) parts.push(key);
  if (search.collection && search.round && search.random !== EMPTY.random) add("random", String(search.random));
  if (search.suggest) add("suggest", search.suggest);
  for (const key of ["map", "plot"]) if (search[key]) parts.push(key);
  for (const key of ["view", "within"]) if (search[key]) add(key, search[key].join(","));
  return `#${parts.join("&")}`;
}

/** Reads a fragment. What it does not understand it leaves out: an old or cut link still shows what it can. */
export function fromFragment(fragment) {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const search = { ...EMPTY };
  const ids = (key) =>
    given
      .getAll(key)
      .filter(Boolean)
      .map((id) => ({ id }));
  const others = [...given.getAll("picture").map(readPicture), ...given.getAll("part").map(readPart)].filter(Boolean);
  search.like = unique([...others, ...ids("like")], keyOf);
  search.unlike = unique(ids("unlike"), keyOf);
  for (const key of LISTS) search[key] = unique(given.getAll(key).filter(Boolean));
  search.bbox = readBox(given.get("bbox"));
  for (const key of ["since", "until"]) search[key] = DAY.test(given.get(key) ?? "") ? given.get(key) : "";
  search.k = whole(given.get("k"), 1) ?? EMPTY.k;
  search.seed = whole(given.get("seed"), 0) ?? EMPTY.seed;
  for (const key of ["index", "versus"]) search[key] = whole(given.get(key), 0);
  search.collection = given.get("collection") ?? "";
  search.round = search.collection !== "" && given.has("round");
  search.marks = search.collection !== "" && given.has("marks") && !search.round;
  search.random = whole(given.get("random"), 0) ?? EMPTY.random;
  search.suggest = search.collection ? "" : (given.get("suggest") ?? "");
  for (const key of ["map", "plot"]) search[key] = given.has(key);
  search.view = readView(given.get("view"));
  search.within = isOpen(search) ? null : readEdges(given.get("within") ?? "");
  return search;
}

/** Whether a collection's own tiles are shown, those that it asks for, or those of a label that are suggested. */
export const isOpen = (search) => search.marks || search.round || search.suggest !== "";

/** No collection, no suggestions, no box of the plot, and the map as it fits what is found. */
export const CLOSED = Object.freeze({ collection: "", marks: false, round: false, suggest: "", within: null, view: null });

/** Whether there is something that results are like: examples, or a collection. */
export const asks = (search) =>
  !isOpen(search) && !search.within && (search.like.length > 0 || search.collection !== "");

/** What tiles are marked for: the examples, the collection or the label. It stays while filter, view or version change. */
export const questionOf = ({ like, unlike, collection, suggest }) =>
  JSON.stringify([like.map(keyOf), unlike.map(keyOf), collection, suggest]);

export function hasFilter(search) {
  return FILTER.some((key) => search[key]?.length);
}

export const withoutFilter = (search) => ({
  ...search,
  ...Object.fromEntries(FILTER.map((key) => [key, EMPTY[key]])),
});

/** The same filter and view with one example instead of all others: what a click on a tile asks for. */
export const only = (search, example) => ({
  ...search,
  like: [example],
  unlike: [],
  ...CLOSED,
});

/** Examples with more of them; who is now right is no longer wrong, and the other way round. */
export function refined(search, right, wrong) {
  const keys = new Set([...right, ...wrong].map(keyOf));
  const rest = (examples) => examples.filter((example) => !keys.has(keyOf(example)));
  const examples = { like: [...rest(search.like), ...right], unlike: [...rest(search.unlike), ...wrong] };
  return { ...search, ...examples, marks: false, round: false, suggest: "", within: null, view: null };
}

export function encodeVector(values) {
  return base64url(new Uint8Array(Float32Array.from(values).buffer));
}

export function decodeVector(text) {
  const bytes = Uint8Array.from(atob(standard(text)), (character) => character.charCodeAt(0));
  return Array.from(new Float32Array(bytes.buffer));
}

export const pictureSource = (picture) => `data:image/jpeg;base64,${standard(picture)}`;

export function base64url(bytes) {
  const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return base64urlOf(btoa(text));
}

export const base64urlOf = (base64) => base64.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

const standard = (text) => text.replaceAll("-", "+").replaceAll("_", "/");

// Slashes, colons and commas need no escape in a fragment, and ids are easier to read with them.
const readable = (text) =>
  encodeURIComponent(text).replaceAll("%2F", "/").replaceAll("%3A", ":").replaceAll("%2C", ",");

function readPicture(text) {
  const [encoder, vector, picture, ...rest] = text.split("~");
  const name = rest.join("~");
  if (!/^[\w-]+$/.test(vector ?? "") || !/^[\w-]*$/.test(picture ?? "#")) return null;
  try {
    return decodeVector(vector).every(Number.isFinite) ? { encoder, vector, picture, ...(name && { name }) } : null;
  } catch {
    return null; // the link was cut within it
  }
}

function readPart(text) {
  const [edges, ...id] = text.split("~");
  const box = readEdges(edges);
  return box && id.length ? { id: id.join("~"), box } : null;
}

function readEdges(text) {
  const box = text.split(",").map(Number);
  const [left, top, right, bottom] = box;
  const within = box.length === 4 && 0 <= left && left < right && right <= 1 && 0 <= top && top < bottom && bottom <= 1;
  return within ? box : null;
}

function readView(text) {
  const view = (text ?? "").split(",").map(Number);
  const [lat, lon, zoom] = view;
  return view.length === 3 && Math.abs(lat) <= 90 && Math.abs(lon) <= 540 && 0 <= zoom && zoom <= 24 ? view : null;
}

function readBox(text) {
  const box = (text ?? "").split(",").map(Number);
  const [west, south, east, north] = box;
  const onEarth = box.length === 4 && Math.abs(west) <= 180 && Math.abs(east) <= 180;
  return onEarth && -90 <= south && south <= north && north <= 90 ? box : null;
}

const whole = (text, least) => (/^\d{1,9}$/.test(text ?? "") && Number(text) >= least ? Number(text) : null);

function unique(values, key = (value) => value) {
  return [...new Map(values.map((value) => [key(value), value])).values()];
}
