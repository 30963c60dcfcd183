// The line above the photos: what they are, how good the matches are, and what a person should know.

import { go } from "./address.js";
import { h, icon, iconButton, opensPanel } from "./dom.js";
import * as words from "./words.js";

const DEMO = "sentinel models use siglip2-b16";

/** Return what stands above the photos of a listing. */
export function headline(view, collection, listing) {
  const line = h("div", { class: "headline" });
  if (!listing.isSearch) {
    const title = view.filters.length ? "Photos that fit the filters" : view.before ? `Up to ${words.monthName(view.before)}` : "";
    if (title) line.append(h("h1", {}, title));
    if (view.before) line.append(h("button", { type: "button", class: "plain", onclick: () => go({ before: "", item: "" }) }, "Newest photos"));
    if (!title) line.classList.add("empty");
    return [line];
  }
  line.append(h("h1", { dir: "auto" }, titleOf(view)), h("span", { class: "space" }));
  if (collection.words && view.text) line.append(toggle("Also search words", view.words, (words) => go({ words, item: "" })));
  line.append(toggle("Stack look-alikes", view.stacks, (stacks) => go({ stacks, item: "" })));
  if (listing.timings) {
    const about = iconButton("info", "How long it took");
    line.append(h("span", { class: "holder" }, about));
    opensPanel(about, () => timings(listing.timings), "How long it took");
  }
  return [line, ...messages(view, collection, listing)];
}

function titleOf(view) {
  if (view.text) return view.terms.length ? `“${view.text}” and ${words.plural(view.terms.length, "more term")}` : `“${view.text}”`;
  return view.terms.length === 1 && view.terms[0].weight > 0 ? "More like this" : "Mixed search";
}

function messages(view, collection, listing) {
  const found = [];
  if (listing.isHopeless) {
    const nearest = "These photos are only the nearest ones.";
    found.push(message("weak", "No good match.", collection.demo ? `${nearest} The demo model is often wrong about this.` : nearest));
  }
  for (const notice of listing.notices) found.push(message("notice", "", notice.text));
  if (collection.demo && listing.tiles.length) {
    found.push(h("p", { class: "message demo" }, icon("info"), h("span", {}, "The demo model finds far less than a real one. Get one with ", h("code", {}, DEMO), ".")));
  }
  return found;
}

function message(kind, strong, text) {
  return h("p", { class: `message ${kind}` }, icon("info"), h("span", {}, strong ? h("b", {}, strong, " ") : null, text));
}

function toggle(label, on, change) {
  return h("button", { type: "button", class: "chip toggle", "aria-pressed": String(on), onclick: () => change(!on) }, label);
}

function timings(found) {
  const rows = { total: "All in the gateway", embed: "Embedding the query", embed_queue: "… of that, waiting", embed_inference: "… of that, the model", vector_search: "Searching vectors" };
  return [
    h("h3", {}, "How long it took"),
    h("dl", { class: "timings" }, Object.entries(rows).filter(([name]) => found[name]).map(([name, label]) => [h("dt", {}, label), h("dd", {}, words.milliseconds(found[name]))])),
    found.embed_cached ? h("p", {}, "The query was embedded before.") : null,
  ];
}
