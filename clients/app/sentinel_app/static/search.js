// The search box, and chips for all other terms of a search with their weights.

import { go, read } from "./address.js";
import { PICTURES, Problem, queryImage, url } from "./api.js";
import { cropper } from "./crop.js";
import { h, icon, iconButton, opensPanel, toast } from "./dom.js";

export const MOST_TERMS = 16;
const EXAMPLES = ["a dog on the beach", "birthday cake", "snow in the mountains", "people at a table", "a red car", "flowers", "a city at night"];
const LESS = -0.5;

/** Fill the search form. Returns `{show(view), focus()}`. */
export function searchBox(form) {
  const input = h("input", { type: "search", name: "q", placeholder: "Search your photos", "aria-label": "Search your photos", enterkeyhint: "search", maxlength: 2000 });
  const file = h("input", { type: "file", accept: PICTURES, hidden: true, "aria-label": "A picture to search with" });
  const examples = h("div", { class: "examples", hidden: true },
    h("p", {}, "Describe what you look for, or drop or paste a picture anywhere."),
    EXAMPLES.map((text) => h("button", { type: "button", onclick: () => ask(text) }, icon("search"), text)));
  form.append(icon("search"), input, iconButton("picture", "Search with a picture", () => file.click()), file, examples);

  function ask(text) {
    input.value = text;
    examples.hidden = true;
    input.blur();
    go({ text: text.trim(), before: "", item: "" });
  }
  form.addEventListener("submit", (event) => { event.preventDefault(); ask(input.value); });
  // The cross of the browser, and Esc.
  input.addEventListener("search", () => { if (!input.value && read().text) go({ text: "", item: "" }); });
  input.addEventListener("input", () => { examples.hidden = Boolean(input.value); });
  input.addEventListener("focus", () => { examples.hidden = Boolean(input.value); });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { examples.hidden = true; input.blur(); }
    if (event.key === "ArrowDown" && !examples.hidden) examples.querySelector("button").focus();
  });
  form.addEventListener("focusout", (event) => { if (!form.contains(event.relatedTarget)) examples.hidden = true; });
  file.addEventListener("change", () => { searchWith(file.files[0]); file.value = ""; });
  return {
    show(view) { if (document.activeElement !== input || !input.value) input.value = view.text; },
    focus() { input.focus(); input.select(); },
  };
}

/** Search with an image that a person has dropped, pasted or chosen. */
export async function searchWith(file) {
  if (!file) return;
  const end = toast("Reading the picture …", { seconds: 60 });
  try {
    addTerm(await queryImage(file), { alone: true });
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    toast(`${file.name || "The picture"}: ${error.message}`, { kind: "problem" });
  } finally {
    end();
  }
}

/** Add a term to the search; `alone`: search for nothing else. */
export function addTerm(term, { alone = false } = {}) {
  const view = read();
  const others = alone ? [] : view.terms.filter((one) => one.kind !== term.kind || one.value !== term.value);
  if (others.length + (view.text && !alone ? 2 : 1) > MOST_TERMS) {
    toast(`A search has ${MOST_TERMS} terms at most. Remove one first.`, { kind: "problem" });
    return;
  }
  const kept = alone ? { text: "" } : {};
  go({ ...kept, terms: [...others, term], before: "", item: "" });
}

export const like = (tile) => addTerm({ kind: "item", value: tile.id, weight: 1, crop: null }, { alone: true });
export const more = (tile) => addTerm({ kind: "item", value: tile.id, weight: 1, crop: null });
export const less = (tile) => addTerm({ kind: "item", value: tile.id, weight: LESS, crop: null });

/** Return a chip for each term. */
export function termChips(view) {
  return view.terms.map((term, index) => {
    const change = (changes) => go({ terms: view.terms.map((one, at) => (at === index ? { ...one, ...changes } : one)), item: "" });
    const remove = () => go({ terms: view.terms.filter((_, at) => at !== index), item: "" });
    const name = term.kind === "text" ? term.value : term.kind === "item" ? "photo" : term.crop ? "part of a picture" : "picture";
    const sign = term.weight < 0 ? "less like" : "like";
    const label = h("button", { type: "button", class: "label", "aria-label": `Change: ${sign} this ${name}` }, term.weight < 0 ? h("b", {}, "−") : null, picture(term, view.collection), h("span", {}, term.kind === "text" ? term.value : `${sign} this${term.crop ? " part" : ""}`), weightText(term.weight));
    const chip = h("span", { class: `chip term ${term.weight < 0 ? "less" : ""}` }, label, iconButton("close", `Remove this ${name}`, remove));
    opensPanel(label, (close) => termPanel(term, change, close), "Change this term");
    return chip;
  });
}

const weightText = (weight) => (Math.abs(weight) === 1 ? null : h("small", {}, `×${Math.abs(weight)}`));

export function pictureAddress(term, collection) {
  return term.kind === "image" ? url("query-image", { id: term.value }) : url("thumbnail", { c: collection, id: term.value });
}

function picture(term, collection) {
  if (term.kind === "text") return icon("words");
  const image = h("img", { alt: "", src: pictureAddress(term, collection), draggable: "false" });
  const box = h("span", { class: "mini" }, image);
  if (term.crop) {
    const [left, top, right, bottom] = term.crop;
    image.style.width = `${100 / (right - left)}%`;
    image.style.height = `${100 / (bottom - top)}%`;
    image.style.translate = `${-left * 100}% ${-top * 100}%`;
    box.classList.add("part");
  }
  image.addEventListener("error", () => box.replaceChildren(icon("picture")), { once: true });
  return box;
}

function termPanel(term, change, close) {
  const shown = h("output", {}, String(term.weight));
  const slider = h("input", { type: "range", min: -2, max: 2, step: 0.1, value: term.weight, "aria-label": "Weight", oninput: () => { shown.value = slider.value; } });
  const done = () => { close(); change({ weight: Number(slider.value) || 0.1 }); };
  const parts = [
    h("h3", {}, "How much this counts"),
    h("div", { class: "row" }, h("span", {}, "less like it"), slider, h("span", {}, "more"), shown),
  ];
  if (term.kind === "image") parts.push(h("button", { type: "button", onclick: () => { close(); cropDialog(term, (crop) => change({ crop })); } }, icon("crop"), "Search with a part of it"));
  return [...parts, h("button", { type: "button", class: "primary", onclick: done }, "Search")];
}

/** Let a person draw a box on the image of a term; call `done` with the box or null. */
export function cropDialog(term, done) {
  const whole = h("button", { type: "button", onclick: () => tool.set(null) }, "Whole picture");
  const middle = h("button", { type: "button", onclick: () => tool.set([0.25, 0.25, 0.75, 0.75]) }, "Box in the middle");
  const tool = cropper(url("query-image", { id: term.value }), term.crop, (box) => { whole.disabled = !box; });
  const dialog = h("dialog", { class: "crop", "aria-label": "Choose a part of the picture" },
    h("header", {}, h("h2", {}, "Draw a box around what you look for"), iconButton("close", "Close", () => dialog.close())),
    h("div", { class: "field" }, tool.element),
    h("footer", {}, middle, whole, h("span", { class: "space" }), h("button", { type: "button", class: "primary", onclick: () => { dialog.close(); done(tool.box()); } }, icon("search"), "Search")));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
