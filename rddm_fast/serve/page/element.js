// element("li", { className: "done" }, child, "text") makes an element with these properties and children.
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}
export const byId = (id) => document.getElementById(id);
