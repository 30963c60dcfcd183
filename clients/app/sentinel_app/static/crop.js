// Draw a box on a picture: a new one anywhere, move it, eight handles; with mouse, touch or keys.

import { h } from "./dom.js";

const LEAST = 0.02;
const STEP = 0.02;
const HANDLES = { nw: "upper left", n: "top", ne: "upper right", e: "right", se: "lower right", s: "bottom", sw: "lower left", w: "left" };

/** Return `{element, box()}`; `box()` is `[left, top, right, bottom]` in 0 to 1, or null: all of it. */
export function cropper(address, start, changed = () => {}) {
  let box = start ? [...start] : null;
  const handles = Object.entries(HANDLES).map(([side, name]) =>
    h("button", { type: "button", class: `handle ${side}`, "aria-label": `Move the ${name} ${side.length > 1 ? "corner" : "edge"} with the arrow keys`, onkeydown: (event) => onKey(event, side) }));
  const frame = h("div", { class: "frame", tabindex: "0", role: "group", "aria-label": "The part to search with. Arrow keys move it.", hidden: true, onkeydown: (event) => onKey(event, "move") }, handles);
  const image = h("img", { src: address, alt: "The picture to search with", draggable: "false" });
  const element = h("div", { class: "cropper" }, image, frame);
  element.addEventListener("pointerdown", begin);
  draw();

  function draw() {
    frame.hidden = !box;
    if (box) {
      const [left, top, right, bottom] = box;
      frame.style.left = `${left * 100}%`;
      frame.style.top = `${top * 100}%`;
      frame.style.width = `${(right - left) * 100}%`;
      frame.style.height = `${(bottom - top) * 100}%`;
    }
    changed(box);
  }

  function begin(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    event.preventDefault();
    const side = event.target.closest(".handle")?.classList[1] ?? (event.target.closest(".frame") ? "move" : "new");
    const before = box ? [...box] : null;
    const from = at(event);
    if (side !== "new") (side === "move" ? frame : event.target).focus();
    element.setPointerCapture(event.pointerId);
    const move = (now) => {
      const to = at(now);
      if (side === "new") {
        box = spanned(from, to);
        if (box[2] - box[0] < LEAST || box[3] - box[1] < LEAST) box = before;
      } else box = changedBy(before, side, to[0] - from[0], to[1] - from[1]);
      draw();
    };
    const end = () => {
      element.removeEventListener("pointermove", move);
      element.removeEventListener("pointerup", end);
      element.removeEventListener("pointercancel", end);
    };
    element.addEventListener("pointermove", move);
    element.addEventListener("pointerup", end);
    element.addEventListener("pointercancel", end);
  }

  function at(event) {
    const area = image.getBoundingClientRect();
    const inside = (value) => Math.max(0, Math.min(1, value));
    return [inside((event.clientX - area.left) / area.width), inside((event.clientY - area.top) / area.height)];
  }

  function onKey(event, side) {
    const [x, y] = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key] ?? [0, 0];
    if (!x && !y) return;
    event.preventDefault();
    event.stopPropagation();
    box = changedBy(box, side, x, y);
    draw();
  }

  return {
    element,
    box: () => box,
    /** Set the box; null: the whole picture. */
    set(value) {
      box = value;
      draw();
      if (box) frame.focus();
    },
  };
}

const spanned = ([x1, y1], [x2, y2]) => [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];

function changedBy(box, side, x, y) {
  let [left, top, right, bottom] = box;
  if (side === "move") {
    const dx = Math.max(-left, Math.min(1 - right, x));
    const dy = Math.max(-top, Math.min(1 - bottom, y));
    return [left + dx, top + dy, right + dx, bottom + dy];
  }
  if (side.includes("w")) left = Math.max(0, Math.min(right - LEAST, left + x));
  if (side.includes("e")) right = Math.min(1, Math.max(left + LEAST, right + x));
  if (side.includes("n")) top = Math.max(0, Math.min(bottom - LEAST, top + y));
  if (side.includes("s")) bottom = Math.min(1, Math.max(top + LEAST, bottom + y));
  return [left, top, right, bottom];
}
