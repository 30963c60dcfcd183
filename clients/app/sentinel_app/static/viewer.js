// One photo on the whole screen, with what is known about it.

import { get, Problem, url } from "./api.js";
import { h, iconButton, toast } from "./dom.js";
import { thumbnail } from "./gallery.js";
import * as words from "./words.js";

const SWIPE = 60;
// Shown in words above the others.
const PLAIN = new Set(["path", "file_name", "folder", "size_bytes", "width", "height", "keywords", "caption", "captions", "title", "description", "camera", "lens", "rating", "taken_at", "taken_offset", "modified_at"]);

export class Viewer {
  /** `actions`: close, show, like, more, less, part and remove, each with a tile. */
  constructor(actions) {
    this.actions = actions;
    this.tiles = [];
    this.image = h("img", { class: "large", alt: "", draggable: "false" });
    this.stage = h("div", { class: "stage" }, this.image);
    this.facts = h("aside", { class: "facts", "aria-label": "About this photo" });
    this.count = h("span", { class: "place" });
    this.bar = h("div", { class: "viewerbar" });
    this.dialog = h(
      "dialog",
      { id: "viewer", "aria-label": "Photo" },
      this.bar,
      h("div", { class: "body" }, h("div", { class: "pictures" }, this.stage,
        iconButton("left", "Previous photo (←)", () => this.step(-1), { class: "icon step previous" }),
        iconButton("right", "Next photo (→)", () => this.step(1), { class: "icon step next" })), this.facts),
    );
    document.body.append(this.dialog);
    this.dialog.addEventListener("cancel", (event) => { event.preventDefault(); actions.close(); });
    this.dialog.addEventListener("keydown", (event) => this.#key(event));
    this.image.addEventListener("dblclick", () => this.stage.classList.toggle("zoomed"));
    this.#swipes();
  }

  get open() { return this.dialog.open; }

  /** Show the item with this id, among the tiles that the page has. */
  async show(collection, id, tiles) {
    this.collection = collection;
    this.tiles = tiles;
    this.id = id;
    const tile = tiles.find((one) => one.id === id);
    if (!this.dialog.open) this.dialog.showModal();
    this.#controls(tile ?? { id });
    this.stage.classList.remove("zoomed");
    this.facts.replaceChildren();
    this.image.removeAttribute("src");
    this.stage.querySelector(".words")?.remove();
    if (tile?.v) this.#picture(tile);
    let item;
    try {
      item = await get("item", { c: collection.name, id });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (this.id === id) this.facts.replaceChildren(h("p", { class: "problem" }, error.message), h("p", {}, error.advice));
      return;
    }
    if (this.id !== id || !this.dialog.open) return;
    const whole = { ...item, score: tile?.score, match: tile?.match };
    this.#controls(whole);
    if (!tile?.v && item.v) this.#picture(item);
    if (!item.is_image) this.stage.append(h("p", { class: "words", dir: "auto" }, item.text));
    this.#facts(whole);
  }

  close() {
    this.id = "";
    document.body.append(document.getElementById("toasts"));
    if (this.dialog.open) this.dialog.close();
  }

  step(by) {
    const index = this.tiles.findIndex((one) => one.id === this.id);
    const next = this.tiles[index + by];
    if (next) this.actions.show(next);
    if (index + by > this.tiles.length - 8) this.actions.end();
  }

  #picture(tile) {
    const { image } = this;
    image.alt = tile.name;
    image.width = tile.w;
    image.height = tile.h;
    image.style.setProperty("--ratio", tile.w / tile.h);
    image.src = thumbnail(this.collection.name, tile);
    const side = Math.max(innerWidth, innerHeight) * devicePixelRatio > 1700 ? 2560 : 1600;
    const large = new Image();
    large.src = url("picture", { c: this.collection.name, id: tile.id, v: tile.v, side });
    const isShown = () => this.id === tile.id;
    large.decode()
      .then(() => { if (isShown()) { image.src = large.src; image.dataset.side = side; } })
      .catch(async () => { if (isShown()) toast(await whyNot(large.src), { kind: "problem" }); });
    // The neighbours are probably next.
    const index = this.tiles.findIndex((one) => one.id === tile.id);
    for (const near of [this.tiles[index + 1], this.tiles[index - 1]]) {
      if (near?.v) large.decode().then(() => { if (isShown()) new Image().src = url("picture", { c: this.collection.name, id: near.id, v: near.v, side }); }, () => {});
    }
  }

  #controls(tile) {
    const { actions, collection } = this;
    const index = this.tiles.findIndex((one) => one.id === tile.id);
    const button = (name, label, act) => iconButton(name, label, () => act(tile));
    const isImage = tile.v || tile.is_image;
    this.bar.replaceChildren(
      iconButton("back", "Back to the photos (Esc)", () => actions.close()),
      h("span", { class: "place" }, index < 0 ? "" : `${words.number(index + 1)} of ${words.number(this.tiles.length)}`),
      h("span", { class: "space" }),
      button("like", "More like this (M)", actions.like),
      button("plus", "Add to the search", actions.more),
      button("minus", "Less like this", actions.less),
      isImage ? button("crop", "Search with a part of it", actions.part) : "",
      isImage ? h("a", { class: "icon", href: url("original", { c: collection.name, id: tile.id }), download: "", "aria-label": "Download the original", title: "Download the original" }, iconButton("download", "", null).firstChild) : "",
      iconButton("info", "What is known about it (I)", () => this.dialog.classList.toggle("plainview")),
      collection.may_write ? button("bin", "Delete (Del)", actions.remove) : "",
    );
    this.tile = tile;
  }

  #facts(item) {
    const { fields } = item;
    const fact = (name, ...shown) => (shown.some(Boolean) ? h("div", { class: "fact" }, h("dt", {}, name), h("dd", { dir: "auto" }, shown)) : null);
    const caption = [fields.title, fields.caption ?? fields.captions ?? fields.description].flat().filter(Boolean);
    const path = fields.path ?? "";
    const width = fields.width ?? 0;
    const point = Object.values(fields).find((value) => value && typeof value === "object" && "latitude" in value);
    const numbers = [
      width ? `${words.number(width)} × ${words.number(fields.height)}` : "",
      width * fields.height >= 1e6 ? `${((width * fields.height) / 1e6).toFixed(1)} megapixels` : "",
      fields.size_bytes ? words.size(fields.size_bytes) : "",
    ].filter(Boolean);
    const times = new Set(this.collection.fields.filter(words.isTime).map((one) => one.name));
    const rest = Object.entries(fields).filter(([name, value]) => !PLAIN.has(name) && value !== point && value !== "" && value !== null);
    this.facts.replaceChildren(
      h("h2", { dir: "auto" }, words.fileName(path) || item.name),
      caption.length ? h("p", { class: "caption", dir: "auto" }, caption.join("\n")) : "",
      item.match ? h("p", { class: `level ${item.match}` }, `${words.levelName(item.match).replace(/es$/, "")} for this search`) : "",
      h("dl", {},
        fact("Taken", fields.taken_at ? `${words.dayName(item.time)}, ${words.clock(item.time)}` : ""),
        fact("Camera", [fields.camera, fields.lens].filter(Boolean).join(" · ")),
        fact("Size", numbers.join(" · ")),
        point ? fact("Place", words.place(point), " ", copyButton(`${point.latitude}, ${point.longitude}`, "Copy the place")) : null,
        fact("Keywords", (fields.keywords ?? []).join(", ")),
        fact("Rating", fields.rating ? "★".repeat(Math.min(5, fields.rating)) : ""),
        path ? fact("File", h("span", { class: "path" }, path), " ", copyButton(path, "Copy the path")) : null,
        fact("File changed", fields.modified_at ? words.moment(fields.modified_at) : ""),
        ...rest.map(([name, value]) => fact(words.fieldName(name), times.has(name) ? words.moment(value) : shownValue(value)))),
      h("details", {}, h("summary", {}, "For programs"),
        h("dl", {}, fact("Id", h("span", { class: "path" }, item.id), " ", copyButton(item.id, "Copy the id")),
          item.score === undefined ? null : fact("Score", item.score.toFixed(4)),
          fact("Stored", item.by_reference ? "a reference to the file" : item.is_image ? "a copy of the file" : "the text"))),
    );
  }

  #key(event) {
    if (event.target.closest("input, [popover]")) return;
    const acts = {
      ArrowLeft: () => this.step(-1),
      ArrowRight: () => this.step(1),
      m: () => this.actions.like(this.tile),
      i: () => this.dialog.classList.toggle("plainview"),
      d: () => this.bar.querySelector("a[download]")?.click(),
      z: () => this.stage.classList.toggle("zoomed"),
      Delete: () => this.collection.may_write && this.actions.remove(this.tile),
    };
    if (acts[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      acts[event.key]();
    }
  }

  #swipes() {
    let from = null;
    this.stage.addEventListener("pointerdown", (event) => {
      from = event.isPrimary && event.pointerType === "touch" && !this.stage.classList.contains("zoomed") ? [event.clientX, event.clientY] : null;
    });
    this.stage.addEventListener("pointerup", (event) => {
      if (!from) return;
      const [x, y] = [event.clientX - from[0], event.clientY - from[1]];
      from = null;
      if (Math.abs(x) > SWIPE && Math.abs(x) > 2 * Math.abs(y)) this.step(x < 0 ? 1 : -1);
      else if (y > 2 * SWIPE && Math.abs(y) > 2 * Math.abs(x)) this.actions.close();
    });
    this.stage.addEventListener("pointercancel", () => { from = null; });
  }
}

const shownValue = (value) => (Array.isArray(value) ? value.join(", ") : typeof value === "boolean" ? (value ? "yes" : "no") : String(value));

async function whyNot(address) {
  const answer = await fetch(address).catch(() => null);
  const found = answer && !answer.ok ? await answer.json().catch(() => ({})) : {};
  return [found.advice || found.message || "The photo could not be loaded.", "This is its thumbnail."].join(" ");
}

function copyButton(text, label) {
  return iconButton("copy", label, async (event) => {
    const { currentTarget } = event;
    try {
      await navigator.clipboard.writeText(text);
      toast("Copied", { seconds: 2 });
    } catch {
      // Not on an encrypted address: select it, so that Ctrl-C copies it.
      getSelection().selectAllChildren(currentTarget.previousSibling?.previousSibling ?? currentTarget.parentElement);
      toast("Selected. Press Ctrl-C to copy it.");
    }
  });
}
