// Keeps the page up to date. All text comes into the page as text: nothing that a file says is read as HTML.
(() => {
  "use strict";
  const PERIOD = 1500, HIDDEN_PERIOD = 10000, MOST = 6, AT_FIRST = 4, MOST_OPEN = 20;
  const MAIN = ["loss", "schedule/learning_rate", "throughput/samples_per_second", "gradient/norm", "features/std",
    "features/rank_share"];
  const $ = (id) => document.getElementById(id);
  const node = (made, fields, children) => {
    for (const [name, value] of Object.entries(fields)) if (value !== null) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const el = (tag, fields = {}, ...children) => node(document.createElement(tag), fields, children);
  const svg = (tag, fields = {}, ...children) =>
    node(document.createElementNS("http://www.w3.org/2000/svg", tag), fields, children);
  const bdi = (text) => el("bdi", {}, text);

  let runs = [], figures = {}, problems = [], colours = new Map(), touched = false, lost = 0, looked = 0;
  let log = false, smoothing = 0, keysOn = null;
  const points = new Map();  // of each run: curves by name
  const marks = new Map();  // ETag and address of the last answer of a kind
  const charts = new Map(), rows = new Map();
  const chosen = () => [...colours.keys()].map((id) => runs.find((run) => run.id === id)).filter(Boolean);
  const colour = (run) => colours.get(run.id);

  // Numbers
  const short = (value) => {
    if (value === null || value === undefined || !Number.isFinite(value)) return "";
    const size = Math.abs(value);
    if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
    return size >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(4));
  };
  const shown = (key, value) => figures[key]?.percent ? `${short(100 * value)} %` : short(value);
  const duration = (seconds) => {
    if (seconds === null || seconds === undefined) return "";
    const s = Math.max(0, Math.round(seconds));
    if (s >= 86400) return `${Math.floor(s / 86400)} d ${Math.floor(s % 86400 / 3600)} h`;
    if (s >= 3600) return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
    return s >= 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s} s`;
  };
  const ticks = (low, high, count = 5) => {
    if (!(high > low)) return [low];
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= rough * 0.85);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return found;
  };

  // What the server says; null where nothing has changed
  async function ask(kind, address) {
    const mark = marks.get(kind), headers = mark?.address === address ? { "If-None-Match": mark.tag } : {};
    const answer = await fetch(address, { headers, cache: "no-store", credentials: "same-origin" });
    if (answer.status === 304) return null;
    if (answer.status === 404) return undefined;
    if (!answer.ok) throw new Error(answer.status === 403
      ? "The server has been started anew: open the address that it has printed." : `answer ${answer.status}`);
    marks.set(kind, { address, tag: answer.headers.get("ETag") });
    return answer.json();
  }

  async function update() {
    try {
      const said = await ask("runs", "runs");
      if (said) { ({ runs, figures, problems } = said); choose(); }
      if (said || lost) banner(problems);
      lost = 0;
      if (said) table();
      let changed = false;
      for (const run of chosen()) changed = (await more(run)) || changed;
      if (changed || said) draw();
      if (performance.now() - looked > 4000) { looked = performance.now(); await compare(); }
      $("when").textContent = `Live; as of ${new Date().toLocaleTimeString("en-GB")}.`;
    } catch (error) {
      lost += 1;
      const why = error instanceof TypeError ? "foundation watch has ended, or the way to it is cut." : error.message;
      if (lost > 1) banner([`No answer: ${why} The page shows the last state and goes on asking.`]);
    }
    if (chosen().length || runs.length) ages();
    setTimeout(update, document.hidden ? HIDDEN_PERIOD : PERIOD);
  }

  async function more(run) {
    const known = points.get(run.id) ?? points.set(run.id, new Map()).get(run.id);
    const wanted = run.series.filter(isOn);
    if (!wanted.length) return false;
    const query = new URLSearchParams({ run: run.id });
    for (const key of wanted) {
      const have = known.get(key);
      query.append("key", key);
      query.append("have", have ? `${have.generation}.${Math.max(0, have.x.length - 1)}` : "-1.0");
    }
    const said = await ask(`curves ${run.id}`, `curves?${query}`);
    if (!said) return false;
    for (const [key, got] of Object.entries(said.curves)) {
      const have = known.get(key);
      if (have && have.generation === got.generation) {
        for (const part of ["x", "y", "low", "high"]) {
          if (got[part]) { have[part].length = got.start; have[part].push(...got[part]); }
        }
      } else known.set(key, got);
    }
    return true;
  }

  function banner(texts) {
    $("banner").hidden = !texts.length;
    $("banner").replaceChildren(...texts.map((text) => el("p", {}, text)));
  }

  // Runs
  function choose() {
    for (const id of [...colours.keys()]) if (!runs.some((run) => run.id === id)) colours.delete(id);
    if (touched) return;
    const some = runs.filter((run) => run.series.length);
    some.sort((a, b) => (b.state === "running") - (a.state === "running"));
    for (const run of some.slice(0, AT_FIRST)) pick(run.id, true);
  }
  function pick(id, on) {
    if (!on) colours.delete(id);
    else if (!colours.has(id) && colours.size < MOST) {
      const used = new Set(colours.values());
      colours.set(id, [1, 2, 3, 4, 5, 6].find((number) => !used.has(number)));
    }
  }
  function table() {
    const body = $("runs"), ids = runs.map((run) => run.id).join();
    if (body.dataset.ids !== ids) {
      for (const id of [...rows.keys()]) if (!runs.some((run) => run.id === id)) rows.delete(id);
      const focus = document.activeElement?.dataset?.run;
      body.replaceChildren(...runs.map((run) => (rows.get(run.id) ?? row(run)).line));
      body.dataset.ids = ids;
      if (focus) rows.get(focus)?.box.focus();
    }
    $("none").hidden = runs.length > 0;
    for (const run of runs) fill(rows.get(run.id), run);
    search();
  }
  function row(run) {
    const box = el("input", { type: "checkbox", id: `box-${run.id}`, "data-run": run.id });
    box.addEventListener("change", () => {
      touched = true; pick(run.id, box.checked); looked = 0;
      table(); draw(true); more(run).then(() => draw(true)); compare();
    });
    const name = el("label", { for: box.id }), notes = el("small"), chip = el("span");
    const cells = [1, 2, 3, 4, 5].map(() => el("td", { class: "n" }));
    const line = el("tr", {}, el("td", {}, box), el("th", { scope: "row" }, name, notes), el("td", {}, chip), ...cells);
    const made = { line, box, name, notes, chip, cells };
    rows.set(run.id, made);
    return made;
  }
  function put(target, text) { if (target.textContent !== text) target.textContent = text; }
  function fill(made, run) {
    const on = colours.has(run.id);
    made.line.className = on ? "chosen" : "";
    made.box.checked = on;
    made.box.disabled = !on && colours.size >= MOST;
    if (made.name.dataset.place !== run.place) { made.name.replaceChildren(bdi(run.place)); made.name.dataset.place = run.place; }
    const notes = [run.name !== run.place.split("/").pop() ? run.name : "", run.stage ? `stage ${run.stage}` : "",
      run.state !== "done" && run.reason ? run.reason : "", run.state === "running" && run.doing ? run.doing : "",
      run.alarms && run.state === "running" ? "signs of a collapse" : "",
      run.read < 1 ? `reading its metrics: ${Math.floor(100 * run.read)} %` : "", ...run.problems].filter(Boolean);
    put(made.notes, notes.join(" · "));
    made.notes.className = run.problems.length || run.alarms || run.state === "failed" ? "problem" : "";
    put(made.chip, run.state);
    made.chip.className = `chip ${run.state}`;
    const step = run.step === undefined ? "" : run.step.toLocaleString("en") + (run.total ? ` / ${run.total.toLocaleString("en")}` : "");
    if (made.cells[0].dataset.step !== step) {
      made.cells[0].dataset.step = step;
      made.cells[0].replaceChildren(step, ...(run.total ? [el("progress", { class: "bar-of", "aria-label": "share done",
        value: Math.min(run.step, run.total), max: run.total })] : []));
    }
    [short(run.loss), short(run.rate), duration(run.left)].forEach((text, i) => put(made.cells[i + 1], text));
  }
  function ages() {
    for (const run of runs) {
      const made = rows.get(run.id);
      if (made) put(made.cells[4], run.updated ? `${duration(Date.now() / 1000 - run.updated)} ago` : "");
    }
  }
  function search() {
    const words = ($("search")?.value ?? "").toLowerCase();
    $("find").hidden = runs.length < 8;
    for (const run of runs) {
      rows.get(run.id).line.hidden = !`${run.place} ${run.name} ${run.state}`.toLowerCase().includes(words);
    }
  }

  // Charts
  const isOn = (key) => keysOn ? keysOn.has(key) : key.startsWith("probe/") || MAIN.includes(key);
  function draw(anew = false) {
    const here = chosen(), all = [...new Set(here.flatMap((run) => run.series))];
    const rank = (key) => key.startsWith("probe/") ? -1 : MAIN.includes(key) ? MAIN.indexOf(key) : MAIN.length;
    const keys = all.filter((key) => isOn(key) && here.some((run) => points.get(run.id)?.get(key)?.x.length));
    keys.sort((a, b) => rank(a) - rank(b));
    $("keys").replaceChildren(...here.map((run) => el("span", {}, el("i", { class: `k${colour(run)}` }), bdi(run.place))));
    const order = keys.join("\n");
    if ($("charts").dataset.keys !== order || !charts.size) {
      for (const key of [...charts.keys()]) if (!keys.includes(key)) charts.delete(key);
      $("charts").replaceChildren(...keys.map((key) => (charts.get(key) ?? chart(key)).card));
      $("charts").dataset.keys = order;
    }
    for (const key of keys) charts.get(key).draw(anew);
    $("no-charts").replaceChildren(...(keys.length ? [] : [el("div", { class: "card empty" },
      here.length ? "No figures yet." : "No run is ticked.")]));
    options(all);
  }
  function chart(key) {
    const kind = figures[key] ?? { title: key, axis: "", percent: false, zero: false };
    const plot = el("div", { class: "plot", tabindex: 0, role: "group", "aria-label": `${kind.title}: curves` });
    const tip = el("div", { class: "tip", hidden: "" }), said = el("div", { class: "said", "aria-live": "polite" });
    const card = el("div", { class: "card", "data-key": key }, el("h3", {}, kind.title), plot, said);
    let view = null, at = null, stamp = "";
    const scale = (value) => kind.percent ? 100 * value : value;
    function paint(anew) {
      const lines = chosen().map((run) => ({ run, ...(points.get(run.id)?.get(key) ?? { x: [], y: [] }) }))
        .filter((line) => line.x.length);
      const width = Math.max(280, plot.clientWidth || 520), height = 270;
      const now = JSON.stringify([width, log, smoothing, lines.map((l) => [l.run.id, colour(l.run), l.x.length, l.x.at(-1),
        l.y.at(-1), l.generation])]);
      if (now === stamp && !anew) return;
      stamp = now;
      const good = (v) => Number.isFinite(v) && (!log || v > 0);
      const place = (v) => log ? Math.log10(v) : v;
      let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
      for (const line of lines) {
        line.raw = line.y.map(scale);
        line.ys = smooth(line.raw);
        [x0, x1] = [Math.min(x0, line.x[0]), Math.max(x1, line.x.at(-1))];
        for (const v of line.raw) if (good(v)) [y0, y1] = [Math.min(y0, place(v)), Math.max(y1, place(v))];
      }
      if (!(y0 <= y1)) { view = null; plot.replaceChildren(el("p", { class: "lead" }, "Nothing above 0 to show on a logarithmic axis.")); return; }
      if (kind.zero && !log) y0 = Math.min(y0, 0);
      if (y0 === y1) [y0, y1] = [y0 - (Math.abs(y0) * 0.1 || 1), y1 + (Math.abs(y1) * 0.1 || 1)];
      if (x0 === x1) x1 = x0 + 1;
      const levels = log && y1 - y0 > 1.2 ? ticks(y0, y1).filter(Number.isInteger) : ticks(y0, y1);
      const names = levels.map((v) => short(log ? 10 ** v : +v.toPrecision(10)));
      const left = 14 + 7.2 * Math.max(2, ...names.map((name) => name.length)), right = width - 12, top = 10, bottom = height - 42;
      const X = (v) => left + (v - x0) / (x1 - x0) * (right - left);
      const Y = (v) => bottom - (Math.min(y1, Math.max(y0, place(v))) - y0) / (y1 - y0) * (bottom - top);
      const path = (xs, ys) => {
        let text = "", open = false;
        ys.forEach((v, i) => {
          if (good(v)) { text += `${open ? "L" : "M"}${X(xs[i]).toFixed(1)} ${Y(v).toFixed(1)}`; open = true; } else open = false;
        });
        return text;
      };
      const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": lines.map((l) =>
        `${l.run.place}: ${shown(key, l.y.at(-1))} at step ${l.x.at(-1)}`).join("; ") });
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
        const c = colour(line.run);
        if (line.low && line.x.length > 1) {
          const up = line.high.map(scale), down = line.low.map(scale).map((v) => good(v) ? v : log ? 10 ** y0 : y0);
          const back = line.x.map((x, i) => `L${X(x).toFixed(1)} ${Y(down[i]).toFixed(1)}`).reverse().join("");
          drawn.append(svg("path", { class: `band b${c}`, d: `${path(line.x, up)}${back}Z` }));
        }
        if (smoothing) drawn.append(svg("path", { class: `line faint s${c}`, d: path(line.x, line.raw) }));
        drawn.append(svg("path", { class: `line s${c}`, d: path(line.x, line.ys) }));
        if (line.x.length < 40) line.raw.forEach((v, i) => {
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
      const values = view.lines.map((line) => ({ run: line.run, i: nearest(line.x, step), line }))
        .filter(({ line }) => step >= line.x[0] && step <= line.x.at(-1));
      tip.replaceChildren(el("div", {}, `step ${step.toLocaleString("en")}`), ...values.map(({ run, i, line }) =>
        el("div", {}, el("i", { class: `k${colour(run)}` }), bdi(run.place), ` ${shown(key, line.y[i])}`)));
      tip.style.left = x < view.width / 2 ? `${100 * x / view.width + 2}%` : "auto";
      tip.style.right = x < view.width / 2 ? "auto" : `${100 - 100 * x / view.width + 2}%`;
      if (speak) said.textContent = tip.innerText.replaceAll("\n", ", ");
    }
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      if (view) point(view.steps[nearest(view.steps, view.value((event.clientX - box.left) / box.width * view.width))], false);
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
    const made = { card, draw: paint };
    charts.set(key, made);
    return made;
  }
  function nearest(sorted, value) {
    let low = 0, high = sorted.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle] < value) low = middle + 1; else high = middle;
    }
    return low > 0 && value - sorted[low - 1] < sorted[low] - value ? low - 1 : low;
  }
  function smooth(values) {  // exponential moving mean; its beginning is corrected as Adam's is
    if (!smoothing) return values;
    let mean = 0, weight = 0;
    return values.map((value) => {
      mean = smoothing * mean + (1 - smoothing) * value;
      weight = smoothing * weight + (1 - smoothing);
      return mean / weight;
    });
  }

  // Controls
  function controls() {
    const find = el("input", { type: "search", id: "search", placeholder: "name or state" });
    find.addEventListener("input", search);
    $("find").replaceChildren(el("label", {}, "Find", find));
    const box = el("input", { type: "checkbox", id: "log" }), range = el("input", { type: "range", id: "smooth", min: 0,
      max: 0.99, step: 0.01, value: 0 });
    box.addEventListener("change", () => { log = box.checked; draw(true); });
    range.addEventListener("input", () => { smoothing = +range.value; draw(true); });
    $("controls").replaceChildren(el("label", {}, box, "logarithmic axis"), el("label", {}, "smoothing", range));
    $("controls").hidden = $("more").hidden = false;
    const select = el("select", { id: "sampled", "aria-label": "run" }), go = el("button", { type: "button" }, "Draw its samples");
    go.addEventListener("click", () => samples(select.value, go));
    $("of-samples").replaceChildren(select, go);
    $("of-samples").hidden = false;
    addEventListener("resize", () => draw());
  }
  function options(all) {
    const names = all.join("\n"), ids = chosen().map((run) => run.id).join();
    if ($("choose").dataset.names !== names) {
      $("choose").dataset.names = names;
      $("choose").replaceChildren(...all.map((key) => {
        const box = el("input", { type: "checkbox" });
        box.checked = isOn(key);
        box.addEventListener("change", async () => {
          keysOn ??= new Set(all.filter(isOn));
          if (box.checked) keysOn.add(key); else keysOn.delete(key);
          for (const run of chosen()) await more(run);
          draw(true);
        });
        return el("label", {}, box, el("span", {}, figures[key]?.title ?? key));
      }));
    }
    const select = $("sampled");
    if (select.dataset.ids !== ids) {
      const before = select.value;
      select.dataset.ids = ids;
      select.replaceChildren(...chosen().map((run) => el("option", { value: run.id }, run.place)));
      if (colours.has(before)) select.value = before;
    }
  }

  // Samples and comparison
  async function samples(id, button) {
    const out = $("samples"), note = (text) => out.replaceChildren(el("div", { class: "card empty", role: "status" }, text));
    button.disabled = true;
    try {
      note("The pictures are being made ...");
      for (let said; ; await new Promise((done) => setTimeout(done, 1000))) {
        said = (await ask(`samples ${id}`, `samples?run=${id}`)) ?? said;
        if (said === undefined) return note("The run is gone.");
        if (said?.state === "problem") return note(`No samples: ${said.text}`);
        if (said?.state !== "ready") continue;
        marks.delete(`samples ${id}`);
        const lead = el("p", { class: "lead" }, `${said.kinds.join("; ")}. ${said.legend}`);
        return out.replaceChildren(lead, el("div", { class: "card" }, ...said.samples.map((sample) => el("div", { class: "views" },
          el("div", { class: "key" }, bdi(sample.name)), ...sample.pictures.map((picture) => {
            const image = el("img", { class: "pixel", src: picture.uri, alt: `${picture.title} of ${sample.name}` });
            const figure = el("figure", {}, image, el("figcaption", {}, picture.title));
            figure.style.width = `${picture.width}px`;
            return figure;
          })))), ...said.notes.map((text) => el("p", { class: "of" }, text)));
      }
    } catch (error) { note(`No answer: ${error.message}`); } finally { button.disabled = false; }
  }
  async function compare() {
    const here = chosen();
    const said = here.length ? await ask("compare", `compare?${new URLSearchParams(here.map((run) => ["run", run.id]))}`) : {};
    if (!said) return;
    const part = (title, lines) => lines?.length && said.runs ? [el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title },
      el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, title), ...said.runs.map((id) => el("th",
        { scope: "col" }, bdi(runs.find((run) => run.id === id)?.place ?? ""))))),
      el("tbody", {}, ...lines.map(([name, ...cells]) => el("tr", {}, el("th", { scope: "row" }, name),
        ...cells.map((cell) => el("td", { class: "long" }, bdi(cell))))))))] : [];
    const tables = part("figure", said.figures), settings = part("setting", said.settings);
    if (settings.length && here.length > 1) {
      const count = said.settings.length + said.more, left = said.more ? ` (the first ${said.settings.length} are shown)` : "";
      const open = $("compared").querySelector("details")?.open ?? count <= MOST_OPEN;
      tables.push(el("details", open ? { open: "" } : {}, el("summary", {}, `${count} settings that differ${left}`), ...settings));
    }
    $("compared").replaceChildren(...(tables.length ? tables : ["No runs to compare."]));
  }

  if (location.search) history.replaceState(null, "", location.pathname);  // the token is in a cookie now
  controls();
  update();
})();
