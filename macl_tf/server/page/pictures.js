// Pictures that come in: by the file dialog, dropped anywhere, or pasted.

import { Failure } from "./api.js";
import { base64url } from "./link.js";
import { find } from "./element.js";

const TINY = 40; // pixels; about 1 kB in the link

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

/** Refuses what the server would refuse, before it is sent. What the file holds, only the server judges. */
export function checkFile(file, limits) {
  if (!file.size) {
    throw new Failure({ rule: "A picture must not be empty.", value: file.name, remedy: "Choose another file." });
  }
  if (file.size > limits.bytes) {
    const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MB`;
    throw new Failure({
      rule: `A picture must have at most ${megabytes(limits.bytes)}.`,
      value: `${file.name}, ${megabytes(file.size)}`,
      remedy: "Cut or scale it down: the encoder looks at a small version anyway.",
    });
  }
}

/** A JPEG of a few pixels as base64url, "" where the browser cannot draw the file, as with TIFF: the server can. */
export async function tinyPicture(file) {
  try {
    const whole = await createImageBitmap(file, { resizeWidth: TINY, resizeHeight: TINY, resizeQuality: "high" });
    const canvas = new OffscreenCanvas(TINY, TINY);
    canvas.getContext("2d").drawImage(whole, 0, 0);
    const jpeg = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.6 });
    return base64url(new Uint8Array(await jpeg.arrayBuffer()));
  } catch {
    return "";
  }
}
