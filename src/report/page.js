(() => {
  "use strict";
  const root = document.documentElement;
  const dark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const button = document.createElement("button");
  button.className = "theme";
  button.type = "button";
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();
  document.querySelector("header").append(button);

  const numbers = (text) => text.split(" ").map(Number);
  const written = (value) => {
    const size = Math.abs(value);
    if (size >= 1e5 || (size > 0 && size < 1e-3)) return value.toExponential(2);
    return String(Number(value.toPrecision(3)));
  };
  for (const plot of document.querySelectorAll("svg.plot[data-box]")) {
    const [left, top, right, bottom] = numbers(plot.dataset.box);
    const [x0, x1] = numbers(plot.dataset.x);
    const [y0, y1] = numbers(plot.dataset.y);
    const log = plot.dataset.y.endsWith("log");
    const value = (y) => {
      const share = (bottom - y) / (bottom - top);
      return log ? y0 * Math.pow(y1 / y0, share) : y0 + share * (y1 - y0);
    };
    const figure = plot.closest("figure");
    const at = figure.querySelector(".at");
    const cells = [...figure.querySelectorAll(".entry b")];
    const before = cells.map((cell) => cell.textContent);
    const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
    cursor.setAttribute("class", "cursor");
    cursor.setAttribute("y1", top);
    cursor.setAttribute("y2", bottom);
    let curves;
    const read = () => [...plot.querySelectorAll("path.curve")].map((path) =>
      [...path.getAttribute("d").matchAll(/([\d.-]+),([\d.-]+)/g)].map((point) => [Number(point[1]), Number(point[2])]));
    const leave = () => {
      cursor.remove();
      at.textContent = "";
      cells.forEach((cell, i) => { cell.textContent = before[i]; });
    };
    plot.addEventListener("pointermove", (event) => {
      const bounds = plot.getBoundingClientRect();
      const x = (event.clientX - bounds.left) * plot.viewBox.baseVal.width / bounds.width;
      if (x < left || x > right) { leave(); return; }
      curves = curves || read();
      const step = Math.round(x0 + (x - left) / (right - left) * (x1 - x0));
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      plot.append(cursor);
      at.textContent = "step " + step.toLocaleString("en");
      cells.forEach((cell, i) => {
        let best = null;
        for (const point of curves[i] || []) {
          if (best === null || Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
        }
        cell.textContent = best && Math.abs(best[0] - x) < 12 ? written(value(best[1])) : "–";
      });
    });
    plot.addEventListener("pointerleave", leave);
  }
})();
