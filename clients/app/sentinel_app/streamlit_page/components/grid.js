// A grid of hits. Sends `action`, {kind, id}, with the kind open, like, plus or minus, and
// `have`, {search, count}, when the hits before the new ones are missing.
const ACTIONS = [
  ["like", "≈", "More like this"],
  ["plus", "+", "Add to the search"],
  ["minus", "−", "Subtract from the search"],
];

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  if (text) made.dir = "auto"; // one that runs right to left changes nothing around it
  made.textContent = text; // not as HTML: captions are other people's text
  return made;
}

function button(kind, text, label) {
  const made = element("button", kind, text);
  made.type = "button";
  made.title = label;
  made.setAttribute("aria-label", label);
  made.dataset.kind = kind;
  return made;
}

function card(hit) {
  const made = element("article", "card");
  made.setAttribute("role", "listitem");
  made.dataset.id = hit.id;
  const open = button("open", "", `${hit.caption || hit.id}, score ${hit.score}`);
  if (hit.image) {
    const image = document.createElement("img");
    image.src = hit.image;
    image.alt = hit.caption;
    image.loading = "lazy";
    open.append(image);
  } else {
    open.append(element("span", "words", hit.text || hit.caption || hit.id));
  }
  const actions = element("div", "actions");
  actions.append(...ACTIONS.map(([kind, text, label]) => button(kind, text, label)));
  made.append(open, element("span", "score", hit.score), actions);
  made.append(element("div", "caption", hit.caption));
  return made;
}

function neighbor(cards, from, key) {
  const columns = cards.filter((one) => one.offsetTop === cards[0].offsetTop).length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[key];
  return step === undefined ? undefined : cards[from + step];
}

const searchBox = () => document.querySelector(".st-key-typed input");

function focusOn(card) {
  card.querySelector(".open").focus();
  card.scrollIntoView({ block: "nearest" });
}

// Keys outside of the grid: from the search box into it, and between the images of the dialog.
function pageKeys(grid) {
  return (event) => {
    const dialog = document.querySelector("[role=dialog]");
    if (dialog !== null) {
      const name = { ArrowLeft: "previous", ArrowRight: "next" }[event.key];
      if (name === undefined || event.target.matches("input, textarea")) return;
      dialog.querySelector(`.st-key-${name} button`)?.click();
    } else if (event.key === "ArrowDown" && event.target === searchBox() && grid.firstChild) {
      event.preventDefault();
      focusOn(grid.firstChild);
    }
  };
}

export default function ({ data, parentElement, setTriggerValue }) {
  const grid = parentElement.querySelector(".grid");
  grid.style.setProperty("--tile", `${data.tile}px`);
  grid.classList.toggle("captions", data.captions);
  grid.dataset.update = data.update;
  if (grid.dataset.search !== String(data.search)) {
    grid.replaceChildren();
    grid.dataset.search = data.search;
  }
  // New hits always follow those that are in the grid.
  const have = grid.children.length;
  if (data.start > have) setTriggerValue("have", { search: data.search, count: have });
  else for (const hit of data.hits.slice(have - data.start)) grid.append(card(hit));

  grid.onclick = (event) => {
    const pressed = event.target.closest("[data-kind]");
    if (pressed === null) return;
    const id = pressed.closest(".card").dataset.id;
    setTriggerValue("action", { kind: pressed.dataset.kind, id });
  };
  grid.onkeydown = (event) => {
    const cards = [...grid.children];
    const at = cards.indexOf(event.target.closest(".card"));
    if (at < 0) return;
    const next = neighbor(cards, at, event.key);
    if (next !== undefined) focusOn(next);
    else if (event.key === "ArrowUp") searchBox()?.focus();
    else return;
    event.preventDefault();
  };
  // In the capture phase, since the dialog stops key events. Keep one listener over all updates.
  document.removeEventListener("keydown", grid.listener, true);
  grid.listener = pageKeys(grid);
  document.addEventListener("keydown", grid.listener, true);
  return () => document.removeEventListener("keydown", grid.listener, true);
}
