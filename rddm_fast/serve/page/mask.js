// Painting a mask: strokes over a picture, kept as lines so that the last one can be taken back.
import { byId } from "./element.js";

const MOST_SIDE = 1536; // of the painted mask; the server stretches it to the picture

export class Mask {
  constructor(width, height) {
    const scale = Math.min(1, MOST_SIDE / Math.max(width, height));
    this.strokes = [];
    this.canvas = document.createElement("canvas");
    this.canvas.width = Math.max(1, Math.round(width * scale));
    this.canvas.height = Math.max(1, Math.round(height * scale));
  }

  get empty() {
    return this.strokes.length === 0;
  }

  draw() {
    const pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (const stroke of this.strokes) this.line(stroke, 0);
  }

  // Draw a stroke from its point number `from` on.
  line(stroke, from) {
    const pen = this.canvas.getContext("2d"), { points } = stroke;
    pen.globalCompositeOperation = stroke.erases ? "destination-out" : "source-over";
    pen.strokeStyle = "#ff2d55";
    pen.lineWidth = stroke.width;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(...points[from]);
    for (const point of points.slice(from)) pen.lineTo(...point);
    pen.stroke();
  }

  // The mask as a PNG, white where it is painted and black elsewhere.
  file() {
    const { width, height } = this.canvas, copy = new OffscreenCanvas(width, height), pen = copy.getContext("2d");
    pen.drawImage(this.canvas, 0, 0);
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, width, height);
    pen.globalCompositeOperation = "destination-over";
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, width, height);
    return copy.convertToBlob({ type: "image/png" });
  }
}

// Lets the pointer paint on the mask of `current()`; calls `changed` after each stroke.
export class Brush {
  constructor(current, changed) {
    this.current = current;
    this.changed = changed;
    byId("brush-undo").addEventListener("click", () => this.undo());
    byId("brush-clear").addEventListener("click", () => {
      const mask = this.current();
      if (mask) mask.strokes.length = 0;
      this.redrawn(mask);
    });
  }

  undo() {
    const mask = this.current();
    mask?.strokes.pop();
    this.redrawn(mask);
  }

  redrawn(mask) {
    mask?.draw();
    this.changed();
  }

  paintsOn(canvas) {
    if (canvas.dataset.painted) return;
    canvas.dataset.painted = "yes";
    let stroke = null;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      event.stopPropagation(); // the slider below would follow the pointer
      const width = (byId("brush-size").value / 100) * Math.max(canvas.width, canvas.height);
      stroke = { erases: byId("brush-erases").checked, width: Math.max(1, width / 2), points: [at(event)] };
      this.current().strokes.push(stroke);
      this.current().line(stroke, 0);
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!stroke) return;
      const before = stroke.points.length - 1;
      const moves = event.getCoalescedEvents?.() ?? [];
      for (const move of moves.length ? moves : [event]) stroke.points.push(at(move));
      this.current().line(stroke, before);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => {
        if (!stroke) return;
        stroke = null;
        this.changed();
      });
    }
  }
}
