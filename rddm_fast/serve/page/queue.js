// The pictures of the page, in the order in which they came.
import { byId, element } from "./element.js";

const WORDS = { reading: "reading", ready: "ready", waiting: "waiting", working: "restoring" };
let count = 0;

// A picture: its file, its state, and what was made of it.
export class Item {
  constructor(file) {
    this.file = file;
    this.name = file.name || "pasted.png";
    this.number = ++count;
    this.state = "reading"; // then ready, waiting, working, done or failed
    this.previews = new Map(); // a model's name -> {url} or {error}
    this.urls = [];
    this.mask = null;
    this.result = null; // {picture, url, width, height, seconds, choice}
  }

  url(blob) {
    this.urls.push(URL.createObjectURL(blob));
    return this.urls.at(-1);
  }

  forget() {
    this.urls.forEach((url) => URL.revokeObjectURL(url));
  }

  get sentence() {
    if (this.state === "failed") return this.error;
    if (this.state === "done") return `restored, ${this.result.choice.title}, ${this.result.seconds.toFixed(1)} s`;
    if (this.state === "working" && this.of) return `restoring, ${this.done} of ${this.of}`;
    return WORDS[this.state] + (this.note ? `: ${this.note}` : "");
  }
}

// Draws the queue; `choose` and `remove` get an item.
export class Queue {
  constructor(choose, remove) {
    this.items = [];
    this.rows = new Map();
    this.choose = choose;
    this.remove = remove;
  }

  add(item) {
    this.items.push(item);
    const image = element("img", { alt: "", hidden: true }), blank = element("span", { className: "blank" });
    const words = element("small"), bar = element("progress", { hidden: true });
    const open = element("button", { type: "button", className: "open" }, element("b", { textContent: item.name, title: item.name }), words, bar);
    const close = element("button", { type: "button", className: "remove", textContent: "×", title: "remove", ariaLabel: `remove ${item.name}` });
    const row = element("li", {}, element("span", {}, image, blank), open, close);
    row.addEventListener("click", (event) => (event.target === close ? this.remove : this.choose)(item));
    this.rows.set(item, { row, image, blank, words, bar, open });
    byId("queue").append(row);
    this.update(item);
  }

  update(item, chosen) {
    const { row, image, blank, words, bar, open } = this.rows.get(item);
    row.className = item.state;
    if (item === chosen) row.classList.add("chosen");
    open.setAttribute("aria-current", item === chosen);
    words.textContent = item.sentence;
    words.title = item.error ?? "";
    const src = item.result?.smallUrl ?? item.smallUrl;
    image.hidden = !src;
    blank.hidden = Boolean(src);
    if (src) image.src = src;
    bar.hidden = item.state !== "working";
    if (item.of) {
      bar.max = item.of;
      bar.value = item.done;
    } else bar.removeAttribute("value"); // it moves to and fro
  }

  delete(item) {
    this.items.splice(this.items.indexOf(item), 1);
    this.rows.get(item).row.remove();
    this.rows.delete(item);
    item.forget();
  }
}
