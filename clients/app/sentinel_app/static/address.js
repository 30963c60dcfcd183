// What the page shows, as its address. A link, a reload and the back button bring back all of it.

export const EMPTY = { collection: "", text: "", terms: [], filters: [], words: false, stacks: true, before: "", item: "" };
let listener = () => {};

/** Read the address. Whatever is malformed in it is left out. */
export function read() {
  const query = new URLSearchParams(location.search);
  return {
    collection: query.get("c") ?? "",
    text: query.get("q") ?? "",
    terms: query.getAll("t").map(parseTerm).filter(Boolean),
    filters: query.getAll("f").map(parseFilter).filter(Boolean),
    words: query.get("words") === "1",
    stacks: query.get("flat") !== "1",
    before: query.get("before") ?? "",
    item: query.get("item") ?? "",
  };
}

/** Return the address of what the page would show. */
export function format(view) {
  const query = new URLSearchParams();
  if (view.collection) query.append("c", view.collection);
  if (view.text) query.append("q", view.text);
  for (const one of view.terms) {
    const crop = one.crop ? one.crop.map((part) => +part.toFixed(4)).join(",") : "";
    query.append("t", [one.kind, one.weight, crop, one.value].join(":"));
  }
  for (const one of view.filters) query.append("f", one.join(":"));
  if (view.words) query.append("words", "1");
  if (!view.stacks) query.append("flat", "1");
  if (view.before) query.append("before", view.before);
  if (view.item) query.append("item", view.item);
  const text = query.toString();
  return text ? `/?${text}` : "/";
}

/** Show something else. `replace`: without a step for the back button. */
export function go(changes, { replace = false } = {}) {
  const address = format({ ...read(), ...changes });
  if (address === location.pathname + location.search) return;
  history[replace ? "replaceState" : "pushState"]({ ours: true }, "", address);
  listener();
}

/** Call `changed` when the page is to show something else. */
export function watch(changed) {
  listener = changed;
  addEventListener("popstate", changed);
}

/** Return whether a query is searched for: otherwise photos are listed by date. */
export const isSearch = (view) => Boolean(view.text || view.terms.length);

/** Return the terms as the server takes them. */
export function termsOf(view) {
  const text = view.text ? [{ kind: "text", value: view.text, weight: 1, crop: null }] : [];
  return [...text, ...view.terms];
}

function parseTerm(text) {
  const [kind, weight, crop, ...rest] = text.split(":");
  const value = rest.join(":");
  const box = crop ? crop.split(",").map(Number) : null;
  const isBox = box === null || (box.length === 4 && box.every((part) => part >= 0 && part <= 1) && box[0] < box[2] && box[1] < box[3]);
  if (!["text", "item", "image"].includes(kind) || !value || !isBox || !Number.isFinite(Number(weight))) return null;
  return { kind, value, weight: Number(weight), crop: box };
}

function parseFilter(text) {
  const [field, operator, ...rest] = text.split(":");
  return field && operator ? [field, operator, rest.join(":")] : null;
}
