// A round of a collection on the page, or suggestions for a label: tiles to judge in groups, and keys that go on.

import { count, element, find, written } from "./element.js";

/** The groups of a round as the API names them, each with its heading and why it is asked for. */
const GROUPS = [
  ["best", "Best candidates", "What the marks so far find first."],
  ["uncertain", "Uncertain", "Between right and wrong: a mark here teaches most."],
  ["sampled", "At random", "Mostly wrong, but they alone tell how many are left."],
];
export const RANDOM = [5, 20, 50];

/** The answer of a round as one of a search: all its tiles as results, each with its group. */
export const asAnswer = (round) => asOne(round, GROUPS);

const asOne = (found, groups) => ({
  ...found,
  more: false,
  results: groups.flatMap(([group]) => found[group].map((tile, place) => ({ ...tile, group, rank: place + 1 }))),
});

/** The same of suggestions. */
const SUGGESTED = [
  ["missing", "Probably hold it", "They look like tiles with the label and do not have it: y gives it, n keeps it away."],
  ["doubtful", "Probably do not", "They have the label and look unlike the others: y keeps it, n takes it away."],
];

/** The answer with suggestions for a label as one of a search. */
export const asSuggestions = (found) => asOne(found, SUGGESTED);

/**
 * The groups of a round or of suggestions with their tiles. `listOf(name, tiles)` makes a list of tiles, `mark(tile, how)`
 * marks one, `howOf(id)` tells how one is marked.
 */
export function groupsPart(found, { listOf, mark, howOf }) {
  const tilesOf = (group) => found.results.filter((tile) => tile.group === group);
  const groups = (found.best ? GROUPS : SUGGESTED).map(([group, title, why]) => [title, why, tilesOf(group)]);
  const sections = groups
    .filter(([, , tiles]) => tiles.length)
    .map(([title, why, tiles]) => {
      const rest = (how) => () => tiles.filter(({ id }) => !howOf(id)).forEach((tile) => mark(tile, how));
      const button = (text, how) => element("button", { type: "button", onclick: rest(how) }, text);
      return element(
        "section",
        { class: "group", "aria-label": title },
        element(
          "div",
          { class: "group-head" },
          element("h3", {}, title),
          element("p", { class: "quiet" }, why),
          element("div", { class: "row" }, button("✓ Rest right", "right"), button("✕ Rest wrong", "wrong")),
        ),
        listOf(title, tiles),
      );
    });
  const none = found.best ? "Every tile of the archive is marked." : "No tile is worth a look: all labels fit.";
  return element(
    "div",
    { class: "round" },
    found.best ? figures(found) : null,
    sections.length ? sections : element("p", { class: "nothing" }, none),
  );
}

function figures({ found, precision, left }) {
  const share = precision && `${Math.round((100 * precision.right) / precision.of)} %`;
  const sure =
    left && `${written(left.low)} to ${written(left.high)}, 95 % confidence, by ${count(left.sample, "random tile")}`;
  const rows = [
    ["Found", written(found), found === 1 ? "right tile" : "right tiles"],
    ["Last marks right", share ?? "–", precision ? `of the last ${precision.of}` : "none yet"],
    ["Left, about", left ? written(left.estimate) : "–", sure ?? "mark the random tiles to know"],
  ];
  return element(
    "dl",
    { class: "figures", id: "figures" },
    rows.map(([name, value, note]) =>
      element(
        "div",
        {},
        element("dt", {}, name),
        element("dd", {}, element("b", {}, value), element("span", { class: "quiet" }, note)),
      ),
    ),
  );
}

/** The next tile after this one that is not marked, or what goes on with the round, gets the focus. */
export function goOn(tile) {
  const tiles = [...find("lists").querySelectorAll(".tile")];
  const open = (node) => !node.dataset.mark;
  const next = tiles.slice(tiles.indexOf(tile) + 1).find(open) ?? tiles.find(open);
  (next?.querySelector("a.picture") ?? find("save"))?.focus();
}
