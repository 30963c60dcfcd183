// Replace small thumbnails by sharper copies, for what is visible, on screens that can show more.

import { url } from "./api.js";

const SIDES = [360, 640, 960];
const AT_ONCE = 2;
// Not worth a request.
const TOLERANCE = 1.15;

export function sharpen() {
  const wanted = new Map(); // visible pictures that could be sharper
  const running = new Set();
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) wanted.set(target, true);
      else wanted.delete(target);
    }
    next();
  }, { rootMargin: "120px" });
  const known = new WeakMap();

  function next() {
    for (const image of wanted.keys()) {
      if (running.size >= AT_ONCE) return;
      if (!image.isConnected || !image.complete || !image.naturalWidth) continue;
      wanted.delete(image);
      load(image);
    }
  }

  function load(image) {
    const { collection, tile } = known.get(image);
    const needed = Math.max(image.clientWidth, image.clientHeight) * devicePixelRatio;
    const shown = Math.max(image.naturalWidth, image.naturalHeight);
    const side = SIDES.find((one) => one >= needed) ?? SIDES.at(-1);
    if (needed <= shown * TOLERANCE || side <= shown) return;
    const better = new Image();
    running.add(better);
    better.src = url("picture", { c: collection, id: tile.id, v: tile.v, side });
    better.decode()
      .then(() => {
        if (!image.isConnected) return;
        image.src = better.src;
        image.dataset.sharp = side;
        seen.unobserve(image);
      })
      .catch(() => seen.unobserve(image)) // the thumbnail stays
      .finally(() => {
        running.delete(better);
        next();
      });
  }

  return {
    watch(image, collection, tile) {
      known.set(image, { collection, tile });
      image.addEventListener("load", next, { once: true });
      seen.observe(image);
    },
    forget() {
      seen.disconnect();
      wanted.clear();
    },
  };
}
