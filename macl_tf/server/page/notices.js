// What the page says: one line about the results, and failures with rule, value and remedy.

import { element, find } from "./element.js";

/** The line above the results, which screen readers speak. */
export function say(text) {
  find("status").textContent = text;
}

/** Shows a failure above all else. `again`, where it is given, is offered as a button. */
export function showFailure(failure, again) {
  const close = element("button", { type: "button", onclick: clearFailure }, "Close");
  find("notice").replaceChildren(notice(failure, again, close));
}

/** A failure to be shown anywhere. */
export function notice(failure, again, ...buttons) {
  const retry = again && element("button", { type: "button", class: "primary", onclick: again }, "Try again");
  const value = failure.value && element("p", {}, "Given: ", element("q", {}, failure.value));
  return element(
    "div",
    { class: "notice" },
    element("strong", {}, sentence(failure.rule ?? String(failure))),
    ...(value ? [value] : []),
    ...(failure.remedy ? [element("p", {}, sentence(failure.remedy))] : []),
    ...(retry || buttons.length ? [element("div", { class: "row" }, ...(retry ? [retry] : []), ...buttons)] : []),
  );
}

export function clearFailure() {
  find("notice").replaceChildren();
}

function sentence(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}
