// The terms of a query as chips. Sends the new weights by key, without removed terms:
// {t1: 1, t2: -0.5}.
const STEP = 0.25;
const MIN = 0.25;
const MAX = 3;

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  if (text) made.dir = "auto"; // one that runs right to left changes nothing around it
  made.textContent = text;
  return made;
}

function button(className, text, label, press) {
  const made = element("button", className, text);
  made.type = "button";
  made.title = label;
  made.setAttribute("aria-label", label);
  made.onclick = press;
  return made;
}

export default function ({ data, parentElement, setTriggerValue }) {
  const list = parentElement.querySelector(".chips");
  const send = (change) => {
    const weights = Object.fromEntries(data.terms.map((term) => [term.key, term.weight]));
    change(weights);
    setTriggerValue("weights", weights);
  };
  const chip = (term) => {
    const negative = term.weight < 0;
    const size = Math.abs(term.weight);
    const sized = (value) => Math.sign(term.weight) * Math.min(MAX, Math.max(MIN, value));
    const set = (value) => () => send((weights) => (weights[term.key] = value));
    const made = element("div", negative ? "chip minus" : "chip");
    made.setAttribute("role", "listitem");
    const flip = negative ? `Add ${term.label}` : `Subtract ${term.label}`;
    made.append(button("sign", negative ? "−" : "+", flip, set(-term.weight)));
    if (term.image) {
      const image = document.createElement("img");
      image.src = term.image;
      image.alt = "";
      made.append(image);
    }
    made.append(element("span", "label", term.label));
    made.append(button("less", "‹", `Less weight for ${term.label}`, set(sized(size - STEP))));
    made.append(element("span", "weight", size.toFixed(2).replace(/\.?0+$/, "")));
    made.append(button("more", "›", `More weight for ${term.label}`, set(sized(size + STEP))));
    const drop = () => send((weights) => delete weights[term.key]);
    made.append(button("remove", "×", `Remove ${term.label}`, drop));
    return made;
  };
  list.replaceChildren(...data.terms.map(chip));
}
