// The page: what happens when. The server does one thing at a time, and so does the page.
import * as api from "./api.js";
import { Choices } from "./choices.js";
import { byId, element } from "./element.js";
import { takeFiles } from "./files.js";
import { Brush, Mask } from "./mask.js";
import { Item, Queue } from "./queue.js";
import { Viewer } from "./viewer.js";

const offer = await api.offered().catch((error) => trouble(error.message));
const viewer = new Viewer(told), queue = new Queue(choose, remove);
const choices = new Choices(offer, choiceChanged);
const brush = new Brush(() => chosen?.mask, maskChanged);
let chosen = null; // the item that is shown
let view = "compare"; // or "mask"
let busy = false;

byId("files").accept = offer.reads.join();
byId("limits").textContent = `JPEG, PNG, WebP, TIFF, BMP${offer.reads.includes(".heic") ? ", HEIC" : ""}; up to ${offer.most_bytes / 2 ** 20} MB and ${offer.most_pixels / 1e6} million pixels`;
byId("purposes").append(...offer.models.map((model) => element("li", { textContent: model.wrong })));
takeFiles(add);
for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", () => setView(button.dataset.view));
byId("restore").addEventListener("click", () => enqueue([chosen]));
byId("restore-all").addEventListener("click", () => enqueue(queue.items.filter((item) => !isDone(item))));
byId("cancel").addEventListener("click", () => cancel(chosen));
byId("save").addEventListener("click", () => save([chosen]));
byId("save-all").addEventListener("click", () => save(queue.items.filter((item) => item.state === "done")));
byId("film").addEventListener("toggle", showFilm);
addEventListener("pagehide", () => queue.items.forEach((item) => item.job && api.cancel(item.job)));
document.addEventListener("keydown", (event) => {
  if (view === "mask" && event.key === "z" && (event.ctrlKey || event.metaKey)) brush.undo();
});

function trouble(sentence) {
  byId("trouble").textContent = sentence;
  byId("trouble").hidden = !sentence;
}

// -- pictures ------------------------------------------------------------------------------------------------

function add(files) {
  const items = files.map((file) => new Item(file));
  items.forEach((item) => queue.add(item));
  document.body.classList.toggle("empty", queue.items.length === 0);
  if (!chosen && items.length) choose(items[0]);
  work();
}

function choose(item) {
  chosen = item;
  if (view === "mask" && item.result) view = "compare";
  showFilm();
  refresh();
  work();
}

function remove(item) {
  cancel(item);
  const place = queue.items.indexOf(item);
  queue.delete(item);
  if (item === chosen) chosen = queue.items[Math.min(place, queue.items.length - 1)] ?? null;
  document.body.classList.toggle("empty", queue.items.length === 0);
  refresh();
}

function cancel(item) {
  if (item.job) api.cancel(item.job);
  else if (item.state === "waiting") setState(item, item.result ? "done" : "ready");
}

function setState(item, state, more) {
  Object.assign(item, { state, note: null, ...more });
  refresh();
}

// Read a picture: the server makes a small one of it, or says why it cannot.
async function read(item) {
  try {
    if (item.file.size > offer.most_bytes) throw new Error(`${item.name} is too large: at most ${offer.most_bytes / 2 ** 20} MB are taken`);
    item.small = await api.convert(item.file, item.name, "png", offer.small);
    item.smallUrl = item.url(item.small);
    item.before = await shownAs(item, item.file).catch(async () => shownAs(item, await api.convert(item.file, item.name, "png")));
    setState(item, "ready");
  } catch (error) {
    setState(item, "failed", { error: error.message });
  }
}

// Make an image that the browser can show; rejects what it cannot, such as TIFF.
async function shownAs(item, blob) {
  const image = new Image(), url = item.url(blob);
  image.src = url;
  await image.decode();
  return { url, width: image.naturalWidth, height: image.naturalHeight };
}

// -- work ----------------------------------------------------------------------------------------------------

// Whether a picture was restored by what is chosen now.
function isDone(item) {
  return item.result && JSON.stringify(item.result.choice.settings) === JSON.stringify(choices.chosen.settings);
}

function enqueue(items) {
  const choice = choices.chosen;
  for (const item of items) {
    if (!item?.before || item.state === "waiting" || item.state === "working") continue;
    if (choice.needsMask && !painted(item)) {
      setState(item, item.state === "failed" ? "ready" : item.state, { note: "paint a mask first" });
      if (items.length === 1) setView("mask");
    } else setState(item, "waiting", { choice });
  }
  work();
}

// Do what is to be done, one after the other: read what came, restore what waits, then preview what is shown.
async function work() {
  if (busy) return;
  busy = true;
  for (let next; (next = job()); ) await next();
  busy = false;
  refresh();
}

function job() {
  const find = (state) => queue.items.find((item) => item.state === state);
  const unread = find("reading"), waiting = find("waiting");
  if (unread) return () => read(unread);
  if (waiting) return () => restore(waiting);
  const model = chosen?.before && offer.models.find(({ name, mask }) => !chosen.previews.has(name) && (!mask || painted(chosen)));
  return model ? () => preview(chosen, model.name) : null;
}

async function restore(item) {
  const { choice } = item, used = choice.mask && painted(item) ? await item.mask.file() : null;
  item.job = crypto.randomUUID();
  setState(item, "working", { done: 0, of: 0 });
  const timer = setInterval(async () => {
    const told = await api.progress(item.job).catch(() => null);
    if (told?.of && item.state === "working") setState(item, "working", told);
  }, 300);
  try {
    const { picture, seconds } = await api.restore(choice, item.file, used, { name: item.name, job: item.job });
    const shown = await shownAs(item, picture), smallUrl = shown.url;
    if (item === chosen) view = "compare";
    setState(item, "done", { error: null, result: { ...shown, smallUrl, picture, seconds, choice } });
  } catch (error) {
    const gone = error.message === "this job was cancelled";
    setState(item, gone ? (item.result ? "done" : "ready") : "failed", { error: gone ? null : error.message });
  } finally {
    clearInterval(timer);
    item.job = null;
  }
}

async function preview(item, name) {
  try {
    const choice = choices.model(name), mask = choice.mask ? await item.mask.file() : null;
    const { picture } = await api.restore(choice, item.small, mask, { name: item.name });
    item.previews.set(name, { url: item.url(picture) });
  } catch (error) {
    item.previews.set(name, { error: error.message });
  }
  refresh();
}

// -- saving --------------------------------------------------------------------------------------------------

const WRITTEN = /\.(jpe?g|png|tiff?|bmp|webp)$/i;

async function save(items) {
  trouble("");
  for (const item of items.filter((one) => one?.result)) {
    const own = WRITTEN.exec(item.name)?.[0].toLowerCase(), stem = item.name.replace(/\.[^.]*$/, "");
    const suffix = byId("format").value === "own" && own ? own : ".png";
    try {
      const { picture } = item.result;
      const file = suffix === ".png" ? picture : await api.convert(picture, item.name, suffix.slice(1));
      const link = element("a", { href: item.url(file), download: `${stem}-restored${suffix}` });
      link.click();
      await new Promise((then) => setTimeout(then, 200)); // a browser drops downloads that come all at once
    } catch (error) {
      trouble(error.message);
    }
  }
}

// -- masks ---------------------------------------------------------------------------------------------------

const painted = (item) => Boolean(item.mask && !item.mask.empty);

function setView(wanted) {
  view = wanted;
  refresh();
}

function choiceChanged() {
  if (choices.chosen.needsMask && chosen && !chosen.mask) view = "mask";
  if (!choices.chosen.mask) view = "compare";
  showFilm();
  refresh();
  work();
}

function maskChanged() {
  for (const model of offer.models) if (model.mask) chosen.previews.delete(model.name);
  refresh();
  work();
}

// -- the film of steps ---------------------------------------------------------------------------------------

async function showFilm() {
  const film = byId("film"), frames = byId("frames");
  frames.replaceChildren();
  const item = chosen, choice = choices.chosen;
  if (!film.open || !choice.film || !item?.small) return;
  if (choice.needsMask && !painted(item)) return frames.replaceChildren("Paint a mask first.");
  frames.replaceChildren("Restoring a small copy …");
  try {
    const shown = await api.film(choice, item.small, choice.mask ? await item.mask.file() : null);
    const captions = shown.map(({ t }, i) => (i === 0 ? `start, t = ${t}` : t === 0 ? "result, t = 0" : `t = ${t}`));
    frames.replaceChildren(...shown.map(({ image }, i) =>
      element("figure", {}, element("img", { src: image, alt: captions[i] }), element("figcaption", { textContent: captions[i] }))));
  } catch (error) {
    frames.replaceChildren(error.message);
  }
}

// The line beside the zoom: the picture's size, before and after where they differ, and how large it is shown.
function told(percent) {
  const sizes = [chosen.before, chosen.result].filter(Boolean).map(({ width, height }) => `${width} × ${height}`);
  byId("facts").textContent = `${[...new Set(sizes)].join(" to ")}, shown at ${percent} %`;
}

// -- showing -------------------------------------------------------------------------------------------------

function refresh() {
  for (const item of queue.items) queue.update(item, chosen);
  const choice = choices.chosen, item = chosen, done = queue.items.filter((one) => one.result).length;
  const takesMask = Boolean(choice.mask && item?.before);
  byId("views").hidden = !takesMask;
  byId("brush").hidden = !(takesMask && view === "mask");
  for (const button of document.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", button.dataset.view === view);
  byId("mask-means").textContent = `Paint the mask over the picture. It is ${choice.mask}.`;

  if (!item?.before) {
    byId("facts").textContent = "";
    viewer.clear(item?.error ?? (item ? "reading the picture …" : ""));
  } else if (takesMask && view === "mask") {
    item.mask ??= new Mask(item.before.width, item.before.height);
    brush.paintsOn(item.mask.canvas);
    viewer.show(item.name, item.before, null, item.mask.canvas);
  } else viewer.show(item.name, item.before, item.result, null);

  choices.showPreviews(item);

  byId("film").hidden = !choice.film || !item?.small;
  const can = item?.before && !["waiting", "working"].includes(item.state);
  byId("restore").disabled = !can;
  byId("cancel").hidden = !(item && ["waiting", "working"].includes(item.state));
  byId("restore-all").disabled = !queue.items.some((one) => one.before && !isDone(one));
  byId("restore-all").textContent = `Restore all: ${choice.title}`;
  byId("save").disabled = !item?.result;
  byId("save-all").disabled = done === 0;
  byId("save-all").textContent = done > 1 ? `Save all ${done}` : "Save all";
}
