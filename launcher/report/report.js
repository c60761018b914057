// Shows the values under the pointer, read back out of the paths. The page is complete without it.
"use strict";
for (const plot of document.querySelectorAll(".plot")) {
  const first = Number(plot.dataset.first), width = Number(plot.dataset.width);
  const low = Number(plot.dataset.low), high = Number(plot.dataset.high);
  const grid = Number(plot.dataset.grid), isLog = plot.dataset.log === "true";
  const value = (y) => {
    const share = 1 - y / grid;
    return isLog ? low * Math.pow(high / low, share) : low + (high - low) * share;
  };
  const read = (path) => {
    const points = [];
    let x = 0, y = 0;
    for (const [, command, body] of path.getAttribute("d").matchAll(/([Mlh])([^Mlh]*)/g)) {
      const numbers = (body.match(/-?\d+/g) || []).map(Number);
      if (command === "h") continue;
      for (let i = 0; i + 1 < numbers.length; i += 2) {
        x = command === "M" ? numbers[i] : x + numbers[i];
        y = command === "M" ? numbers[i + 1] : y + numbers[i + 1];
        points.push([x, value(y)]);
      }
    }
    return points;
  };
  const nearest = (points, x) => {
    let from = 0, to = points.length - 1;
    while (to - from > 1) {
      const middle = (from + to) >> 1;
      if (points[middle][0] < x) from = middle; else to = middle;
    }
    return Math.abs(points[from][0] - x) <= Math.abs(points[to][0] - x) ? points[from] : points[to];
  };
  const text = (v) => v !== 0 && Math.abs(v) < 1e-3 ? v.toExponential(2)
    : Math.abs(v) >= 1e4 ? Math.round(v).toLocaleString("en") : v.toPrecision(4);
  let series = null, cursor = null, tip = null;
  plot.addEventListener("pointermove", (event) => {
    series = series || [...plot.querySelectorAll("path[data-points]")].map((path) => [path.dataset.label, read(path)]);
    const box = plot.getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    const at = nearest(series[0][1], share * width)[0];
    if (!cursor) {
      cursor = plot.appendChild(document.createElement("div"));
      cursor.className = "cursor";
      tip = plot.appendChild(document.createElement("div"));
      tip.className = "tip";
    }
    cursor.style.left = 100 * at / width + "%";
    tip.textContent = "";
    tip.appendChild(document.createElement("b")).textContent = "step " + (first + at).toLocaleString("en");
    for (const [label, points] of series) {
      const [x, v] = nearest(points, at);
      const where = x === at ? "" : " (step " + (first + x).toLocaleString("en") + ")";
      tip.appendChild(document.createElement("div")).textContent = label + " " + text(v) + where;
    }
    tip.style.left = share > .5 ? "auto" : "calc(" + 100 * share + "% + 12px)";
    tip.style.right = share > .5 ? "calc(" + 100 * (1 - share) + "% + 12px)" : "auto";
  });
  plot.addEventListener("pointerleave", () => {
    if (cursor) { cursor.remove(); tip.remove(); cursor = tip = null; }
  });
}
