// Light, dark, or as the system has it (""). Loaded before the page is drawn, so that it never flashes.
const THEME = "macl-theme";
document.documentElement.dataset.theme = localStorage.getItem(THEME) ?? "";
