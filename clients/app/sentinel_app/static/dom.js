// Build elements without HTML: whatever a name or a caption contains, it is shown as text.

const SVG = "http://www.w3.org/2000/svg";
const PATHS = {
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14M16 16l5 5",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9.5h.01",
  add: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  left: "M15 5l-7 7 7 7",
  right: "M9 5l7 7-7 7",
  back: "M20 12H5M11 6l-6 6 6 6",
  info: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M12 11v5M12 7.8h.01",
  help: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M9.6 9.3a2.5 2.5 0 1 1 3.6 2.2c-.8.4-1.2.9-1.2 1.9M12 16.6h.01",
  like: "M4 6h9v9H4zM11 9h9v9h-9z",
  plus: "M12 6v12M6 12h12",
  minus: "M6 12h12",
  crop: "M7 3v14h14M3 7h14v14",
  bin: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  calendar: "M4 6h16v14H4zM4 10h16M8 3v4M16 3v4",
  folder: "M3 6h7l2 2h9v11H3z",
  camera: "M4 8h4l2-3h4l2 3h4v11H4zM12 10.5a3 3 0 1 0 0 6 3 3 0 0 0 0-6",
  place: "M12 21c4-5 6-8 6-11a6 6 0 1 0-12 0c0 3 2 6 6 11zM12 8a2 2 0 1 0 0 4 2 2 0 0 0 0-4",
  tag: "M4 4h8l8 8-8 8-8-8zM8.5 8.5h.01",
  sliders: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  words: "M4 7h16M4 12h10M4 17h13",
  stack: "M8 8h12v12H8zM4 16V4h12",
};

/** Create an element. Attributes that begin with "on" are listeners; null and false are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  return element;
}

/** Return one of our icons. It is decoration: its button has a label. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** Return a button that shows an icon; `label` is for screen readers and the tooltip. */
export function iconButton(name, label, onclick, attributes = {}) {
  return h("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick, ...attributes }, icon(name));
}

let popovers = 0;

/** Let a button open a small panel; `fill(close)` returns its content each time. */
export function opensPanel(button, fill, label) {
  const panel = h("div", { class: "panel", popover: "auto", id: `panel${(popovers += 1)}`, role: "dialog", "aria-label": label });
  const close = () => panel.hidePopover();
  button.setAttribute("popovertarget", panel.id);
  button.setAttribute("aria-haspopup", "dialog");
  panel.addEventListener("beforetoggle", (event) => {
    if (event.newState !== "open") return;
    panel.replaceChildren(...[fill(close)].flat());
    placeUnder(panel, button);
  });
  panel.addEventListener("toggle", (event) => {
    if (event.newState === "open") panel.querySelector("[autofocus], input, select, button")?.focus();
  });
  button.after(panel);
  return close;
}

function placeUnder(panel, button) {
  const place = button.getBoundingClientRect();
  const wide = Math.min(340, innerWidth - 24);
  panel.style.inlineSize = `${wide}px`;
  panel.style.left = `${Math.max(12, Math.min(place.left, innerWidth - wide - 12))}px`;
  const below = innerHeight - place.bottom > 300 || place.top < innerHeight / 2;
  panel.style.top = below ? `${place.bottom + 6}px` : "auto";
  panel.style.bottom = below ? "auto" : `${innerHeight - place.top + 6}px`;
}

/** Say something for a few seconds; `action` is `[label, function]`. Returns a function that ends it. */
export function toast(text, { action = null, seconds = 6, kind = "" } = {}) {
  const shown = h("div", { class: `toast ${kind}` }, h("span", {}, text));
  const end = () => shown.remove();
  if (action) {
    shown.append(h("button", { type: "button", class: "plain", onclick: () => { end(); action[1](); } }, action[0]));
  }
  shown.append(iconButton("close", "Close this message", end));
  document.getElementById("toasts").append(shown);
  // A modal dialog makes the rest of the page inert.
  const dialog = [...document.querySelectorAll("dialog[open]")].at(-1);
  if (dialog) dialog.append(document.getElementById("toasts"));
  setTimeout(end, seconds * 1000);
  return end;
}
