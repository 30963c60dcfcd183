// The keyboard: help, and moving among photos.

import { h, iconButton } from "./dom.js";

const KEYS = [
  ["/", "Search"], ["?", "This help"], ["← → ↑ ↓", "Move among the photos"], ["Enter", "Open a photo or a stack"],
  ["Esc", "Close"], ["M", "More like the opened photo"], ["I", "Show or hide what is known about it"], ["Z", "Full size"],
  ["D", "Download it"], ["Del", "Delete it, with undo"], ["Ctrl V", "Search with a copied picture"], ["Alt Enter", "Open the first photo of a stack"],
];

export function showHelp() {
  const dialog = h("dialog", { class: "help", "aria-label": "Keyboard" },
    h("header", {}, h("h2", {}, "Keyboard"), iconButton("close", "Close", () => dialog.close())),
    h("dl", {}, KEYS.map(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)])));
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.body.append(dialog);
  dialog.showModal();
}

/** Watch the keyboard outside of dialogs. */
export function watchKeys({ search }) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.target.closest("input, select, textarea")) return;
    if (event.key === "?" && !document.querySelector("dialog.help")) showHelp();
    else if (document.querySelector("dialog[open]")) return;
    else if (event.key === "/") search();
    else if (event.target.classList.contains("tile") && event.key.startsWith("Arrow")) moveFocus(event);
    else if (event.key === "ArrowDown" && event.target === document.body) document.querySelector("a.tile")?.focus();
    else return;
    event.preventDefault();
  });
}

function moveFocus(event) {
  const tiles = [...document.querySelectorAll("a.tile")];
  const index = tiles.indexOf(event.target);
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    tiles[index + (event.key === "ArrowLeft" ? -1 : 1)]?.focus();
    return;
  }
  const from = event.target.getBoundingClientRect();
  const down = event.key === "ArrowDown" ? 1 : -1;
  const centre = (area) => area.left + area.width / 2;
  let best = null;
  for (let at = index + down; tiles[at]; at += down) {
    const area = tiles[at].getBoundingClientRect();
    if (Math.abs(area.top - from.top) < 5) continue;
    if (best && Math.abs(area.top - best.area.top) > 5) break;
    const far = Math.abs(centre(area) - centre(from));
    if (!best || far < best.far) best = { tile: tiles[at], area, far };
  }
  best?.tile.focus();
}
