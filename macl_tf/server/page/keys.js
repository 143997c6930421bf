// Single keys. They can be switched off, and never act while something is typed or a dialog is open.

const SETTING = "macl-shortcuts";

export const SHORTCUTS = [
  ["arrows, Home, End", "go from tile to tile"],
  ["Enter", "search from the tile"],
  ["o", "show the tile in large, with what is known of it"],
  ["y", "the tile is right"],
  ["n", "the tile is wrong"],
  ["k", "skip the tile, in a collection"],
  ["s", "search again with the marks, or save them to the open collection; next round"],
  ["g", "go to the results"],
  ["u", "choose a picture"],
  ["/", "find a label, a collection or an id"],
  ["f", "the filter"],
  ["m", "map, where tiles have places"],
  ["p", "plot: all tiles, those that are alike near each other"],
  ["l", "copy the link"],
  ["?", "this help"],
  ["Esc", "close the help or an error"],
];

export const shortcutsOn = () => localStorage.getItem(SETTING) !== "off";
export const setShortcuts = (on) => localStorage.setItem(SETTING, on ? "on" : "off");

/** Calls actions[key](tile): the tile is the one that has the focus, or null. */
export function listenForKeys(actions) {
  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input:not([type=checkbox], [type=radio], [type=file]), textarea, select");
    const busy =
      event.altKey || event.ctrlKey || event.metaKey || event.isComposing || document.querySelector("dialog[open]");
    if (typing || busy || (event.key !== "Escape" && !shortcutsOn())) return;
    const act = actions[event.key];
    if (!act) return;
    event.preventDefault();
    act(event.target.closest?.(".tile") ?? null);
  });
}
