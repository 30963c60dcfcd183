// An image with a box to drag. Its state `box` is [left, top, right, bottom], as fractions of the
// image.
const MIN_SIDE = 0.05;
const KEY_STEP = 0.02;
const SIDES = ["left", "top", "right", "bottom"];

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function moved(box, x, y) {
  const width = box.right - box.left;
  const height = box.bottom - box.top;
  const left = clamp(box.left + x, 0, 1 - width);
  const top = clamp(box.top + y, 0, 1 - height);
  return { left, top, right: left + width, bottom: top + height };
}

function resized(box, corner, x, y) {
  const next = { ...box };
  if (corner.includes("left")) next.left = clamp(box.left + x, 0, box.right - MIN_SIDE);
  if (corner.includes("right")) next.right = clamp(box.right + x, box.left + MIN_SIDE, 1);
  if (corner.includes("top")) next.top = clamp(box.top + y, 0, box.bottom - MIN_SIDE);
  if (corner.includes("bottom")) next.bottom = clamp(box.bottom + y, box.top + MIN_SIDE, 1);
  return next;
}

export default function ({ data, parentElement, setStateValue }) {
  const stage = parentElement.querySelector(".stage");
  const frame = parentElement.querySelector(".box");
  const image = parentElement.querySelector("img");
  if (image.src !== data.image) {
    image.src = data.image;
    stage.box = { left: 0, top: 0, right: 1, bottom: 1 };
  }
  const draw = () => {
    const { left, top, right, bottom } = stage.box;
    frame.style.left = `${left * 100}%`;
    frame.style.top = `${top * 100}%`;
    frame.style.width = `${(right - left) * 100}%`;
    frame.style.height = `${(bottom - top) * 100}%`;
  };
  const keep = () => setStateValue("box", SIDES.map((side) => stage.box[side]));
  draw();

  frame.onpointerdown = (start) => {
    const corner = start.target.dataset.corner ?? "";
    const before = { ...stage.box };
    const size = stage.getBoundingClientRect();
    frame.setPointerCapture(start.pointerId);
    frame.onpointermove = (now) => {
      const x = (now.clientX - start.clientX) / size.width;
      const y = (now.clientY - start.clientY) / size.height;
      stage.box = corner ? resized(before, corner, x, y) : moved(before, x, y);
      draw();
    };
    frame.onpointerup = frame.onpointercancel = () => {
      frame.onpointermove = frame.onpointerup = frame.onpointercancel = null;
      keep();
    };
  };
  frame.onkeydown = (event) => {
    const steps = {
      ArrowLeft: [-KEY_STEP, 0], ArrowRight: [KEY_STEP, 0], ArrowUp: [0, -KEY_STEP], ArrowDown: [0, KEY_STEP],
    };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    stage.box = event.shiftKey ? resized(stage.box, "right bottom", ...step) : moved(stage.box, ...step);
    draw();
    keep();
  };
}
