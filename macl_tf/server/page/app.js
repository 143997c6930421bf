// The page: reads the search from the link, asks the server, shows the answer. Every change is a new link.

import { showAnswers } from "./answers.js";
import * as api from "./api.js";
import { archive, learn, upToDate } from "./archive.js";
import { askToSave, countsOf, roundOf, save, showCollections, tilesOf, withToken } from "./collections.js";
import { askForToken, openHelp } from "./dialogs.js";
import { complete } from "./complete.js";
import { archiveName, count, element, find, shortName } from "./element.js";
import { drawFilters, showFilters } from "./filters.js";
import { listenForKeys } from "./keys.js";
import { CLOSED, EMPTY, asks, fromFragment, hasFilter, isOpen, keyOf, only, pictureSource, questionOf, refined, toFragment } from "./link.js";
import { clearMarks, forgetMark, keepMarks, listenForMarks, said, turnTo } from "./marks.js";
import { clearFailure, say, showFailure } from "./notices.js";
import { goOn } from "./rounds.js";
import { checkSeen, fitting, pixelsOf, receivePictures, tinyPicture } from "./pictures.js";
import { showQuery } from "./query.js";
import { embed, fileOf, keepFile, leftBy, searchFor, tilesToBegin } from "./searching.js";
import { openTeaching } from "./teach.js";
import { openUpload } from "./upload.js";
import { showControls, showViews } from "./views.js";

const tiles = new Map(); // what is known of each id that was seen
let search = EMPTY; // what the link asks for
let shown = EMPTY; // what the tiles on the page answer: the one before, while the server works
let running = new AbortController();
let embedded = null; // milliseconds that the last picture took

/** Makes a search the page's: the link changes, and what is shown follows from it. */
function change(next) {
  const fragment = toFragment(next);
  if (fragment === (location.hash || "#")) show();
  else location.hash = fragment;
}

/** Shows what the link asks for, with what is known of the archive learnt `anew` where it was written to. */
async function show({ anew = false } = {}) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  search = fromFragment(location.hash);
  const within = ["lists", "marks"].some((id) => find(id).contains(document.activeElement));
  clearFailure();
  find("lists").setAttribute("aria-busy", "true");
  try {
    if (anew || !archive.info) await learn();
    const compared = search.versus !== null && asks(search);
    const { dated, info } = archive;
    archive.left = null;
    const asking = Promise.all([
      compared ? both([search.index, search.versus], signal) : Promise.all([answer(search.index, signal)]),
      leftBy(search, signal),
      ...[...search.like, ...search.unlike].map((example) => learnTile(example, signal)),
    ]);
    frame(); // while the server works
    const [answers, left, ...learnt] = await asking;
    if (signal.aborted) return;
    archive.left = left;
    archive.shown = answers[0].index_version ?? search.index;
    answers.forEach((found) => found.results?.forEach(remember));
    if (archive.info !== info || archive.left || archive.dated !== dated || learnt.some(Boolean)) frame();
    const more = async (version, offset) => {
      const next = await searchFor(search, version, offset, signal);
      next.results.forEach(remember);
      return next;
    };
    turnToShown();
    const acts = { change, more, failed, again: show, changed: renewed, viewed, filterTo, boxTo, failing };
    showAnswers(answers, { search, archive, tiles, compared, embedded, signal, ...acts });
    embedded = null;
    // Who came by keyboard stays among the tiles.
    if (within) find("lists").querySelector(".tile a")?.focus({ preventScroll: true });
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    turnToShown();
    await failed(error);
  } finally {
    if (!signal.aborted) {
      find("lists").setAttribute("aria-busy", "false");
      find("lists").dataset.shows = location.hash; // so that a program can wait for it
    }
  }
}

/** From now on marks are for what the link asks for, and no longer for what was there before it was answered. */
function turnToShown() {
  shown = search;
  turnTo(questionOf(search));
}

/** What the page goes on without: where it fails, that is told. */
const failing = (promise) => promise.catch((error) => failed(error));

/** The map was moved: the link says so, and nothing is searched anew. */
function viewed(view) {
  const settled = find("lists").dataset.shows === location.hash;
  search.view = view; // what was drawn for this search changes from it
  history.replaceState(null, "", toFragment(search));
  if (settled) find("lists").dataset.shows = location.hash;
}

/** Searches what the map shows: where the link asks for a map, and for tiles that can be filtered. */
const filterTo = (bbox) => search.map && !isOpen(search) && change({ ...search, bbox });
const boxTo = (within) => change({ ...search, ...CLOSED, within });

/** What is not a search: the query, the filter and the views as the link has them. */
function frame() {
  const { writable } = archive.info;
  const save = writable ? () => keep(search, { right: [], wrong: [], skipped: [], neither: [] }) : null;
  const open = archive.info.has_parts || writable ? openPicture : null;
  showQuery(search, tiles, change, archive, { save, open });
  showFilters(search, archive, change);
  showCollections({ search, archive, change, changed, toFragment });
  const known = search.like.some(({ id }) => id !== undefined);
  const one = search.like.length === 1 && fileOf(search.like[0]) ? search.like[0] : null;
  showViews(search, archive, change, {
    begin: writable && known ? () => keep(search, said(questionOf(search)), roundOf) : null,
    part: one && archive.info.has_parts && !isOpen(search) ? () => openPicture(one) : null,
  });
  const add = () => openPicture(one);
  const adding = one && writable ? [element("button", { type: "button", id: "add-tile", onclick: add }, "Add the picture to the archive…")] : [];
  showControls(search, archive, change, [...adding, ...learning()]);
  const { info } = archive;
  const name = archiveName(info.index);
  find("drop").hidden = !info.model.image_size;
  find("id").placeholder = search.like.length || search.collection ? "" : "Search by label or id, or drop a picture";
  find("archive").textContent = `${count(info.index.count, "tile")}${name ? ` of ${name}` : ""}`;
  find("archive").title = `encoder ${info.model.version}, index ${info.index.version}`;
}

/** Buttons of the menu that teach the archive and suggest labels, as far as there is something to learn from. */
function learning() {
  const [first] = [...archive.labels.filter((label) => label.count > 3).sort((a, b) => a.count - b.count), ...archive.collections];
  const button = (id, text, onclick) => element("button", { type: "button", id, onclick }, text);
  const suggest = () => change({ ...EMPTY, k: search.k, suggest: first.name });
  const teach = () => openTeaching({ search, archive, change, renewed });
  return [
    ...(first ? [button("suggestions", "Suggested labels", suggest)] : []),
    ...(first && archive.info.writable ? [button("teach", "Teach the archive…", teach)] : []),
  ];
}

function answer(version, signal) {
  if (asks(search) || isOpen(search) || search.within || hasFilter(search))
    return upToDate(version, (index) => searchFor(search, index, 0, signal));
  return upToDate(null, (index) => tilesToBegin(search, index, signal));
}

/** Answers of two versions: of one that cannot answer its `failure`, beside what the other found. */
async function both(versions, signal) {
  const asked = await Promise.allSettled(versions.map((version) => answer(version, signal)));
  const failures = asked.filter(({ status }) => status === "rejected").map(({ reason }) => reason);
  const whole = failures.find((error) => !(error instanceof api.Failure) || error.status === 401);
  if (whole || failures.length === versions.length) throw whole ?? failures[0];
  return asked.map(({ value, reason }) => value ?? { failure: reason });
}

/** What is known of the archive is out of date: it is asked for again, and the page shows it. */
async function changed() {
  await learn();
  frame();
}

/** The archive was written to: all that is shown is asked for again. */
const renewed = () => show({ anew: true });

/** Keeps marks of a search in its collection, or in one that is asked for, which is open then: its tiles or a round. */
async function keep(of, marked, open = tilesOf) {
  if (of.suggest) return settle(of, marked);
  const idsOf = (examples) => examples.map(({ id }) => id).filter((id) => id !== undefined);
  const [right, wrong] = [of.like, of.unlike].map(idsOf);
  let name = of.collection;
  let saved = null;
  const direct = name && Object.values(marked).flat().length;
  try {
    if (direct) saved = await withToken(() => save({ name, ...marked }));
    else name = await askToSave(marked, { right, wrong }, archive, name);
  } catch (error) {
    return unsaved(error, () => keep(of, marked, open));
  }
  if (!name) return;
  keepMarks(questionOf(of), marked);
  if (direct) await renewed();
  else {
    await learn();
    return change(open({ ...EMPTY, map: search.map, k: search.k }, name));
  }
  say(`Saved: ${name} has ${countsOf(saved)}.`);
}

/** Tells why marks were not saved. That of a tile that is gone does not stand in the way of the others any longer. */
function unsaved(error, again) {
  if (error.status === 404) forgetMark(error.value);
  return failed(error, again);
}

/** Gives tiles the label that is suggested, or takes it from them; a collection of its name keeps who said so. */
async function settle(of, marked) {
  const { right, wrong } = marked;
  const label = archive.collections.find(({ name }) => name === of.suggest)?.label ?? of.suggest;
  try {
    await withToken(() => save({ name: label, right, wrong }));
    if (archive.labels.some(({ name }) => name === label))
      await withToken(() => api.relabel({ label, holds: right, lacks: wrong }));
  } catch (error) {
    return unsaved(error, () => settle(of, marked));
  }
  keepMarks(questionOf(of), marked);
  await renewed();
  say(`Saved: ${label} is right for ${count(right.length, "tile")}, wrong for ${wrong.length}.`);
}

/** Whether something new is known of an example. */
async function learnTile(example, signal) {
  if (example.id === undefined || tiles.has(example.id)) return false;
  try {
    remember(await api.item(example.id, signal));
    return true;
  } catch (error) {
    if (error.status !== 404) throw error; // it may still be in an older version: the search will say
    return false;
  }
}

function remember(tile) {
  tiles.set(tile.id, tile);
  archive.dated ||= Boolean(tile.date);
}

async function failed(error, again = show) {
  if (error.status === 401 && (await askForToken(Boolean(api.token())))) return again();
  if (again === show) {
    find("lists").replaceChildren();
    find("map").hidden = find("plot").hidden = true;
    find("found-title").textContent = "No results";
    say("");
  }
  showFailure(error, error.temporary ? again : null);
}

/** The ids that somebody may mean who types one, or only the end of one, as cards show it. */
async function tilesCalled(typed) {
  const found = (await api.named(typed)).map((tile) => (remember(tile), tile.id));
  return found.includes(typed) ? [typed] : found.filter((id) => shortName(id) === typed);
}

const openLabel = (name) => change({ ...search, ...CLOSED, any_of: [name], all_of: [] });
const openCollection = (name) => change(tilesOf(search, name));

/** What may be meant by what is typed: labels, collections and tiles. */
async function offers(text, signal) {
  const within = (name) => name.toLowerCase().includes(text.toLowerCase());
  const labels = archive.labels.filter((label) => label.count && within(label.name)).slice(0, 4);
  const collections = archive.collections.filter(({ name }) => within(name)).slice(0, 4);
  const found = await api.named(text, signal);
  found.forEach(remember);
  return [
    ...labels.map(({ name, count: held }) => ({
      text: name,
      note: `label, ${count(held, "tile")}`,
      icon: "filter",
      act: () => openLabel(name),
    })),
    ...collections.map(({ name }) => ({
      text: name,
      note: "collection",
      icon: "collection",
      act: () => openCollection(name),
    })),
    ...found.map(({ id, thumbnail }) => ({
      text: id,
      picture: thumbnail,
      icon: "picture",
      act: () => change(only(search, { id })),
    })),
  ];
}

/** Pictures that came in: embedded one after the other, then searched for together. */
async function take(files, more) {
  clearFailure();
  say("Looking at the picture…");
  document.body.classList.add("embedding");
  try {
    if (!archive.info) await learn();
    checkSeen(archive.info.model);
    const examples = [];
    for (const given of files) {
      const pixels = await pixelsOf(given);
      const file = await fitting(given, pixels, archive.info.limits);
      const drawing = await tinyPicture(pixels);
      const { example, ms } = await embed(file, search.index, drawing).catch((error) => {
        throw Object.assign(error, { value: [file.name, error.value].filter(Boolean).join(", ") });
      });
      keepFile(example, file);
      examples.push(example);
      embedded = ms.decode + ms.encode;
    }
    const rest = more ? search : { ...search, like: [], unlike: [], ...CLOSED };
    change(refined({ ...rest, seed: 0 }, examples, []));
  } catch (error) {
    say("");
    await failed(error, () => take(files, more));
  } finally {
    document.body.classList.remove("embedding");
  }
}

/** Opens a dropped picture, to search by a box that is drawn on it, or to add it to the archive; either takes its place. */
function openPicture(example) {
  const { file, preview } = fileOf(example);
  const sources = [preview, ...(example.picture ? [pictureSource(example.picture)] : [])];
  const instead = (other, more = {}) => {
    const like = search.like.filter((one) => keyOf(one) !== keyOf(example));
    change(refined({ ...search, like, seed: 0, ...more }, [other], []));
  };
  const searchPart = async (box) => {
    const drawing = await tinyPicture(await pixelsOf(file), box);
    const found = await embed(file, search.index, drawing, box);
    keepFile(found.example, file, box);
    embedded = found.ms.decode + found.ms.encode;
    instead(found.example);
  };
  const added = async (id) => {
    await learn();
    instead({ id }, { index: null }); // older versions do not have it
  };
  openUpload({ sources, file }, archive, { searchPart, added });
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
    say("The link is copied.");
  } catch {
    say("Copy it from the address bar: this browser lets pages copy over https only.");
  }
}

/** Presses a button of a tile; in a round the next one that is not marked follows. */
function judge(tile, button) {
  const pressed = tile?.querySelector(button);
  pressed?.click();
  if (pressed && (shown.round || shown.suggest) && tile.dataset.mark) goOn(tile);
}

function goTo(id) {
  find(id).focus({ preventScroll: true });
  find(id).scrollIntoView({ block: "start" });
}

receivePictures(take, (fragment) => (location.hash = fragment));
listenForMarks({
  again: (right, wrong) => {
    clearMarks();
    change(refined({ ...shown, seed: 0 }, right, wrong));
  },
  save: (marked) => keep(shown, marked),
  canSave: () => Boolean(archive.info?.writable),
  into: () => shown.collection || shown.suggest,
  saying: () => (shown.round ? "Next round" : shown.suggest ? "Save labels" : ""),
});
complete(offers);
find("by-id").addEventListener("submit", async (event) => {
  event.preventDefault();
  const id = find("id").value.trim();
  if (!id) return;
  try {
    const [named, ...others] = await tilesCalled(id);
    if (others.length) {
      const remedy = `Type the whole id: ${[named, ...others].slice(0, 5).join(" or ")}.`;
      throw new api.Failure({ rule: "Several tiles here have this name.", value: id, remedy });
    }
    find("id").value = "";
    const called = (some) => some.find(({ name }) => name.toLowerCase() === id.toLowerCase())?.name;
    const [label, collection] = named ? [] : [called(archive.labels), called(archive.collections)];
    if (label) openLabel(label);
    else if (collection) openCollection(collection);
    else change(only(search, { id: named ?? id }));
  } catch (error) {
    await failed(error, () => find("by-id").requestSubmit());
  }
});
for (const id of ["filter-toggle", "filter-close"]) find(id).addEventListener("click", () => drawFilters());
find("copy").addEventListener("click", copyLink);
find("help-open").addEventListener("click", () => openHelp(archive.info && archive));
find("skip").addEventListener("click", (event) => {
  event.preventDefault();
  goTo("found");
});
listenForKeys({
  "?": () => openHelp(archive.info && archive),
  "/": () => find("id").focus(),
  f: () => find("filter-toggle").hidden || drawFilters(),
  u: () => find("drop").hidden || find("choose").click(),
  g: () => (find("lists").querySelector('.tile a[tabindex="0"]') ?? find("found")).focus(),
  y: (tile) => judge(tile, ".right"),
  n: (tile) => judge(tile, ".wrong"),
  k: (tile) => judge(tile, ".skipped"),
  o: (tile) => tile?.querySelector(".details").click(),
  s: () => (find("again") ?? find("save"))?.click(),
  m: () => find("map-toggle")?.click(),
  p: () => find("plot-toggle")?.click(),
  l: copyLink,
  Escape: clearFailure,
});
addEventListener("hashchange", () => {
  const next = fromFragment(location.hash);
  const same = (key) => next[key].map(keyOf).join() === search[key].map(keyOf).join();
  if (!same("like") || !same("unlike"))
    document.documentElement.scrollTop = 0;
  show();
});
show();
