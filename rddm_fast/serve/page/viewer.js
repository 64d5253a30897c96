// The large view: one picture, before and after with the slider, or a picture with the mask over it; and its zoom.
import { byId, element } from "./element.js";

const STEP = 1.5, LARGEST = 16;

export class Viewer {
  // `zoomed` is told the size on the screen, in percent.
  constructor(zoomed) {
    this.zoomed = zoomed;
    this.port = byId("viewport");
    this.zoom = 1; // 1 is the whole picture
    this.size = null;
    const does = { in: () => this.zoomTo(this.zoom * STEP), out: () => this.zoomTo(this.zoom / STEP), fit: () => this.zoomTo(1), full: () => this.zoomTo(this.full()) };
    for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", does[button.dataset.zoom]);
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT)$/.test(event.target.tagName) && event.target.type !== "range") return;
      const action = { "+": "in", "=": "in", "-": "out", 0: "fit", 1: "full" }[event.key];
      if (action && this.size) does[action]();
    });
    this.port.addEventListener("wheel", (event) => {
      if (!event.ctrlKey || !this.size) return; // what a pinch on a touchpad is, too
      event.preventDefault();
      this.zoomTo(this.zoom * Math.exp(-event.deltaY / 200), event);
    }, { passive: false });
    new ResizeObserver(() => this.size && this.zoomTo(this.zoom)).observe(this.port);
  }

  // Show `before`, and `after` beside it if there is one; both are {url, width, height}. `over` is a canvas.
  show(name, before, after, over) {
    const largest = after ?? before, key = [before.url, after?.url, over ? "mask" : ""].join(" ");
    if (this.key === key) return;
    if (!this.size || this.size.width / this.size.height !== largest.width / largest.height) this.zoom = 1;
    this.key = key;
    this.size = largest;
    const figure = byId("slider").content.firstElementChild.cloneNode(true);
    const images = { before: figure.querySelector("img.before"), after: figure.querySelector("img.after") };
    images.before.src = before.url;
    images.after.src = largest.url;
    images.after.width = largest.width;
    images.after.height = largest.height;
    images.after.alt = after ? `${name}, after` : name;
    images.before.alt = after ? `${name}, before` : "";
    figure.querySelector("input").ariaLabel = `${name}: where before ends and after begins`;
    this.port.replaceChildren(figure);
    this.port.classList.toggle("single", !after);
    if (over) figure.querySelector(".stage").append(over);
    slider(figure); // of slider.js
    if (!after) figure.querySelector("input").disabled = true;
    this.zoomTo(this.zoom);
  }

  clear(sentence) {
    this.key = this.size = null;
    this.port.classList.add("single");
    this.port.replaceChildren(element("p", { className: "dim", textContent: sentence }));
  }

  fit() {
    const { clientWidth, clientHeight } = this.port, { width, height } = this.size;
    return Math.min(clientWidth, (clientHeight * width) / height);
  }

  // The zoom at which one pixel of the picture is one pixel of the screen.
  full() {
    return this.size.width / devicePixelRatio / this.fit();
  }

  // Zoom, and keep the point under the pointer, or the middle of what is seen, where it is.
  zoomTo(zoom, pointer) {
    const port = this.port, box = port.getBoundingClientRect();
    const full = this.full(), most = Math.max(LARGEST, full * 4);
    const wanted = Math.min(most, Math.max(Math.min(1, full), zoom));
    const x = pointer ? pointer.clientX - box.left : port.clientWidth / 2;
    const y = pointer ? pointer.clientY - box.top : port.clientHeight / 2;
    const across = (port.scrollLeft + x) / port.scrollWidth, down = (port.scrollTop + y) / port.scrollHeight;
    this.zoom = wanted;
    const shown = this.fit() * wanted;
    port.style.setProperty("--shown", `${shown}px`);
    port.scrollLeft = across * port.scrollWidth - x;
    port.scrollTop = down * port.scrollHeight - y;
    const scale = (shown * devicePixelRatio) / this.size.width;
    port.classList.toggle("pixels", scale >= 2);
    this.zoomed(Math.round(100 * scale));
  }
}
