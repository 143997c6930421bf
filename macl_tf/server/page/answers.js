// Answers of the server on the page: one list of tiles or two, the map, and the line that sums them up.

import * as api from "./api.js";
import { count, element, find, shortName, written } from "./element.js";
import { asks, hasFilter, isOpen, keyOf, only, toFragment, withoutFilter } from "./link.js";
import { look } from "./looking.js";
import { showMap } from "./map.js";
import { addKept, forgetMark, howOf, mark, setKept } from "./marks.js";
import { notice, say } from "./notices.js";
import { showPlot } from "./plot.js";
import { compareLists, compareScores, resultList } from "./results.js";
import { groupsPart } from "./rounds.js";
import { conditions } from "./searching.js";
import { openTile } from "./tile.js";
import { versionName } from "./views.js";

/**
 * Shows one answer, or two beside each other.
 *
 * page: search, archive, tiles, change(search), filterTo(box) and boxTo(box) of map and plot, more(version, offset), failed(error,
 * again), again(), changed(), compared, and embedded, the milliseconds that the picture took. Of two answers one may be a {failure}.
 */
export function showAnswers(answers, page) {
  const { search, archive, tiles, change, compared } = page;
  const [first] = answers;
  const scored = asks(search) || search.round || Boolean(search.suggest);
  setKept(answers.flatMap(keptIn));
  const asked = search.like
    .map(keyOf)
    .map((key) => tiles.get(key))
    .filter(Boolean);
  const context = {
    scored,
    meaning: search.suggest
      ? "1 as tiles with the label score on the average, 0 as those without"
      : "Cosine similarity with the query",
    howOf,
    mark,
    rare: archive.rare,
    looked: look,
    archive: archive.info.index.archive?.name,
    skips: search.collection && isOpen(search) && archive.info.writable,
    queryLabels: new Set(asked.flatMap((tile) => tile.labels)),
    open: (id) =>
      openTile(id, {
        ...context,
        archive,
        tileOf: (some) => tiles.get(some),
        forget: forgetMark,
        changed: page.changed,
        findPart: (of, box) => change(only({ ...search, seed: 0 }, { id: of, box })),
        matchesOf: asks(search) && first.query?.vector ? (of) => api.matches([of], first.query.vector, first.index_version) : null,
      }),
    linkTo: (id) => toFragment(only({ ...search, seed: 0 }, { id })),
  };
  const columns = answers.map((found, side) => column(found, side ? search.versus : search.index, context, page));
  find("lists").replaceChildren(...columns.map(({ node }) => node));
  find("lists").classList.toggle("compared", compared);
  const onMap = search.map && archive.info.has_places;
  find("map").hidden = !onMap;
  if (onMap)
    showMap(answers.find(({ results }) => results).results, asked, search.bbox, {
      ...context,
      filterTo: isOpen(search) ? null : page.filterTo, // their tiles are shown all
      baseMap: archive.info.base_map,
      view: search.view,
      viewed: page.viewed,
    });
  find("plot").hidden = !search.plot;
  if (search.plot) {
    const { results, index_version: version } = answers.find((found) => found.results);
    const where = search.index === null ? "" : `&index=${search.index}`;
    page.failing(
      showPlot({
        ...context,
        version,
        count: search.index === null ? archive.info.index.count : null,
        filter: hasFilter(search) ? conditions(search) : null,
        results: results.map(({ id }) => id),
        asked: asked.map(({ id }) => id),
        within: search.within,
        tileOf: (id) => tiles.get(id),
        picture: (id) => `thumbnail?id=${encodeURIComponent(id)}${where}`,
        boxTo: page.boxTo,
      }, page.signal),
    );
  }
  find("found-title").textContent = search.marks
    ? `Marked in ${search.collection}`
    : search.within
      ? "In the box of the plot"
    : search.round
      ? `Round of ${search.collection}`
      : search.suggest
        ? `Suggestions for ${search.suggest}`
        : scored
      ? "Most alike"
      : hasFilter(search)
        ? "Some that fit the filter"
        : "Begin with a tile";
  const lists = columns.map(({ list }) => list);
  say(summary(answers, page, compared && lists.every(Boolean) ? compareLists(...lists) : null));
  const examples = search.like.map((example) => shortName(example.id ?? example.name ?? "a picture"));
  document.title = asks(search)
    ? `Like ${[search.collection, ...examples].filter(Boolean).join(", ")}`
    : search.collection || "Tile search";
}

const keptIn = ({ results = [] }) => results.filter(({ marked }) => marked).map(({ id, marked }) => [id, marked.mark]);

function column(found, version, context, page) {
  const { search, archive, compared } = page;
  const number = found.index_version ?? version ?? archive.info.index.version;
  const entry = archive.info.versions.find((known) => known.version === number);
  const name = compared ? `Index ${entry ? versionName(entry, archive.info) : number}` : "Tiles";
  if (found.failure) {
    const { failure } = found;
    const told = notice(failure, failure.temporary ? page.again : null);
    return { node: element("section", { "aria-label": name }, element("h3", {}, name), told), list: null };
  }
  if (search.round || search.suggest) {
    const listOf = (title, tiles) => {
      const part = resultList(title, context);
      part.add(tiles);
      return part.list;
    };
    return { node: groupsPart(found, { ...context, listOf }), list: null };
  }
  const { list, add } = resultList(name, context);
  const title = compared ? [name, heldBy(found.results, context, archive)].filter(Boolean).join(" · ") : null;
  const scale = context.scored ? compareScores(found.results) : null;
  add(found.results);
  const node = element("section", { "aria-label": name }, compared ? element("h3", {}, title) : null, list);
  if (!found.results.length) node.append(nothing(page));
  if (found.more && !compared) node.append(moreButton(number, add, list, scale, page));
  return { node, list };
}

/** How many results hold the rarest label of the query: "31 of 48 ship". */
function heldBy(results, { queryLabels }, archive) {
  const [rarest] = archive.labels.filter(({ name }) => queryLabels.has(name)).sort((a, b) => a.count - b.count);
  if (!rarest) return "";
  return `${results.filter(({ labels }) => labels.includes(rarest.name)).length} of ${results.length} ${rarest.name}`;
}

function nothing({ search, change }) {
  const clear = () => change(withoutFilter(search));
  const filtered = hasFilter(search) && !isOpen(search);
  const all = search.marks ? "No tile is marked here yet." : "There is no tile here yet.";
  return element(
    "div",
    { class: "nothing" },
    element("p", {}, filtered ? "No tile meets the filter." : all),
    filtered
      ? element("button", { type: "button", class: "primary", onclick: clear }, "Clear the filter")
      : null,
  );
}

function moreButton(version, add, list, scale, page) {
  const button = element("button", { type: "button", class: "more", onclick: more }, "Show more");
  // Who scrolls down need not press it.
  const sight = new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && scrollY && !button.disabled && more());
  sight.observe(button);
  async function more(event) {
    button.disabled = true;
    try {
      const next = await page.more(version, list.children.length);
      addKept(keptIn(next));
      if (scale) compareScores(next.results, scale);
      const first = add(next.results);
      if (event) first?.querySelector("a").focus({ preventScroll: true });
      say(`${count(list.children.length, "tile")} shown.`);
      if (next.more) button.disabled = false;
      else button.remove();
    } catch (error) {
      button.disabled = false;
      if (error.name !== "AbortError") await page.failed(error, more);
    }
  }
  return button;
}

function summary(answers, { search, archive, embedded }, inBoth) {
  const { results: found, ms } = answers.find(({ results }) => results);
  if (inBoth !== null) return `${inBoth} of ${found.length} tiles are in both lists.`;
  if (search.marks) return `${count(found.length, "tile")}, the last marked first.`;
  if (search.within) {
    const { within } = answers.find(({ results }) => results);
    return within > found.length ? `${written(found.length)} of ${count(within, "tile")}` : count(within, "tile");
  }
  if (search.round) return `${count(found.length, "tile")} to mark: y right, n wrong, k skip.`;
  if (search.suggest) return `${count(found.length, "tile")} to look at: y right, n wrong.`;
  if (!asks(search) && !hasFilter(search))
    return archive.labels.some((label) => label.count)
      ? "One for each label, the rarest first."
      : "As unlike each other as they can be.";
  const times = [
    embedded && `picture ${embedded.toFixed(0)} ms`,
    ms && `search ${ms.search.toFixed(ms.search < 10 ? 1 : 0)} ms`,
  ];
  find("status").title = times.filter(Boolean).join(", ");
  const left = archive.left ? `, ${written(archive.left.count)} meet the filter` : "";
  return `${count(found.length, "tile")}${left}`;
}
