// An image, and a box that people draw on it, move and resize. The state `box` is
// [left, top, right, bottom], as fractions of the image; all of it while there is no box.
const SIDES = ["left", "top", "right", "bottom"];
const WHOLE = { left: 0, top: 0, right: 1, bottom: 1 };
const KEY_BOX = { left: 0.2, top: 0.2, right: 0.8, bottom: 0.8 };
const KEY_STEP = 0.02;
const MIN_SIDE = 0.02;
const CLICK_PX = 4; // a shorter way is a click and not a drag
const SMALL_PX = 64;
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function moved(box, x, y) {
  const width = box.right - box.left;
  const height = box.bottom - box.top;
  const left = clamp(box.left + x, 0, 1 - width);
  const top = clamp(box.top + y, 0, 1 - height);
  return { left, top, right: left + width, bottom: top + height };
}

function resized(box, edge, x, y) {
  const next = { ...box };
  if (edge.includes("left")) next.left = clamp(box.left + x, 0, box.right - MIN_SIDE);
  if (edge.includes("right")) next.right = clamp(box.right + x, box.left + MIN_SIDE, 1);
  if (edge.includes("top")) next.top = clamp(box.top + y, 0, box.bottom - MIN_SIDE);
  if (edge.includes("bottom")) next.bottom = clamp(box.bottom + y, box.top + MIN_SIDE, 1);
  return next;
}

function drawn(from, to) {
  const [left, right] = [from.x, to.x].sort((a, b) => a - b);
  const [top, bottom] = [from.y, to.y].sort((a, b) => a - b);
  const box = { left: Math.min(left, 1 - MIN_SIDE), top: Math.min(top, 1 - MIN_SIDE) };
  return { ...box, right: Math.max(right, box.left + MIN_SIDE), bottom: Math.max(bottom, box.top + MIN_SIDE) };
}

function place(element, { left, top, right, bottom }, area) {
  const { x = 0, y = 0, width, height } = area;
  element.style.left = `${x + left * width}px`;
  element.style.top = `${y + top * height}px`;
  element.style.width = `${(right - left) * width}px`;
  element.style.height = `${(bottom - top) * height}px`;
}

export default function ({ data, parentElement, setStateValue }) {
  const find = (selector) => parentElement.querySelector(selector);
  const [stage, picture, image, shade, frame] = [".stage", ".picture", "img", ".shade", ".box"].map(find);
  const [hint, whole] = [find(".hint"), find(".whole")];

  // Fractions of the image at a point of the window; the margin around it counts as its edge.
  const at = (event) => {
    const area = picture.getBoundingClientRect();
    return {
      x: clamp((event.clientX - area.left) / area.width, 0, 1),
      y: clamp((event.clientY - area.top) / area.height, 0, 1),
    };
  };
  const draw = () => {
    const box = stage.box ?? WHOLE;
    const [width, height] = [picture.offsetWidth, picture.offsetHeight];
    place(shade, box, { width, height });
    place(frame, box, { x: picture.offsetLeft, y: picture.offsetTop, width, height });
    frame.hidden = whole.hidden = !stage.box;
    frame.classList.toggle("narrow", (box.right - box.left) * width < SMALL_PX);
    frame.classList.toggle("low", (box.bottom - box.top) * height < SMALL_PX);
    hint.textContent = stage.box ? "Searches with this part." : "Drag over the image to search with a part.";
  };
  const set = (box) => {
    stage.box = box;
    draw();
  };
  const keep = () => setStateValue("box", SIDES.map((side) => (stage.box ?? WHOLE)[side]));

  if (image.src !== data.image) {
    image.src = data.image;
    stage.box = null;
  }
  const watcher = new ResizeObserver(draw);
  watcher.observe(picture);
  draw();

  stage.onpointerdown = (start) => {
    if (start.button !== 0 || !start.isPrimary) return;
    const from = at(start);
    const before = stage.box;
    const edge = start.target.dataset.edge;
    const inside = before && frame.contains(start.target);
    let dragged = false;
    stage.setPointerCapture(start.pointerId);
    frame.classList.add("dragged");
    stage.onpointermove = (now) => {
      dragged ||= Math.hypot(now.clientX - start.clientX, now.clientY - start.clientY) >= CLICK_PX;
      if (!dragged) return;
      const to = at(now);
      const [x, y] = [to.x - from.x, to.y - from.y];
      if (edge) set(resized(before, edge, x, y));
      else if (inside) set(moved(before, x, y));
      else set(drawn(from, to));
    };
    stage.onpointerup = stage.onpointercancel = () => {
      stage.onpointermove = stage.onpointerup = stage.onpointercancel = null;
      frame.classList.remove("dragged");
      if (!dragged && !inside && before) set(null); // a click beside the box
      else if (!dragged) return;
      keep();
    };
  };
  stage.onkeydown = (event) => {
    const key = KEYS[event.key];
    const removes = event.key === "Delete" || event.key === "Backspace";
    if (key === undefined && !(removes && stage.box)) return;
    event.preventDefault();
    const [x, y] = (key ?? []).map((step) => step * KEY_STEP);
    if (removes) set(null);
    else if (!stage.box) set(KEY_BOX);
    else set(event.shiftKey ? resized(stage.box, "right bottom", x, y) : moved(stage.box, x, y));
    keep();
  };
  whole.onclick = () => {
    set(null);
    keep();
  };
  return () => watcher.disconnect();
}
