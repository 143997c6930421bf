// From a search, as the link says it, to answers of the server, for any version of the index.

import * as api from "./api.js";
import { archive, upToDate } from "./archive.js";
import { FILTER, asks, base64urlOf, decodeVector, encodeVector, hasFilter, isOpen, keyOf } from "./link.js";
import { asAnswer, asSuggestions } from "./rounds.js";

const kept = new Map(); // vector of a dropped picture: its file, the box that is meant, and its vectors by other encoders

/** Remembers the file behind an example and the box in it, or null, so that another encoder can embed it too. */
export function keepFile(example, file, box = null) {
  const { picture } = example;
  kept.set(example.vector, { file, box, picture, preview: URL.createObjectURL(file), vectors: new Map() });
}

/** The {file, box, preview} of a dropped picture, preview being its address, for as long as the page is open; or null. */
export const fileOf = (example) => kept.get(example.vector) ?? null;

/** Which encoder made the vectors of an index version; null stands for the newest. */
function encoderOf(version) {
  const number = version ?? archive.info.index.version;
  const entry = archive.info.versions.find((candidate) => candidate.version === number);
  if (entry) return `${entry.encoder_version}.${entry.descriptor}${entry.share === null ? "" : `.${entry.share}`}`;
  throw new api.Failure({
    rule: `Index version ${number} cannot be searched.`,
    value: String(number),
    remedy: `There is ${archive.info.versions.map((known) => known.version).join(", ")}: choose one of them.`,
  });
}

/**
 * Embeds a picture, or what is in a box of it; gives the example that stands for it in searches and links, and how long that took. Without a
 * `drawing` of it, the server draws it.
 */
export async function embed(file, version, drawing, box = null) {
  const asked = { k: 1, vector: true, preview: !drawing, ...(box && { box }) };
  const { query, ms, index_version: by } = await upToDate(version, (index) => api.searchImage(file, { ...asked, index }));
  const picture = drawing || base64urlOf(query.preview ?? "");
  const vector = encodeVector(query.vector);
  const name = file.name && { name: box ? `part of ${file.name}` : file.name };
  return { example: { encoder: encoderOf(by), vector, picture, ...name }, ms };
}

/** One page of results. */
export async function searchFor(search, version, offset, signal) {
  if (search.marks) return tilesOfCollection(search, offset, signal);
  if (search.within) return tilesOfPlot(search, version, offset, signal);
  if (search.suggest) return asSuggestions(await api.suggestions(search.suggest, signal));
  if (search.round) return asAnswer(await api.round(search.collection, search.random, signal));
  return api.search({ ...(await queryOf(search, version)), offset, vector: archive.info.has_parts }, signal);
}

/** Saves the first `k` results, which may be more than one answer holds, as a file of that format. */
export async function saveResults(search, k, format) {
  const query = await queryOf(search, search.index ?? archive.shown);
  return api.downloadResults({ ...query, k, format }, "results");
}

async function queryOf(search, version) {
  const positive = await Promise.all(search.like.map((example) => asked(example, version)));
  const negative = await Promise.all(search.unlike.map((example) => asked(example, version)));
  const anywhere = { vector: randomVector(archive.info.model.dim, search.seed) };
  return {
    positive: asks(search) ? positive : [anywhere],
    negative: asks(search) ? negative : [],
    ...(search.collection ? { collection: search.collection } : {}),
    k: Math.min(search.k, archive.info.limits.k),
    filter: conditions(search),
    index: version,
  };
}

/** One page of a collection's tiles, the last marked first; each says how it is `marked`. */
async function tilesOfCollection(search, offset, signal) {
  const found = await api.marksOf(search.collection, offset, Math.min(search.k, 1000), signal);
  const unknown = (id) => ({ id, labels: [], thumbnail: null, gone: true });
  const tile = ({ id, item, ...marked }) => ({ ...(item ?? unknown(id)), marked });
  return { ...found, results: found.marks.map(tile) };
}

/** One page of the tiles in a box of the plot, those in its middle first. */
async function tilesOfPlot(search, version, offset, signal) {
  const asked = { box: search.within, filter: conditions(search), k: Math.min(search.k, 200), offset, index: version };
  const { items, places, ...found } = await api.plotted(asked, signal);
  return { ...found, results: items, within: places.length };
}

/** Tiles to begin with: one for each label, the rarest first; where no tile has one, those most unlike each other. */
export async function tilesToBegin(search, index, signal) {
  const held = archive.labels.filter((label) => label.count).sort((a, b) => a.count - b.count);
  const { dim } = archive.info.model;
  const ask = (number, filter, k) =>
    api.search({ positive: [{ vector: randomVector(dim, search.seed * 1000 + number) }], k, filter, index }, signal);
  if (!held.length) {
    const { items, index_version } = await api.diverse(search.seed, signal);
    return { results: items, index_version, more: false };
  }
  const answers = await inTurns(held.slice(0, 24), (label, number) => ask(number, { any_of: [label.name] }, 4));
  const chosen = new Map();
  for (const [place, { results }] of answers.entries()) {
    const { name } = held[place];
    const fresh = results.find((result) => !chosen.has(result.id));
    if (fresh) chosen.set(fresh.id, { ...fresh, stands: name });
  }
  const index_version = Math.max(...answers.map((answer) => answer.index_version));
  return { results: [...chosen.values()], index_version, more: false };
}

/** A tile that holds a label. */
export async function tileWith(label) {
  const anywhere = () => ({ vector: randomVector(archive.info.model.dim, 0) });
  const filter = { any_of: [label] };
  return (await upToDate(null, (index) => api.search({ positive: [anywhere()], k: 1, filter, index }))).results[0];
}

/** How many tiles the filter leaves; null where there is none, and of a version that cannot be asked. */
export const leftBy = (search, signal) =>
  hasFilter(search) && !isOpen(search) && !search.within
    ? api.countTiles(conditions(search), search.index, signal).catch((error) => (error.status ? null : Promise.reject(error)))
    : null;

export function conditions(search) {
  return Object.fromEntries(FILTER.filter((key) => search[key]?.length).map((key) => [key, search[key]]));
}

async function asked(example, version) {
  if (example.id !== undefined) return { id: example.id, ...(example.box && { box: example.box }) };
  const encoder = encoderOf(version);
  if (example.encoder === encoder) return { vector: decodeVector(example.vector) };
  const known = kept.get(keyOf(example).slice(1));
  if (!known) {
    throw new api.Failure({
      rule: "Vectors of two encoders cannot be compared.",
      value: `the picture was embedded by encoder ${example.encoder}, this index by ${encoder}`,
      remedy: "Drop the picture itself once more: a link holds only what one encoder made of it.",
    });
  }
  let vector = known.vectors.get(encoder);
  if (!vector) {
    const { example: other } = await embed(known.file, version, known.picture, known.box);
    vector = decodeVector(other.vector);
    known.vectors.set(other.encoder, vector);
  }
  return { vector };
}

async function inTurns(values, ask, atOnce = 6) {
  const answers = new Array(values.length);
  let next = 0;
  const worker = async () => {
    while (next < values.length) {
      const number = next++;
      answers[number] = await ask(values[number], number);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  return answers;
}

/** A unit vector in a direction that the seed fixes, for looking somewhere in the archive. */
function randomVector(dim, seed) {
  let state = (seed + 1) * 0x9e3779b9;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0; // mulberry32
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  const values = Array.from({ length: dim }, normal);
  const norm = Math.hypot(...values);
  return values.map((value) => value / norm);
}
