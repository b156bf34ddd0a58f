// Draws curves. All text comes into the page as text: nothing that a file says is read as HTML.
const drawing = (() => {
  "use strict";
  const node = (made, fields, children) => {
    for (const [name, value] of Object.entries(fields)) if (value !== null) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const el = (tag, fields = {}, ...children) => node(document.createElement(tag), fields, children);
  const svg = (tag, fields = {}, ...children) =>
    node(document.createElementNS("http://www.w3.org/2000/svg", tag), fields, children);
  const bdi = (text) => el("bdi", {}, text);

  const short = (value) => {
    if (value === null || value === undefined || !Number.isFinite(value)) return "";
    const size = Math.abs(value);
    if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
    return size >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(4));
  };
  const ticks = (low, high, count = 5) => {
    if (!(high > low)) return [low];
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= rough * 0.85);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return found;
  };

  function nearest(sorted, value) {
    let low = 0, high = sorted.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle] < value) low = middle + 1; else high = middle;
    }
    return low > 0 && value - sorted[low - 1] < sorted[low] - value ? low - 1 : low;
  }
  function smooth(values, smoothing) {  // exponential moving mean; its beginning is corrected as Adam's is
    let mean = 0, weight = 0;
    const take = (last, value) => smoothing * last + (1 - smoothing) * value;
    return values.map((value) => (mean = take(mean, value)) / (weight = take(weight, 1)));
  }

  // A card with the curves of one figure: its kind as the server says; ``shown`` has the lines, and how to draw them.
  function chart(key, kind, shown) {
    const plot = el("div", { class: "plot", tabindex: 0, role: "group", "aria-label": `${kind.title}: curves` });
    const tip = el("div", { class: "tip", hidden: "" }), said = el("div", { class: "said", "aria-live": "polite" });
    const card = el("div", { class: "card", "data-key": key }, el("h3", {}, kind.title), plot, said);
    let view = null, at = null, stamp = "";
    const scale = (value) => kind.percent ? 100 * value : value;
    const number = (value) => kind.percent ? `${short(100 * value)} %` : short(value);
    function paint(anew) {
      const lines = shown.lines(key), { log, smoothing } = shown;
      const width = Math.max(280, plot.clientWidth || 520), height = 270;
      const now = JSON.stringify([width, log, smoothing, lines.map((l) => [l.id, l.colour, l.x.length, l.x.at(-1),
        l.y.at(-1), l.generation])]);
      if (now === stamp && !anew) return;
      stamp = now;
      const good = (v) => Number.isFinite(v) && (!log || v > 0);
      const place = (v) => log ? Math.log10(v) : v;
      let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
      for (const line of lines) {
        line.raw = line.y.map(scale);
        line.ys = smooth(line.raw, smoothing);
        [x0, x1] = [Math.min(x0, line.x[0]), Math.max(x1, line.x.at(-1))];
        for (const v of line.raw) if (good(v)) [y0, y1] = [Math.min(y0, place(v)), Math.max(y1, place(v))];
      }
      if (!(y0 <= y1)) {
        view = null;
        plot.replaceChildren(el("p", { class: "lead" }, "Nothing above 0 to show on a logarithmic axis."));
        return;
      }
      if (kind.zero && !log) y0 = Math.min(y0, 0);
      if (y0 === y1) [y0, y1] = [y0 - (Math.abs(y0) * 0.1 || 1), y1 + (Math.abs(y1) * 0.1 || 1)];
      if (x0 === x1) x1 = x0 + 1;
      const levels = log && y1 - y0 > 1.2 ? ticks(y0, y1).filter(Number.isInteger) : ticks(y0, y1);
      const names = levels.map((v) => short(log ? 10 ** v : +v.toPrecision(10)));
      const left = 14 + 7.2 * Math.max(2, ...names.map((name) => name.length)), right = width - 12;
      const top = 10, bottom = height - 42;
      const X = (v) => left + (v - x0) / (x1 - x0) * (right - left);
      const Y = (v) => bottom - (Math.min(y1, Math.max(y0, place(v))) - y0) / (y1 - y0) * (bottom - top);
      const path = (xs, ys) => {
        let text = "", open = false;
        ys.forEach((v, i) => {
          if (good(v)) text += `${open ? "L" : "M"}${X(xs[i]).toFixed(1)} ${Y(v).toFixed(1)}`;
          open = good(v);
        });
        return text;
      };
      const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": lines.map((l) =>
        `${l.place}: ${number(l.y.at(-1))} at step ${l.x.at(-1)}`).join("; ") });
      levels.forEach((v, i) => {
        const y = bottom - (v - y0) / (y1 - y0) * (bottom - top);
        drawn.append(svg("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }),
          svg("text", { x: left - 7, y: y + 4, "text-anchor": "end" }, names[i]));
      });
      for (const v of ticks(x0, x1, width > 420 ? 6 : 4)) {
        drawn.append(svg("text", { x: X(v), y: bottom + 17, "text-anchor": "middle" }, short(v)));
      }
      drawn.append(svg("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }), svg("text", { class: "label",
        x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, `${kind.axis}, by optimiser step`));
      for (const line of lines) {
        const c = line.colour;
        if (line.low && line.x.length > 1) {
          const up = line.high.map(scale), down = line.low.map(scale).map((v) => good(v) ? v : log ? 10 ** y0 : y0);
          const back = line.x.map((x, i) => `L${X(x).toFixed(1)} ${Y(down[i]).toFixed(1)}`).reverse().join("");
          drawn.append(svg("path", { class: `band b${c}`, d: `${path(line.x, up)}${back}Z` }));
        }
        if (smoothing) drawn.append(svg("path", { class: `line faint s${c}`, d: path(line.x, line.raw) }));
        drawn.append(svg("path", { class: `line s${c}`, d: path(line.x, line.ys) }));
        if (key.startsWith("probe/") || Math.max(...lines.map((l) => l.x.length)) < 40) line.raw.forEach((v, i) => {
          if (good(v)) drawn.append(svg("circle", { class: `dot s${c}`, r: 3, cx: X(line.x[i]), cy: Y(v) }));
        });
      }
      const mark = svg("line", { class: "cursor", y1: top, y2: bottom, visibility: "hidden" });
      drawn.append(mark);
      const steps = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
      view = { lines, X, mark, steps, width, value: (x) => x0 + (x - left) / (right - left) * (x1 - x0) };
      plot.replaceChildren(drawn, tip);
      if (at !== null) point(at, false);
    }
    function point(step, speak) {
      at = step;
      tip.hidden = step === null || !view;
      view?.mark.setAttribute("visibility", tip.hidden ? "hidden" : "visible");
      if (tip.hidden) return;
      const x = view.X(step);
      view.mark.setAttribute("x1", x); view.mark.setAttribute("x2", x);
      const there = view.lines.filter((line) => step >= line.x[0] && step <= line.x.at(-1));
      tip.replaceChildren(el("div", {}, `step ${step.toLocaleString("en")}`), ...there.map((line) => el("div", {},
        el("i", { class: `k${line.colour}` }), bdi(line.place), ` ${number(line.y[nearest(line.x, step)])}`)));
      tip.style.left = x < view.width / 2 ? `${100 * x / view.width + 2}%` : "auto";
      tip.style.right = x < view.width / 2 ? "auto" : `${100 - 100 * x / view.width + 2}%`;
      if (speak) said.textContent = tip.innerText.replaceAll("\n", ", ");
    }
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width;
      if (view) point(view.steps[nearest(view.steps, view.value(x * view.width))], false);
    });
    plot.addEventListener("pointerleave", () => point(null, false));
    plot.addEventListener("blur", () => point(null, false));
    plot.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity }[event.key];
      if (event.key === "Escape") point(null, false);
      if (move === undefined || !view) return;
      event.preventDefault();
      const last = view.steps.length - 1, here = at === null ? last : nearest(view.steps, at);
      point(view.steps[Math.min(last, Math.max(0, here + (at === null && move !== -Infinity ? 0 : move)))], true);
    });
    return { card, draw: paint };
  }

  return { el, bdi, short, chart };
})();
