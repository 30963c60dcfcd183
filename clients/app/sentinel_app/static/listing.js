// The pages of photos or hits that belong to one address. They are kept for the back button.

import { isSearch, termsOf } from "./address.js";
import { Problem, post } from "./api.js";
import * as words from "./words.js";

const KEPT = 6;
const kept = new Map();

/** Return the listing of what the page shows; the same one as before, if it is still kept. */
export function listingOf(view, collection) {
  const { item, ...asked } = view;
  const key = JSON.stringify({ ...asked, collection: collection.name });
  const found = kept.get(key) ?? new Listing(view, collection);
  kept.delete(key);
  kept.set(key, found);
  if (kept.size > KEPT) kept.delete(kept.keys().next().value);
  return found;
}

/** Ask for everything again, since something was added, deleted or brought back. */
export const forgetListings = () => kept.clear();

class Listing {
  constructor(view, collection) {
    this.collection = collection;
    this.isSearch = isSearch(view);
    this.tiles = [];
    this.scroll = 0;
    this.problem = null;
    this.notices = [];
    this.timings = null;
    this.done = false;
    this.request = {
      collection: collection.name,
      terms: termsOf(view),
      filters: view.filters,
      words: view.words,
      stacks: view.stacks,
      before: view.before && !this.isSearch ? words.endOf(view.before) : "",
      page: "",
    };
    this.loading = null;
  }

  /** Load the next page; return its tiles. Only one call loads at a time. */
  async more() {
    if (this.done || this.loading) return [];
    this.problem = null;
    this.loading = new AbortController();
    try {
      const page = await post("page", this.request, this.loading.signal);
      performance.mark("hits");
      this.request.page = page.next;
      this.done = !page.next;
      this.tiles.push(...page.tiles);
      if (this.timings === null) [this.timings, this.notices] = [page.timings ?? null, page.notices ?? []];
      return page.tiles;
    } catch (error) {
      if (error.name === "AbortError") return [];
      if (!(error instanceof Problem)) throw error;
      this.problem = error;
      return [];
    } finally {
      this.loading = null;
    }
  }

  /** End the request that runs: nobody looks at it any more. */
  leave() {
    this.loading?.abort();
    this.scroll = scrollY;
  }

  remove(ids) {
    this.tiles = this.tiles.filter((tile) => !ids.has(tile.id));
  }

  headingOf(tile) {
    if (this.isSearch) return words.levelName(tile.match);
    return this.collection.time ? words.monthName(words.monthOf(tile.time)) : "";
  }

  /** Whether the best hit is no better than hits for things that are not there. */
  get isHopeless() {
    return this.isSearch && this.tiles[0]?.match === "weak";
  }
}
