// Hits as a grid that fits the width. Sends {kind, id}: open, like, plus or minus.
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

export default function ({ data, parentElement, setTriggerValue }) {
  const grid = parentElement.querySelector(".grid");
  grid.style.setProperty("--tile", `${data.tile}px`);
  grid.classList.toggle("captions", data.captions);
  if (grid.dataset.search !== String(data.search)) {
    grid.replaceChildren();
    grid.dataset.search = data.search;
  }
  // Hits only ever follow those that are there.
  for (const hit of data.hits.slice(grid.children.length)) grid.append(card(hit));

  grid.onclick = (event) => {
    const pressed = event.target.closest("[data-kind]");
    if (pressed === null) return;
    const id = pressed.closest(".card").dataset.id;
    setTriggerValue("action", { kind: pressed.dataset.kind, id });
  };
  grid.onkeydown = (event) => {
    const cards = [...grid.children];
    const at = cards.indexOf(event.target.closest(".card"));
    const next = at < 0 ? undefined : neighbour(cards, at, event.key);
    if (next === undefined) return;
    event.preventDefault();
    next.querySelector(".open").focus();
    next.scrollIntoView({ block: "nearest" });
  };
}
