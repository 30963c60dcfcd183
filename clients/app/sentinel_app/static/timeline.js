// A strip of months at the edge of the page: drag or press keys to jump to one.

import { go } from "./address.js";
import { get } from "./api.js";
import { h } from "./dom.js";
import { monthName } from "./words.js";

const LEAST_MONTHS = 3;
const nav = document.getElementById("timeline");
let shownFor = "";

/** Show the months of a collection, or hide the strip. */
export async function showTimeline(collection, isVisible, month) {
  nav.hidden = !isVisible || shownFor !== collection.name || !nav.childElementCount;
  // Its place is kept from the beginning, so that photos do not move when it appears.
  document.body.classList.toggle("dated", isVisible);
  if (!isVisible || shownFor === collection.name) return;
  shownFor = collection.name;
  const span = await get("span", { c: collection.name }).catch(() => ({ newest: "" }));
  if (shownFor !== collection.name) return;
  const months = span.newest && span.oldest ? between(span.newest, span.oldest) : [];
  nav.hidden = months.length < LEAST_MONTHS;
  nav.replaceChildren();
  if (!nav.hidden) draw(months, month);
}

/** Ask again for the months: photos were added or deleted. */
export const forgetTimeline = () => { shownFor = ""; };

function between(newest, oldest) {
  const months = [];
  let [year, month] = newest.split("-").map(Number);
  const [lastYear, lastMonth] = oldest.split("-").map(Number);
  while (year > lastYear || (year === lastYear && month >= lastMonth)) {
    months.push(`${String(year).padStart(4, "0")}-${String(month).padStart(2, "0")}`);
    [year, month] = month === 1 ? [year - 1, 12] : [year, month - 1];
  }
  return months;
}

function draw(months, current) {
  let chosen = Math.max(0, months.indexOf(current));
  const tip = h("output", { class: "tip", hidden: true });
  const slider = h("div", { class: "strip", role: "slider", tabindex: "0", "aria-orientation": "vertical", "aria-label": "Month", "aria-valuemin": "0", "aria-valuemax": String(months.length - 1) }, tip);
  // Years that would overlap are left out.
  let last = -1;
  months.forEach((month, index) => {
    const place = index / (months.length - 1);
    const isNewYear = index === 0 || month.endsWith("-12");
    if (!isNewYear || (last >= 0 && place - last < 0.05)) return;
    last = place;
    const label = h("span", { class: "year" }, month.slice(0, 4));
    label.style.top = `${place * 100}%`;
    slider.append(label);
  });
  const show = (index, visible) => {
    chosen = Math.max(0, Math.min(months.length - 1, index));
    slider.setAttribute("aria-valuenow", String(chosen));
    slider.setAttribute("aria-valuetext", monthName(months[chosen]));
    tip.textContent = monthName(months[chosen]);
    tip.style.top = `${(chosen / (months.length - 1)) * 100}%`;
    tip.hidden = !visible;
  };
  const at = (event) => {
    const area = slider.getBoundingClientRect();
    return Math.round(((event.clientY - area.top) / area.height) * (months.length - 1));
  };
  slider.addEventListener("pointermove", (event) => show(at(event), true));
  slider.addEventListener("pointerleave", () => show(chosen, false));
  slider.addEventListener("pointerdown", (event) => { slider.setPointerCapture(event.pointerId); show(at(event), true); });
  slider.addEventListener("pointerup", (event) => { show(at(event), false); jump(months[chosen], months); });
  slider.addEventListener("blur", () => show(chosen, false));
  slider.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 12, PageUp: -12, Home: -months.length, End: months.length }[event.key];
    if (by) show(chosen + by, true);
    else if (event.key === "Enter" || event.key === " ") jump(months[chosen], months);
    else return;
    event.preventDefault();
  });
  show(chosen, false);
  nav.replaceChildren(slider);
}

function jump(month, months) {
  const heading = [...document.querySelectorAll("section[data-heading]")].find((one) => one.dataset.heading === monthName(month));
  if (heading) heading.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  else go({ before: month === months[0] ? "" : month, item: "" });
}
