// Hits as a grid that fits the width. Sends `action`, {kind, id}: open, like, plus or minus; and
// `have`, {search, count}, when hits are missing before those that came.
const ACTIONS = [
  ["like", "≈", "More like this"],
  ["plus", "+", "Add to the search"],
  ["minus", "−", "Steer away from this"],
];

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text; // never as HTML: captions are other people's
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
    const picture = document.createElement("img");
    picture.src = hit.image;
    picture.alt = hit.caption;
    picture.loading = "lazy";
    open.append(picture);
  } else {
    open.append(element("span", "words", hit.text || hit.caption || hit.id));
  }
  const actions = element("div", "actions");
  actions.append(...ACTIONS.map(([kind, text, label]) => button(kind, text, label)));
  made.append(open, element("span", "score", hit.score), actions);
  made.append(element("div", "caption", hit.caption));
  return made;
}

function neighbour(cards, from, key) {
  const columns = cards.filter((one) => one.offsetTop === cards[0].offsetTop).length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[key];
  return step === undefined ? undefined : cards[from + step];
}

const searchBox = () => document.querySelector(".st-key-typed input");

function focusOn(card) {
  card.querySelector(".open").focus();
  card.scrollIntoView({ block: "nearest" });
}

// Keys that arrive outside of the grid: from the search box into it, and from picture to picture.
function keysOfThePage(grid) {
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
  if (grid.dataset.search !== String(data.search)) {
    grid.replaceChildren();
    grid.dataset.search = data.search;
  }
  // Hits only ever follow those that are there, and come once.
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
    const next = neighbour(cards, at, event.key);
    if (next !== undefined) focusOn(next);
    else if (event.key === "ArrowUp") searchBox()?.focus();
    else return;
    event.preventDefault();
  };
  // Before the dialog, which keeps keys to itself. Called at every drawing: one listener stays.
  document.removeEventListener("keydown", grid.listener, true);
  grid.listener = keysOfThePage(grid);
  document.addEventListener("keydown", grid.listener, true);
  return () => document.removeEventListener("keydown", grid.listener, true);
}
