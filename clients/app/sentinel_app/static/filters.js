// Filters in everyday words: when, where, which camera, which folder, which keywords.

import { go } from "./address.js";
import { h, icon, iconButton, opensPanel } from "./dom.js";
import { fieldName, isTime } from "./words.js";

const COMPARISONS = {
  string: { contains: "contains", is: "is", starts: "begins with", not: "is not" },
  int64: { ge: "is at least", le: "is at most", is: "is", not: "is not" },
  double: { ge: "is at least", le: "is at most" },
  bool: { is: "is" },
  string_list: { contains: "contains" },
  timestamp: { ge: "is after", lt: "is before" },
};
const DAY_MS = 86_400_000;

/** Return buttons for the usual filters of a collection, and a chip for each that is set. */
export function filterChips(view, collection) {
  const fields = new Map(collection.fields.map((one) => [one.name, one.type]));
  const set = (keep, ...added) => go({ filters: [...view.filters.filter(keep), ...added], before: "", item: "" });
  const usual = [];
  const geo = collection.fields.find((one) => one.type === "geo");
  if (collection.time) usual.push(chip("calendar", "Date", () => dateForm(view, collection.time, set)));
  const folder = fields.has("folder") ? "folder" : fields.has("path") ? "path" : "";
  if (folder) usual.push(chip("folder", "Folder", (close) => textForm("Folder or file name", "contains", "2021 or Holiday", (text) => { close(); set(() => true, [folder === "folder" && /[./\\]\w+$/.test(text) ? "path" : folder, "contains", text]); })));
  if (fields.get("camera") === "string") usual.push(chip("camera", "Camera", (close) => textForm("Camera", "contains", "iPhone or EOS", (text) => { close(); set(() => true, ["camera", "contains", text]); })));
  if (geo) usual.push(chip("place", "Place", (close) => placeForm((text) => { close(); set(([name]) => name !== geo.name, [geo.name, "near", text]); })));
  if (fields.get("keywords") === "string_list") usual.push(chip("tag", "Keyword", (close) => textForm("Keyword", "is", "family", (text) => { close(); set(() => true, ["keywords", "contains", text]); })));
  const others = collection.fields.filter((one) => COMPARISONS[one.type]);
  if (others.length) usual.push(chip("sliders", "More", (close) => anyForm(others, (found) => { close(); set(() => true, found); })));
  return [...view.filters.map((one) => activeChip(one, fields.get(one[0]), () => set((other) => other !== one))), ...usual];
}

function chip(name, label, fill) {
  const button = h("button", { type: "button", class: "chip" }, icon(name), label);
  const holder = h("span", { class: "holder" }, button);
  opensPanel(button, fill, label);
  return holder;
}

function activeChip(found, type, remove) {
  return h("span", { class: "chip active" }, h("span", { class: "label" }, inWords(found, type)), iconButton("close", `Remove the filter: ${inWords(found, type)}`, remove));
}

/** Return a filter as a sentence. */
export function inWords([name, operator, value], type) {
  const field = name === "taken_at" ? "Taken" : name === "modified_at" ? "Changed" : fieldName(name);
  if (/_at$/.test(name) || type === "timestamp") {
    // The last day is included: the bound is the day after it.
    const day = value.slice(0, 10);
    return operator === "lt" ? `${field} until ${new Date(Date.parse(`${day}T00:00:00Z`) - DAY_MS).toISOString().slice(0, 10)}` : `${field} from ${day}`;
  }
  if (operator === "near") {
    const [latitude, longitude, meters] = value.split(",").map(Number);
    return `Within ${meters / 1000} km of ${latitude}, ${longitude}`;
  }
  if (operator === "known") return `${field} is known`;
  return `${field} ${COMPARISONS[type]?.[operator] ?? operator} ${value}`;
}

function dateForm(view, field, set) {
  const current = (operator) => view.filters.find(([name, one]) => name === field && one === operator)?.[2].slice(0, 10) ?? "";
  const until = current("lt");
  const from = h("input", { type: "date", value: current("ge"), "aria-label": "From" });
  const to = h("input", { type: "date", value: until && new Date(Date.parse(until) - DAY_MS).toISOString().slice(0, 10), "aria-label": "To" });
  const apply = () => {
    const found = [];
    if (from.value) found.push([field, "ge", from.value]);
    if (to.value) found.push([field, "lt", new Date(Date.parse(to.value) + DAY_MS).toISOString().slice(0, 10)]);
    set(([name]) => name !== field, ...found);
  };
  const year = new Date().getFullYear();
  const quick = [year, year - 1, year - 2].map((one) => h("button", { type: "button", onclick: () => { from.value = `${one}-01-01`; to.value = `${one}-12-31`; apply(); } }, String(one)));
  return form(apply, h("h3", {}, field === "taken_at" ? "Taken between" : "Changed between"), h("label", { class: "row" }, h("span", {}, "from"), from), h("label", { class: "row" }, h("span", {}, "to"), to), h("div", { class: "row" }, quick));
}

function textForm(title, comparison, example, apply) {
  const input = h("input", { type: "text", placeholder: example, "aria-label": title, maxlength: 500 });
  return form(() => input.value && apply(input.value), h("h3", {}, `${title} ${comparison}`), input, comparison === "contains" ? h("p", {}, "Upper and lower case differ.") : null);
}

function placeForm(apply) {
  const point = h("input", { type: "text", placeholder: "48.8584, 2.2945", "aria-label": "Latitude and longitude", oninput: () => point.setCustomValidity("") });
  const distance = h("select", { "aria-label": "Distance" }, [1, 5, 20, 100, 500].map((km) => h("option", { value: km * 1000, selected: km === 20 }, `${km} km`)));
  const here = h("button", { type: "button", onclick: () => navigator.geolocation.getCurrentPosition(({ coords }) => { point.value = `${coords.latitude.toFixed(4)}, ${coords.longitude.toFixed(4)}`; }) }, "Where I am");
  const submit = () => {
    const [latitude, longitude] = point.value.split(/[,;\s]+/).map(Number);
    const isPoint = Math.abs(latitude) <= 90 && Math.abs(longitude) <= 180;
    point.setCustomValidity(isPoint ? "" : "Latitude and longitude, for example 48.8584, 2.2945");
    if (point.reportValidity()) apply(`${latitude},${longitude},${distance.value}`);
  };
  return form(submit, h("h3", {}, "Near a place"), h("div", { class: "row" }, distance, h("span", {}, "around")), point, navigator.geolocation && isSecureContext ? here : null, h("p", {}, "A photo with a place shows its numbers, to copy."));
}

function anyForm(fields, apply) {
  const field = h("select", { "aria-label": "Field" }, fields.map((one) => h("option", { value: one.name }, fieldName(one.name))));
  const row = h("div", { class: "row" });
  let comparison;
  let value;
  const draw = () => {
    const chosen = fields.find((one) => one.name === field.value);
    const { type } = chosen;
    comparison = h("select", { "aria-label": "Comparison" }, Object.entries(COMPARISONS[isTime(chosen) ? "timestamp" : type]).map(([key, text]) => h("option", { value: key }, text)));
    value = type === "bool" ? h("select", { "aria-label": "Value" }, h("option", { value: "yes" }, "yes"), h("option", { value: "no" }, "no")) : h("input", { type: isTime(chosen) ? "date" : ["int64", "double"].includes(type) ? "number" : "text", step: "any", "aria-label": "Value", maxlength: 500 });
    row.replaceChildren(comparison, value);
  };
  field.addEventListener("change", draw);
  draw();
  return form(() => value.value && apply([field.value, comparison.value, value.value]), h("h3", {}, "Only photos whose"), field, row);
}

function form(apply, ...parts) {
  const element = h("form", {}, parts, h("button", { type: "submit", class: "primary" }, "Apply"));
  element.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
  return element;
}
