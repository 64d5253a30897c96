// What can be done to a picture: a card for each model, by what is wrong, and one for the formulas.
import { byId, element } from "./element.js";

const FORMULA = "formula";

export class Choices {
  constructor(offer, changed) {
    this.offer = offer;
    this.changed = changed;
    this.looks = new Map();
    this.purposes = new Map();
    const cards = offer.models.map((model) => this.card(model.name, model.wrong, model.purpose));
    const sum = element("span", { className: "sum", textContent: "y = A x + n" });
    cards.push(this.card(FORMULA, "a formula", "restores what a known formula has degraded, such as a scale, a blur or missing colour", sum));
    byId("cards").append(...cards);
    document.querySelector("[name=choice]").checked = true;
    this.makeFormula();
    for (const id of ["cards", "formula", "steps"]) byId(id).addEventListener("input", () => this.update());
    this.arrange();
  }

  card(name, title, purpose, look) {
    this.purposes.set(name, purpose);
    const shown = element("span", { className: "look" }, look ?? null);
    if (!look) this.looks.set(name, shown);
    const input = element("input", { type: "radio", name: "choice", value: name });
    return element("label", { className: "card" }, input, shown, element("b", { textContent: title }));
  }

  makeFormula() {
    const { operators, methods } = this.offer, field = (label, input, wide) =>
      element("label", { className: wide ? "wide" : "" }, label, input);
    const number = (min, max, step, value) => element("input", { type: "number", min, max, step, value });
    const options = (list) => list.map(([value, text]) => element("option", { value, textContent: text }));
    const f = {
      operator: element("select", {}, ...options(operators.map((one) => [one.form, `${one.form}: ${one.line}`]))),
      argument: element("input", { type: "text", autocomplete: "off", spellcheck: false }),
      method: element("select", {}, ...options(methods.map(({ name }) => [name, name]))),
      sigma_y: number(0, 10, "any", 0),
      eta: number(0, 1, "any", 0.85),
      eta_b: number(0, 1, "any", 1),
      back: number(1, 1000, 1, 1),
      times: number(1, 1000, 1, 1),
    };
    this.fields = f;
    const labels = { argument: "Its number or kind", method: "Method", sigma_y: "Noise (sigma_y, 0 to 1)", eta: "New noise in a step (eta)", eta_b: "Weight of what is known (eta_b)", back: "Time travel: steps back", times: "Time travel: times walked" };
    byId("formula").append(field("What was done to the picture (A)", f.operator, true), ...Object.entries(labels).map(([name, label]) => field(label, f[name])));
    f.operator.addEventListener("input", () => (f.argument.value = this.operator.argument));
    f.argument.value = this.operator.argument;
  }

  get operator() {
    return this.offer.operators.find((one) => one.form === this.fields.operator.value);
  }

  get method() {
    return this.offer.methods.find((one) => one.name === this.fields.method.value);
  }

  get name() {
    return document.querySelector("[name=choice]:checked").value;
  }

  model(name) {
    const model = this.offer.models.find((one) => one.name === name);
    return { path: "restore", title: model.wrong, mask: model.mask, needsMask: model.mask !== null, film: true, settings: { model: name } };
  }

  // What is chosen: the address that does it, its settings, and the mask that it takes.
  get chosen() {
    const steps = byId("steps").value, more = steps ? { steps } : {};
    if (this.name !== FORMULA) {
      const model = this.model(this.name);
      return { ...model, settings: { ...model.settings, ...more } };
    }
    const { operator, method, fields: f } = this;
    const settings = { operator: operator.argument ? `${operator.name}:${f.argument.value}` : operator.name, method: method.name, ...more };
    const taken = method.ddrm ? ["sigma_y", "eta", "eta_b"] : ["sigma_y", "eta", "back", "times"];
    for (const name of taken) settings[name] = f[name].value;
    return { path: "solve", title: settings.operator, mask: operator.mask, needsMask: operator.needs, film: false, settings };
  }

  update() {
    this.arrange();
    this.changed();
  }

  // Show the settings of what is chosen.
  arrange() {
    const formula = this.name === FORMULA;
    byId("purpose").textContent = this.purposes.get(this.name);
    byId("formula").hidden = !formula;
    if (formula) {
      const { fields: f, method } = this;
      f.argument.parentElement.hidden = !this.operator.argument;
      f.eta_b.parentElement.hidden = !method.ddrm;
      f.back.parentElement.hidden = f.times.parentElement.hidden = method.ddrm;
    }
    byId("steps").placeholder = formula ? this.method.steps : this.offer.models.find((one) => one.name === this.name).steps;
  }

  // Show what is known of an item's previews: the restored ones, and the picture itself where there is none yet.
  showPreviews(item) {
    for (const model of this.offer.models) {
      const look = this.looks.get(model.name), preview = item?.previews.get(model.name);
      const note = preview?.error ?? (preview ? null : model.mask && (item?.mask?.empty ?? true) ? "paint a mask" : "…");
      const src = preview?.url ?? item?.smallUrl;
      look.replaceChildren(...[
        src ? element("img", { src, alt: "", className: preview?.url ? "" : "untouched" }) : null,
        note ? element("span", { className: "note", textContent: note }) : null,
      ].filter(Boolean));
    }
  }
}
