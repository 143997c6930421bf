// Pictures that come in: by the file dialog, dropped anywhere, or pasted.

import { Failure } from "./api.js";
import { base64url } from "./link.js";
import { find } from "./element.js";

const TINY = 40; // pixels; about 1 kB in the link
const LARGE = 2048; // pixels of the longest side of a picture that was too large: more than encoders look at
const SMALL = 128; // and less than that nobody wants searched for

/** Calls `take(files, more)`; `more` says whether to add them to the query. A dropped tile of the page is a link. */
export function receivePictures(take, follow) {
  const input = find("file");
  let more = false;
  const open = (adding) => {
    more = adding;
    input.click();
  };
  find("choose").addEventListener("click", () => open(false));
  find("add").addEventListener("click", () => open(true));
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = ""; // the same file may be chosen again
    if (files.length) take(files, more);
  });

  let depth = 0;
  const inside = (change) => {
    depth = change === 0 ? 0 : Math.max(0, depth + change);
    document.body.classList.toggle("dropping", depth > 0);
  };
  addEventListener("dragenter", () => inside(1));
  addEventListener("dragleave", () => inside(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    inside(0);
    const files = [...event.dataTransfer.files];
    const link = event.dataTransfer.getData("text/uri-list");
    if (link.startsWith(location.href.split("#")[0]) && link.includes("#")) follow(link.slice(link.indexOf("#")));
    else if (files.length) take(files, false);
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) take(files, false);
  });
}

/** Refuses every picture where the index has no encoder of pictures. */
export function checkSeen(model) {
  if (!model.image_size) {
    throw new Failure({
      rule: "This index was made of vectors from elsewhere: no picture can be searched for.",
      value: "",
      remedy: "Search from a tile: click it, or type its id.",
    });
  }
}

/** The pixels of a picture, or null where the browser cannot draw the file, as with TIFF: the server can. */
export const pixelsOf = (file) => createImageBitmap(file).catch(() => null);

/**
 * The file as the server takes it: one that is too large is made smaller here, if the browser can draw it. Refuses what
 * the server would refuse. What the file holds, only the server judges.
 */
export async function fitting(file, pixels, limits) {
  if (!file.size)
    throw new Failure({ rule: "A picture must not be empty.", value: file.name, remedy: "Choose another file." });
  const many = pixels ? pixels.width * pixels.height : 0;
  if (file.size <= limits.bytes && many <= limits.pixels) return file;
  if (pixels) {
    const { width, height } = pixels;
    const most = Math.min(1, LARGE / Math.max(width, height), Math.sqrt(limits.pixels / many));
    for (let scale = most; scale * Math.max(width, height) > SMALL; scale *= 0.7) {
      const jpeg = await drawn(pixels, Math.floor(width * scale), Math.floor(height * scale), 0.92);
      if (jpeg.size <= limits.bytes) return new File([jpeg], file.name, { type: jpeg.type });
    }
  }
  const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MB`;
  throw new Failure({
    rule: `A picture must have at most ${megabytes(limits.bytes)}.`,
    value: `${file.name}, ${megabytes(file.size)}`,
    remedy: "Cut or scale it down: the encoder looks at a small version anyway.",
  });
}

/** A JPEG of a few pixels as base64url, of all of a picture or of a box in it, "" without pixels. */
export async function tinyPicture(pixels, [left, top, right, bottom] = [0, 0, 1, 1]) {
  if (!pixels) return "";
  const { width, height } = pixels;
  const part = [left * width, top * height, (right - left) * width, (bottom - top) * height];
  const jpeg = await drawn(await createImageBitmap(pixels, ...part), TINY, TINY, 0.6);
  return base64url(new Uint8Array(await jpeg.arrayBuffer()));
}

async function drawn(pixels, width, height, quality) {
  const canvas = new OffscreenCanvas(Math.max(1, width), Math.max(1, height));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(pixels, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/jpeg", quality });
}
