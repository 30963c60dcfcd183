// A picture with a box to drag. Keeps `box`, [left, top, right, bottom] in fractions of the picture.
const LEAST = 0.05;
const NUDGE = 0.02;
const SIDES = ["left", "top", "right", "bottom"];

const within = (value, low, high) => Math.min(high, Math.max(low, value));

function moved(box, x, y) {
  const width = box.right - box.left;
  const height = box.bottom - box.top;
  const left = within(box.left + x, 0, 1 - width);
  const top = within(box.top + y, 0, 1 - height);
  return { left, top, right: left + width, bottom: top + height };
}

function resized(box, corner, x, y) {
  const next = { ...box };
  if (corner.includes("left")) next.left = within(box.left + x, 0, box.right - LEAST);
  if (corner.includes("right")) next.right = within(box.right + x, box.left + LEAST, 1);
  if (corner.includes("top")) next.top = within(box.top + y, 0, box.bottom - LEAST);
  if (corner.includes("bottom")) next.bottom = within(box.bottom + y, box.top + LEAST, 1);
  return next;
}

export default function ({ data, parentElement, setStateValue }) {
  const stage = parentElement.querySelector(".stage");
  const frame = parentElement.querySelector(".box");
  const picture = parentElement.querySelector("img");
  if (picture.src !== data.image) {
    picture.src = data.image;
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
      ArrowLeft: [-NUDGE, 0], ArrowRight: [NUDGE, 0], ArrowUp: [0, -NUDGE], ArrowDown: [0, NUDGE],
    };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    stage.box = event.shiftKey ? resized(stage.box, "right bottom", ...step) : moved(stage.box, ...step);
    draw();
    keep();
  };
}
