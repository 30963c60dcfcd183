// The page: what the address says is shown, and every click changes the address.

import { Adding, takesFiles } from "./adding.js";
import { format, go, read, watch } from "./address.js";
import { get, post, Problem } from "./api.js";
import { h, icon, iconButton, toast } from "./dom.js";
import { filterChips } from "./filters.js";
import { Gallery } from "./gallery.js";
import { headline } from "./headline.js";
import { showHelp, watchKeys } from "./keys.js";
import { forgetListings, listingOf } from "./listing.js";
import { addTerm, cropDialog, less, like, more, searchBox, searchWith, termChips } from "./search.js";
import { forgetTimeline, showTimeline } from "./timeline.js";
import { Viewer } from "./viewer.js";
import * as words from "./words.js";

const AGAIN_MS = 3000;
const main = document.getElementById("photos");
const above = h("div", { class: "above" });
const root = h("div", { class: "gallery" });
const below = h("div", { class: "below" });
main.append(above, root, below);

let server = null; // what /api/state said last
let listing = null;
let asking = false;

const box = searchBox(document.getElementById("search"));
const adding = new Adding(stored, () => server.index_command);
const open = (tile) => go({ item: tile.id }, { replace: viewer.open });
const actions = {
  open, like, more, less, end: loadMore,
  address: (tile) => format({ ...read(), item: tile.id }),
  stack: openStack,
};
const gallery = new Gallery(root, actions);
const viewer = new Viewer({ close: closeViewer, show: open, like, more, less, part, remove, end: loadMore });

function collectionOf(view) {
  const { collections } = server;
  const named = collections.find((one) => one.name === view.collection);
  const usual = collections.find((one) => one.name === "photos" && one.count);
  return named ?? usual ?? collections.toSorted((a, b) => b.count - a.count)[0];
}

async function render() {
  if (!server) return;
  const view = read();
  const collection = collectionOf(view);
  drawTools(collection);
  box.show(view);
  if (!collection) {
    showWelcome();
    return;
  }
  document.title = view.text ? `${view.text} – Sentinel` : "Sentinel";
  document.getElementById("chips").replaceChildren(...collectionChoice(collection), ...termChips({ ...view, collection: collection.name }), ...filterChips(view, collection));
  const next = listingOf(view, collection);
  showTimeline(collection, !next.isSearch && Boolean(collection.time) && !view.filters.length, view.before || words.monthOf(next.tiles[0]?.time));
  if (next !== listing) showListing(next, view, collection);
  if (view.item) viewer.show(collection, view.item, listing.tiles);
  else if (viewer.open) {
    const { id } = viewer;
    viewer.close();
    gallery.focus(id);
  }
}

async function showListing(next, view, collection) {
  listing?.leave();
  listing = next;
  gallery.clear(collection.name, collection.levels);
  above.replaceChildren(...headline(view, collection, listing));
  below.replaceChildren();
  if (listing.tiles.length) {
    draw(listing.tiles);
    scrollTo({ top: listing.scroll, behavior: "instant" });
  } else {
    scrollTo({ top: 0, behavior: "instant" });
    await loadMore();
  }
}

async function loadMore() {
  const current = listing;
  if (!current || current.done || current.loading || current.problem) return;
  root.ariaBusy = "true";
  const isFirst = !current.tiles.length;
  const tiles = await current.more();
  if (current !== listing) return;
  root.ariaBusy = "false";
  if (current.problem) showProblem(current.problem);
  else if (isFirst) above.replaceChildren(...headline(read(), current.collection, current));
  draw(tiles);
  if (!current.tiles.length && current.done) showNothing(current);
  if (viewer.open) viewer.tiles = current.tiles;
}

function draw(tiles) {
  gallery.append(tiles, (tile) => listing.headingOf(tile));
  requestAnimationFrame(() => gallery.nudge());
}

function openStack(tile) {
  const { stack } = tile;
  delete tile.stack;
  const index = listing.tiles.indexOf(tile);
  listing.tiles.splice(index + 1, 0, ...stack);
  gallery.clear(listing.collection.name, listing.collection.levels);
  const at = scrollY;
  draw(listing.tiles);
  scrollTo({ top: at, behavior: "instant" });
  gallery.focus(tile.id);
}

// --- the photo on the whole screen

function closeViewer() {
  // Back to where the page was, if it was there.
  if (history.state?.ours) history.back();
  else go({ item: "" }, { replace: true });
}

async function part(tile) {
  try {
    const { id } = await post("query-image-of", { collection: listing.collection.name, id: tile.id });
    const term = { kind: "image", value: id, weight: 1, crop: null };
    cropDialog(term, (crop) => addTerm({ ...term, crop }, { alone: true }));
  } catch (error) {
    tell(error);
  }
}

async function remove(tile) {
  const { collection } = listing;
  const ids = new Set([tile.id]);
  let token;
  try {
    ({ token } = await post("delete", { collection: collection.name, ids: [...ids] }));
  } catch (error) {
    tell(error);
    return;
  }
  const index = listing.tiles.findIndex((one) => one.id === tile.id);
  listing.remove(ids);
  gallery.remove(ids);
  if (viewer.open) {
    const neighbour = listing.tiles[index] ?? listing.tiles[index - 1];
    if (neighbour) open(neighbour);
    else closeViewer();
  }
  const undo = async () => {
    try {
      await post("undo", { token });
      changed();
    } catch (error) {
      tell(error);
    }
  };
  const text = tile.by_reference ? "Removed from the collection. The file stays where it is." : "Deleted from the collection.";
  toast(text, { action: ["Undo", undo], seconds: server.undo_seconds - 1 });
}

// --- what surrounds the photos

function collectionChoice(collection) {
  if (server.collections.length < 2) return [];
  const choice = h("select", { class: "chip", "aria-label": "Collection", onchange: () => go({ collection: choice.value, terms: [], filters: [], before: "", item: "" }) },
    server.collections.map((one) => h("option", { value: one.name, selected: one === collection }, `${one.name} (${words.number(one.count)})`)));
  return [choice];
}

function drawTools(collection) {
  const tools = document.getElementById("tools");
  tools.replaceChildren(
    collection?.may_write ? h("button", { type: "button", class: "add", "aria-label": "Add photos", title: "Add photos", onclick: () => adding.choose(collection) }, icon("add"), h("span", {}, "Add")) : "",
    iconButton("help", "Keyboard help (?)", showHelp, { class: "icon wide" }),
  );
}

function showWelcome() {
  const create = async () => {
    try {
      await post("create", { collection: "photos" });
      await refresh();
    } catch (error) {
      tell(error);
    }
  };
  above.replaceChildren(h("div", { class: "welcome" }, h("h1", {}, "No photos yet"),
    h("p", {}, "Index a folder. It stays where it is:"), h("pre", {}, h("code", {}, `${server.index_command} ~/Pictures`)),
    server.may_create ? [h("p", {}, "Or make an empty collection and drop photos onto this page."), h("button", { type: "button", class: "primary", onclick: create }, "Make a collection")] : ""));
  gallery.clear("", null);
}

function showNothing({ collection, isSearch, request }) {
  const filtered = request.filters.length > 0;
  if (collection.count && (isSearch || filtered)) {
    below.replaceChildren(h("div", { class: "welcome" }, h("h1", {}, "Nothing found"), filtered ? [h("p", {}, "No photo fits all the filters."), h("button", { type: "button", onclick: () => go({ filters: [], item: "" }) }, "Remove the filters")] : h("p", {}, "Try other words.")));
    return;
  }
  below.replaceChildren(h("div", { class: "welcome" }, h("h1", {}, `${collection.name} is empty`), h("p", {}, "Index a folder. It stays where it is:"),
    h("pre", {}, h("code", {}, `${server.index_command} ~/Pictures --collection ${collection.name}`)),
    collection.may_write ? [h("p", {}, "Or drop photos or a zip onto this page."), h("button", { type: "button", class: "primary", onclick: () => adding.choose(collection) }, icon("add"), "Add photos")] : ""));
}

function showProblem(problem) {
  const again = () => { listing.problem = null; below.replaceChildren(); loadMore(); };
  below.replaceChildren(h("div", { class: "welcome" }, h("p", { class: "problem" }, problem.message), problem.advice ? h("p", {}, problem.advice) : "", h("button", { type: "button", onclick: again }, "Try again")));
  if (problem.temporary) watchGateway(problem);
}

function tell(error) {
  if (!(error instanceof Problem)) throw error;
  toast([error.advice || error.message].join(" "), { kind: "problem" });
  if (error.status === 0 || error.status >= 503) watchGateway(error);
}

/** Say that the gateway is away, until it is back. */
async function watchGateway(problem) {
  const banner = document.getElementById("banner");
  banner.replaceChildren(h("b", {}, problem.message), ` ${problem.advice} Trying again every few seconds. Your search and your filters are kept.`);
  banner.hidden = false;
  if (asking) return;
  asking = true;
  for (;;) {
    await new Promise((done) => setTimeout(done, AGAIN_MS));
    try {
      server = await get("state");
      break;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      banner.replaceChildren(h("b", {}, error.message), ` ${error.advice} Trying again every few seconds. Your search and your filters are kept.`);
    }
  }
  asking = false;
  banner.hidden = true;
  if (!listing || listing.problem) changed();
  else render();
}

/** Ask for everything again: something was added or came back. */
function changed() {
  forgetListings();
  forgetTimeline();
  listing?.leave();
  listing = null;
  render();
}

async function stored(collection, run) {
  if (run.stored) {
    server = await get("state").catch(() => server);
    changed();
  }
}

async function refresh() {
  try {
    server = await get("state");
    document.getElementById("banner").hidden = true;
    await render();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    watchGateway(error);
  }
}

const current = () => (server ? collectionOf(read()) : null);
document.getElementById("home").addEventListener("click", (event) => {
  event.preventDefault();
  go({ text: "", terms: [], filters: [], before: "", item: "" });
});
takesFiles({ search: searchWith, add: (files) => adding.add(files, current()), mayAdd: () => Boolean(current()?.may_write) });
watchKeys({ search: () => box.focus() });
watch(render);
history.scrollRestoration = "manual";
refresh();
