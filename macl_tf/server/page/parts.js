// A part of a tile: a box drawn on its picture, and where in it what was searched for is.

import { element } from "./element.js";

const LEAST = 0.02; // of a side: less is a click

/** Where a picture lies on the screen within its element, which it may not fill. */
function frameOf(image) {
  const { left, top, width, height } = image.getBoundingClientRect();
  const scale = Math.min(width / image.naturalWidth, height / image.naturalHeight);
  const [wide, high] = [image.naturalWidth * scale, image.naturalHeight * scale];
  return { left: left + (width - wide) / 2, top: top + (height - high) / 2, width: wide, height: high };
}

/** Lays something over a part of the picture of a stage: left, top, right, bottom in shares of width and height. */
function lay(node, stage, [left, top, right, bottom]) {
  const frame = frameOf(stage.querySelector("img"));
  const base = stage.getBoundingClientRect();
  const pixels = {
    left: frame.left - base.left + left * frame.width,
    top: frame.top - base.top + top * frame.height,
    width: (right - left) * frame.width,
    height: (bottom - top) * frame.height,
  };
  for (const [name, value] of Object.entries(pixels)) node.style[name] = `${value}px`;
}

/** Lets a box be drawn on the picture of a stage. `drawn` gets it, in shares of width and height, or null. */
export function drawBoxes(stage, drawn) {
  const outline = element("div", { class: "box", hidden: true });
  stage.append(outline);
  let start = null;
  const at = (event) => {
    const { left, top, width, height } = frameOf(stage.querySelector("img"));
    const share = (value) => Math.min(1, Math.max(0, value));
    return [share((event.clientX - left) / width), share((event.clientY - top) / height)];
  };
  const boxTo = ([x, y]) => [Math.min(start[0], x), Math.min(start[1], y), Math.max(start[0], x), Math.max(start[1], y)];
  stage.addEventListener("dragstart", (event) => event.preventDefault());
  stage.addEventListener("pointerdown", (event) => {
    if (event.target.tagName !== "IMG" || event.button) return;
    start = at(event);
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!start) return;
    outline.hidden = false;
    lay(outline, stage, boxTo(at(event)));
  });
  stage.addEventListener("pointerup", (event) => {
    if (!start) return;
    const [left, top, right, bottom] = boxTo(at(event));
    start = null;
    const large = right - left > LEAST && bottom - top > LEAST;
    outline.hidden = !large;
    drawn(large ? [left, top, right, bottom].map((edge) => Number(edge.toFixed(3))) : null);
  });
}

/** A faint map over the picture of a stage: the cells, rows of cosines, that match best within it. */
export function showMatches(stage, cells) {
  const [height, width] = [cells.length, cells[0].length];
  const all = cells.flat();
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const canvas = element("canvas", { class: "matches", width, height, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const strength = 190 * Math.min(1, (high - low) / 0.2); // where all parts match alike there is nothing to show
  all.forEach((value, place) => {
    const share = high > low ? (value - low) / (high - low) : 0;
    pixels.data.set([255, 140, 0, strength * share ** 2], 4 * place);
  });
  context.putImageData(pixels, 0, 0);
  stage.append(canvas);
  lay(canvas, stage, [0, 0, 1, 1]);
  return canvas;
}
