// The terms of a query as chips. Sends the weights that are left, by key: {t1: 1, t2: -0.5}.
const STEP = 0.25;
const LEAST = 0.25;
const MOST = 3;

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
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
    const against = term.weight < 0;
    const size = Math.abs(term.weight);
    const sized = (value) => Math.sign(term.weight) * Math.min(MOST, Math.max(LEAST, value));
    const set = (value) => () => send((weights) => (weights[term.key] = value));
    const made = element("div", against ? "chip minus" : "chip");
    made.setAttribute("role", "listitem");
    const turn = against ? `Look for ${term.label}` : `Steer away from ${term.label}`;
    made.append(button("sign", against ? "−" : "+", turn, set(-term.weight)));
    if (term.image) {
      const picture = document.createElement("img");
      picture.src = term.image;
      picture.alt = "";
      made.append(picture);
    }
    made.append(element("span", "label", term.label));
    made.append(button("less", "‹", `Less of ${term.label}`, set(sized(size - STEP))));
    made.append(element("span", "weight", size.toFixed(2).replace(/\.?0+$/, "")));
    made.append(button("more", "›", `More of ${term.label}`, set(sized(size + STEP))));
    const drop = () => send((weights) => delete weights[term.key]);
    made.append(button("remove", "×", `Remove ${term.label}`, drop));
    return made;
  };
  list.replaceChildren(...data.terms.map(chip));
}
