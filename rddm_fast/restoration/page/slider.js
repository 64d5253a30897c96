"use strict";
// A slider over two pictures, by mouse, pen, finger and keyboard. A page that adds one later calls slider(figure).
function slider(figure) {
  const stage = figure.querySelector(".stage"), range = figure.querySelector("input");
  const after = figure.querySelector("img.after");
  figure.style.setProperty("--ratio", after.getAttribute("width") / after.getAttribute("height"));

  function show(percent) {
    range.value = percent;
    figure.style.setProperty("--cut", range.value + "%");
    range.setAttribute("aria-valuetext", Math.round(range.value) + " % before, the rest after");
  }
  function follow(event) {
    const box = stage.getBoundingClientRect();
    show(100 * (event.clientX - box.left) / box.width);
  }
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault(); // the range keeps the focus, so that the arrow keys go on from here
    range.focus({ preventScroll: true });
    follow(event);
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) follow(event);
  });
  range.addEventListener("input", () => show(range.value));
  range.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2 }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    show(Number(range.value) + move);
  });
  show(50);
}
document.querySelectorAll(".slider").forEach(slider);
