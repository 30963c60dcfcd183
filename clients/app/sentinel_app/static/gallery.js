// Justified rows of photos that grow while one scrolls. Everything has its size before a picture
// arrives, so nothing jumps.

import { url } from "./api.js";
import { h, icon, iconButton } from "./dom.js";
import { sharpen } from "./sharpen.js";
import { strength } from "./words.js";

const GAP = 4;
// A block is laid out as a whole, and browsers skip blocks that are not visible.
const MOST_IN_BLOCK = 120;
const LEAST_BLOCK = 150; // for its heading
// No picture becomes a sliver or fills a row alone, whatever its shape.
const RATIOS = [0.45, 2.8];

export const thumbnail = (collection, tile) => url("thumbnail", { c: collection, id: tile.id, v: tile.v });

export class Gallery {
  /** `actions`: open, like, more, less and stack, each with a tile; more loads the next page. */
  constructor(root, actions) {
    this.root = root;
    this.actions = actions;
    this.end = h("div", { class: "end" });
    this.blocks = [];
    this.sharp = sharpen();
    this.width = 0;
    new ResizeObserver(() => this.#resized()).observe(root);
    // Load the next page before one sees the end of this one.
    const near = new IntersectionObserver((entries) => entries.some((one) => one.isIntersecting) && actions.end(), { rootMargin: "1200px" });
    near.observe(this.end);
  }

  clear(collection, levels) {
    this.collection = collection;
    this.levels = levels;
    this.blocks = [];
    this.sharp.forget();
    this.root.replaceChildren(this.end);
  }

  /** Append tiles; `headingOf` returns the heading under which a tile belongs. */
  append(tiles, headingOf) {
    this.width = this.root.clientWidth;
    const changed = new Set();
    for (const tile of tiles) {
      const heading = headingOf(tile);
      let block = this.blocks.at(-1);
      if (!block || block.heading !== heading) block = this.#newBlock(heading, heading);
      else if (block.tiles.length >= MOST_IN_BLOCK) block = this.#continued(block);
      block.tiles.push(tile);
      block.rows.append(this.#tile(tile));
      changed.add(block);
    }
    for (const block of changed) this.#layOut(block);
  }

  remove(ids) {
    for (const block of this.blocks) {
      const kept = block.tiles.filter((tile) => !ids.has(tile.id));
      if (kept.length === block.tiles.length) continue;
      for (const element of [...block.rows.children]) if (ids.has(element.dataset.id)) element.remove();
      block.tiles = kept;
      if (kept.length) this.#layOut(block);
      else block.element.remove();
    }
    this.blocks = this.blocks.filter((block) => block.tiles.length);
  }

  /** Ask again whether the end is visible. */
  nudge() {
    const { top } = this.end.getBoundingClientRect();
    if (this.end.isConnected && top < innerHeight + 1200) this.actions.end();
  }

  focus(id) {
    const tile = [...this.root.querySelectorAll("a.tile")].find((one) => one.dataset.id === id);
    tile?.focus({ preventScroll: true });
    tile?.scrollIntoView({ block: "nearest" });
  }

  #newBlock(heading, title) {
    const rows = h("div", { class: "rows" });
    const element = h("section", { class: "block" }, title ? h("h2", {}, title) : null, rows);
    const block = { heading, element, rows, tiles: [], title };
    if (title) element.dataset.heading = heading;
    this.end.before(element);
    this.blocks.push(block);
    return block;
  }

  /** Start another block under the same heading. It takes the row that is not full yet. */
  #continued(full) {
    const rows = justify(full.tiles.map(ratio), this.width, this.#rowHeight());
    const last = rows.at(-1);
    const block = this.#newBlock(full.heading, "");
    if (!last.full) {
      block.tiles = full.tiles.splice(-last.count);
      block.rows.append(...[...full.rows.children].slice(-last.count));
      this.#layOut(full);
    }
    return block;
  }

  #rowHeight() {
    return this.width < 600 ? 132 : this.width < 1100 ? 190 : 224;
  }

  #layOut(block) {
    const elements = block.rows.children;
    const rows = justify(block.tiles.map(ratio), this.width, this.#rowHeight());
    let index = 0;
    let height = 0;
    for (const row of rows) {
      for (const wide of row.widths) {
        const { style } = elements[index];
        style.width = `${wide}px`;
        style.height = `${row.height}px`;
        index += 1;
      }
      height += row.height + GAP;
    }
    // Months with few photos share a line.
    const [first] = rows;
    const isShort = block.heading && rows.length === 1 && !first.full;
    const wide = isShort ? first.widths.reduce((sum, one) => sum + one + GAP, 0) : 0;
    block.element.style.inlineSize = isShort ? `${Math.max(LEAST_BLOCK, wide)}px` : "100%";
    block.element.style.containIntrinsicBlockSize = `${Math.round(height + (block.title ? 52 : 0))}px`;
  }

  #resized() {
    if (Math.abs(this.root.clientWidth - this.width) < 1) return;
    this.width = this.root.clientWidth;
    for (const block of this.blocks) this.#layOut(block);
  }

  #tile(tile) {
    const { actions } = this;
    const open = (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      (tile.stack && !event.altKey ? actions.stack : actions.open)(tile);
    };
    const label = tile.stack ? `${tile.name}, and ${tile.stack.length} like it` : tile.name;
    const link = h("a", { class: "tile", href: actions.address(tile), "aria-label": label, onclick: open });
    link.dataset.id = tile.id;
    if (tile.v) {
      // `name` is on the link: a screen reader says it once.
      const image = h("img", { alt: "", src: thumbnail(this.collection, tile), loading: "lazy", decoding: "async", draggable: "false" });
      image.addEventListener("error", () => link.classList.add("broken"), { once: true });
      link.append(image);
      this.sharp.watch(image, this.collection, tile);
    } else {
      link.classList.add("text");
      link.append(h("p", { dir: "auto" }, tile.text || tile.name));
    }
    const parts = [link];
    if (tile.stack) link.append(h("span", { class: "count" }, icon("stack"), String(tile.stack.length + 1)));
    if (tile.score !== undefined) {
      const bar = h("span", { class: `bar ${tile.match ?? ""}` }, h("i"));
      bar.firstChild.style.inlineSize = `${Math.round(100 * strength(tile.score, this.levels))}%`;
      link.append(bar);
    }
    const button = (name, label, action) => iconButton(name, label, () => action(tile), { tabindex: "-1" });
    parts.push(
      h(
        "span",
        { class: "quick" },
        button("like", "More like this", actions.like),
        button("plus", "Add to the search", actions.more),
        button("minus", "Less like this", actions.less),
      ),
    );
    const cell = h("div", { class: "cell" }, parts);
    cell.dataset.id = tile.id;
    return cell;
  }
}

function ratio(tile) {
  if (!tile.v) return 1.25;
  return Math.max(RATIOS[0], Math.min(RATIOS[1], tile.w / tile.h));
}

/** Return rows of whole pixels that fill `width`; only the last one may be short. */
export function justify(ratios, width, target) {
  const rows = [];
  let start = 0;
  let sum = 0;
  for (let index = 0; index < ratios.length; index += 1) {
    sum += ratios[index];
    const count = index - start + 1;
    const space = width - GAP * (count - 1);
    if (space / sum <= target) {
      rows.push(row(ratios.slice(start, index + 1), space, space / sum, true));
      [start, sum] = [index + 1, 0];
    }
  }
  if (start < ratios.length) rows.push(row(ratios.slice(start), Infinity, target, false));
  return rows;
}

function row(ratios, space, height, full) {
  const widths = ratios.map((one) => Math.floor(one * height));
  // What rounding left over goes to the first ones.
  const left = full ? Math.floor(space - widths.reduce((a, b) => a + b, 0)) : 0;
  for (let index = 0; index < left; index += 1) widths[index % widths.length] += 1;
  return { widths, height: Math.round(height), full, count: ratios.length };
}
