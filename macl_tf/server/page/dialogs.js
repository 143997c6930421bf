// The two dialogs: help with what is being searched, and the token that a protected server asks for.

import { setToken } from "./api.js";
import { archiveName, element, find, count } from "./element.js";
import { SHORTCUTS, setShortcuts, shortcutsOn } from "./keys.js";

export function openHelp(archive) {
  const dialog = find("help");
  const keys = SHORTCUTS.map(([key, text]) => [element("dt", {}, element("kbd", {}, key)), element("dd", {}, text)]);
  dialog.replaceChildren(
    element("h2", { id: "help-title" }, "Help"),
    element(
      "p",
      {},
      "Drop a tile, or click one: what is most like it comes first. Mark tiles as right or wrong and search again, ",
      "as often as you like, or save the marks as a collection. The search and its views stand in the address of the page: ",
      "copy it to keep or share it. Marks that are not saved stay in this tab. A bar below a picture says how its score lies between the best and the last of the ",
      "page; labels with ★ are among the rarest third, those with ✓ are shared with what you search from.",
    ),
    element("h3", {}, "Keys"),
    element("dl", { class: "keys" }, keys),
    element(
      "label",
      {},
      element("input", {
        type: "checkbox",
        checked: shortcutsOn(),
        onchange: (event) => setShortcuts(event.target.checked),
      }),
      " Single keys are shortcuts",
    ),
    ...(archive
      ? [element("h3", {}, "What is searched"), element("dl", { class: "facts-of-archive" }, facts(archive.info))]
      : []),
    element("form", { method: "dialog" }, element("button", { class: "primary", autofocus: true }, "Close")),
  );
  if (!dialog.open) dialog.showModal();
}

const short = (number) => Number(number.toFixed(1));

function facts({ model, index, limits }) {
  const figures = Object.entries(model.figures ?? {}).filter(([, value]) => typeof value === "number");
  const rows = [
    ["Archive", [archiveName(index), count(index.count, "tile")].filter(Boolean).join(", ")],
    ["Index", `version ${index.version}, ${index.kind.replace("_", " ")}`],
    [
      "Encoder",
      `version ${model.version}, ${model.descriptor}, ${model.dim} numbers, ${
        model.image_size ? `pictures of ${model.image_size} pixels` : "no pictures"
      }`,
    ],
    ["SHA-256", model.sha256],
    ["Trained on", [model.dataset?.name ?? "not stated", model.dataset?.licence].filter(Boolean).join(". ")],
    [
      "On its test tiles",
      figures.map(([name, value]) => `${name} ${Number(value.toFixed(3))}`).join(", ") || "not stated",
    ],
    [
      "Pictures",
      `${limits.formats.join(", ")}; at most ${short(limits.bytes / 2 ** 20)} MB and ${short(
        limits.pixels / 1e6,
      )} million pixels`,
    ],
  ];
  return rows.map(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]);
}

/** Asks for the token; resolves to whether one was given. */
export function askForToken(refused) {
  const dialog = find("token-dialog");
  const field = element("input", { id: "token", type: "password", autocomplete: "off", required: true });
  return new Promise((resolve) => {
    const form = element(
      "form",
      { method: "dialog" },
      element("h2", { id: "token-title" }, "This server asks for a token"),
      refused ? element("p", { role: "alert" }, "That token was not accepted.") : "",
      element("p", {}, element("label", { for: "token" }, "Token, as whoever runs the server gave it to you"), field),
      element("p", { class: "quiet" }, "It is kept until this tab is closed."),
      element("div", { class: "row" }, element("button", { class: "primary" }, "Continue")),
    );
    let given = false;
    form.addEventListener("submit", () => {
      given = true;
      setToken(field.value.trim());
    });
    dialog.addEventListener("close", () => resolve(given), { once: true });
    dialog.replaceChildren(form);
    if (!dialog.open) dialog.showModal();
  });
}
