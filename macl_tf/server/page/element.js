// Builds elements. Text always becomes a text node: nothing that the server or a link says is ever read as HTML.

/** element("button", { class: "mark", "aria-pressed": false, onclick: mark }, "Right") */
export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (typeof value === "boolean" && !key.startsWith("aria-")) node.toggleAttribute(key, value);
    else node.setAttribute(key, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** One of the pictures of icons.svg. */
export function icon(name) {
  const [svg, use] = ["svg", "use"].map((kind) => document.createElementNS(SVG, kind));
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `icons.svg#${name}`);
  svg.append(use);
  return svg;
}

export const find = (id) => document.getElementById(id);

/** An id as it has to be typed, which breaks into lines behind its folders first. */
export const wholeName = (id) =>
  id.split(/(?<=\/)/).flatMap((part, place) => (place ? [element("wbr"), part] : [part]));

/** The last part of an id that looks like a path, for where there is little room. */
export const shortName = (id) => id.split("/").at(-1);

const NUMBERS = new Intl.NumberFormat("en");
export const written = (number) => NUMBERS.format(number);
export const count = (number, noun) => `${written(number)} ${noun}${number === 1 ? "" : "s"}`;

/** What an index was built from; "" where the folder's name says nothing. */
export const archiveName = ({ archive }) =>
  /^(tiles?|images?|imgs?|pictures?|photos?|data|dataset|jpe?gs?|tiffs?|pngs?)$/i.test(archive?.name ?? "") ? "" : (archive?.name ?? "");
