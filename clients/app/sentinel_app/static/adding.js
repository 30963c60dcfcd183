// Add photos: drop or choose files and zips; see the progress, and each failure by its name.

import { PICTURES, Problem, send } from "./api.js";
import { h, icon, iconButton, toast } from "./dom.js";
import * as words from "./words.js";

const AT_ONCE = 3;
const MOST_LISTED = 100;

export class Adding {
  /** `finished(collection, ids)` is called when photos were stored. `indexCommand()` says what to run for many files. */
  constructor(finished, indexCommand) {
    this.finished = finished;
    this.indexCommand = indexCommand;
    this.stop = null;
  }

  /** Ask for files. */
  choose(collection) {
    const input = h("input", { type: "file", multiple: true, accept: `${PICTURES},.zip` });
    input.addEventListener("change", () => this.add([...input.files], collection));
    input.click();
  }

  async add(files, collection) {
    if (!files.length) return;
    if (this.stop) {
      toast("Wait until the photos before are stored.");
      return;
    }
    const { limit } = collection;
    const bytes = files.reduce((sum, file) => sum + file.size, 0);
    if (files.length > limit.files) {
      toast(`${words.number(files.length)} files are too many: the limit is ${words.number(limit.files)} at once. Run: ${this.indexCommand()} FOLDER --collection ${collection.name}`, { seconds: 20, kind: "problem" });
      return;
    }
    const run = { stored: 0, unchanged: 0, failures: [], done: 0, ids: [], total: files.length, bytes };
    this.stop = new AbortController();
    const panel = this.#panel(run, collection);
    const waiting = [...files];
    const work = async () => {
      while (waiting.length && !this.stop.signal.aborted) await this.#one(waiting.shift(), collection, run, panel);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    const stopped = this.stop.signal.aborted;
    this.stop = null;
    panel.end(stopped);
    this.finished(collection, run);
  }

  async #one(file, collection, run, panel) {
    const fail = (message, name = file.name) => run.failures.push([name, message]);
    try {
      const path = file.webkitRelativePath || file.name;
      const answer = await send("add", { c: collection.name, name: path, modified: file.lastModified }, file, this.stop.signal);
      let isAnswered = false;
      for await (const line of lines(answer.body)) {
        isAnswered = true;
        if (line.outcome === "failed") fail(line.message, line.name ?? file.name);
        else {
          run[line.outcome] += 1;
          run.ids.push(line.id);
        }
        panel.draw();
      }
      if (!isAnswered) fail("There is no picture in it.");
    } catch (error) {
      if (error.name === "AbortError") return;
      fail(error instanceof Problem ? error.message : "The connection broke. Add it again.");
    }
    run.done += 1;
    panel.draw();
  }

  #panel(run, collection) {
    const bar = h("progress", { max: run.total, value: 0, "aria-label": "Progress" });
    const line = h("p");
    const failures = h("ul");
    const list = h("details", { hidden: true, open: true }, h("summary"), failures);
    const title = h("h2", {}, `Adding to ${collection.name}`);
    const close = iconButton("close", "Stop", () => { if (this.stop) this.stop.abort(); else element.remove(); });
    const element = h("section", { class: "adding", "aria-label": "Added photos", role: "status" }, h("header", {}, title, close), bar, line, list);
    document.querySelector(".adding")?.remove();
    document.body.append(element);
    const draw = () => {
      bar.value = run.done;
      const counts = [`${words.number(run.stored)} stored`, run.unchanged ? `${words.number(run.unchanged)} there before` : ""].filter(Boolean);
      line.textContent = `${words.number(run.done)} of ${words.plural(run.total, "file")} · ${counts.join(" · ")}`;
      list.hidden = !run.failures.length;
      list.firstChild.textContent = `${words.number(run.failures.length)} failed`;
      for (const [name, message] of run.failures.slice(failures.childElementCount, MOST_LISTED)) failures.append(h("li", { dir: "auto" }, h("b", {}, name), ` ${message}`));
    };
    draw();
    return {
      draw,
      end(stopped) {
        draw();
        title.textContent = stopped ? "Stopped" : !run.failures.length ? "Added" : run.ids.length ? "Added, with failures" : "Nothing was added";
        close.ariaLabel = close.title = "Close";
        if (!run.failures.length && !stopped) setTimeout(() => element.remove(), 6000);
      },
    };
  }
}

async function* lines(stream) {
  let rest = "";
  for await (const part of stream.pipeThrough(new TextDecoderStream())) {
    const found = (rest + part).split("\n");
    rest = found.pop();
    for (const line of found) if (line) yield JSON.parse(line);
  }
}

/** Take files that are dropped or pasted anywhere. `offers()` returns what may be done with them. */
export function takesFiles({ search, add, mayAdd }) {
  const zone = (name, title, text) => h("div", { class: "zone" }, icon(name), h("b", {}, title), h("span", {}, text));
  const searching = zone("search", "Search with this picture", "Find photos like it");
  const storing = zone("add", "Add", "Store it in this collection");
  const veil = h("div", { id: "veil", hidden: true }, searching, storing);
  document.body.append(veil);
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const isOver = (element, event) => !element.hidden && element.contains(document.elementFromPoint(event.clientX, event.clientY));
  addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    const one = event.dataTransfer.items.length === 1 && event.dataTransfer.items[0].type.startsWith("image/");
    searching.hidden = !one && mayAdd();
    storing.hidden = !mayAdd();
    veil.hidden = false;
  });
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    storing.classList.toggle("over", isOver(storing, event));
    searching.classList.toggle("over", isOver(searching, event));
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) veil.hidden = true; });
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    const toStore = isOver(storing, event) || searching.hidden;
    veil.hidden = true;
    const files = [...event.dataTransfer.files];
    if (toStore && mayAdd()) add(files);
    else search(files[0]);
  });
  addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (file) {
      event.preventDefault();
      search(file);
    }
  });
}
