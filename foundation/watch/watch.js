// Keeps the page up to date. All text comes into the page as text: nothing that a file says is read as HTML.
(() => {
  "use strict";
  const PERIOD = 1500, HIDDEN_PERIOD = 10000, MOST = 6, AT_FIRST = 4, MOST_OPEN = 20;
  const MAIN = ["loss", "schedule/learning_rate", "throughput/samples_per_second", "gradient/norm", "features/std",
    "features/rank_share"];
  const { el, bdi, short, chart } = drawing, $ = (id) => document.getElementById(id);

  let runs = [], figures = {}, problems = [], colours = new Map(), touched = false, lost = 0, looked = 0;
  let keysOn = null;
  const points = new Map();  // of each run: curves by name
  const marks = new Map();  // ETag and address of the last answer of a kind
  const charts = new Map(), rows = new Map();
  const chosen = () => [...colours.keys()].map((id) => runs.find((run) => run.id === id)).filter(Boolean);
  const shown = { log: false, smoothing: 0, lines: (key) => chosen().map((run) => ({ id: run.id, place: run.place,
    colour: colours.get(run.id), ...(points.get(run.id)?.get(key) ?? { x: [] }) })).filter((line) => line.x.length) };

  // Numbers
  const duration = (seconds) => {
    if (seconds === null || seconds === undefined) return "";
    const s = Math.max(0, Math.round(seconds));
    const units = [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];
    const [large, name, small, rest] = units.find(([size]) => s >= size) ?? [];
    return large ? `${Math.floor(s / large)} ${name} ${Math.floor(s % large / small)} ${rest}` : `${s} s`;
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
    rows.set(run.id, { line, box, name, notes, chip, cells });
    return rows.get(run.id);
  }
  const put = (target, text) => { if (target.textContent !== text) target.textContent = text; };
  function fill(made, run) {
    const on = colours.has(run.id);
    made.line.className = on ? "chosen" : "";
    made.box.checked = on;
    made.box.disabled = !on && colours.size >= MOST;
    if (!made.name.firstChild) made.name.append(bdi(run.place));
    const notes = [run.name !== run.place.split("/").pop() ? run.name : "", run.stage ? `stage ${run.stage}` : "",
      run.state !== "done" && run.reason ? run.reason : "", run.state === "running" && run.doing ? run.doing : "",
      run.alarms && run.state === "running" ? "signs of a collapse" : "",
      run.read < 1 ? `reading its metrics: ${Math.floor(100 * run.read)} %` : "", ...run.problems].filter(Boolean);
    put(made.notes, notes.join(" · "));
    made.notes.className = run.problems.length || run.alarms || run.state === "failed" ? "problem" : "";
    put(made.chip, run.state);
    made.chip.className = `chip ${run.state}`;
    const known = [run.step, run.total || undefined].filter((value) => value !== undefined);
    const step = known.map((value) => value.toLocaleString("en")).join(" / ");
    if (made.cells[0].dataset.step !== step) {
      made.cells[0].dataset.step = step;
      made.cells[0].replaceChildren(step, ...(run.total ? [el("progress", { class: "bar-of", "aria-label": "share done",
        value: Math.min(run.step, run.total), max: run.total })] : []));
    }
    [short(run.loss), short(run.rate), duration(run.left)].forEach((text, i) => put(made.cells[i + 1], text));
  }
  function ages() {
    const text = (run) => run.updated ? `${duration(Date.now() / 1000 - run.updated)} ago` : "";
    for (const run of runs) if (rows.has(run.id)) put(rows.get(run.id).cells[4], text(run));
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
    const mark = (run) => el("i", { class: `k${colours.get(run.id)}` });
    $("keys").replaceChildren(...here.map((run) => el("span", {}, mark(run), bdi(run.place))));
    const order = keys.join("\n");
    if ($("charts").dataset.keys !== order || !charts.size) {
      for (const key of [...charts.keys()]) if (!keys.includes(key)) charts.delete(key);
      for (const key of keys) if (!charts.has(key)) charts.set(key, chart(key, figures[key], shown));
      $("charts").replaceChildren(...keys.map((key) => charts.get(key).card));
      $("charts").dataset.keys = order;
    }
    for (const key of keys) charts.get(key).draw(anew);
    $("no-charts").replaceChildren(...(keys.length ? [] : [el("div", { class: "card empty" },
      here.length ? "No figures yet." : "No run is ticked.")]));
    options(all);
  }
  // Controls
  function controls() {
    const find = el("input", { type: "search", id: "search", placeholder: "name or state" });
    find.addEventListener("input", search);
    $("find").replaceChildren(el("label", {}, "Find", find));
    const box = el("input", { type: "checkbox", id: "log" }), range = el("input", { type: "range", id: "smooth", min: 0,
      max: 0.99, step: 0.01, value: 0 });
    box.addEventListener("change", () => { shown.log = box.checked; draw(true); });
    range.addEventListener("input", () => { shown.smoothing = +range.value; draw(true); });
    $("controls").replaceChildren(el("label", {}, box, "logarithmic axis"), el("label", {}, "smoothing", range));
    $("controls").hidden = $("more").hidden = false;
    const select = el("select", { id: "sampled", "aria-label": "run" });
    const go = el("button", { type: "button" }, "Draw its samples");
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
        const figure = (sample, { uri, title, width }) => {
          const image = el("img", { class: "pixel", src: uri, alt: `${title} of ${sample.name}` });
          const made = el("figure", {}, image, el("figcaption", {}, title));
          made.style.width = `${width}px`;
          return made;
        };
        const views = said.samples.map((sample) => el("div", { class: "views" },
          el("div", { class: "key" }, bdi(sample.name)), ...sample.pictures.map((picture) => figure(sample, picture))));
        const notes = said.notes.map((text) => el("p", { class: "of" }, text));
        return out.replaceChildren(lead, el("div", { class: "card" }, ...views), ...notes);
      }
    } catch (error) { note(`No answer: ${error.message}`); } finally { button.disabled = false; }
  }
  async function compare() {
    const here = chosen();
    const query = new URLSearchParams(here.map((run) => ["run", run.id]));
    const said = here.length ? await ask("compare", `compare?${query}`) : {};
    if (!said) return;
    const place = (id) => bdi(runs.find((run) => run.id === id)?.place ?? "");
    const part = (title, lines) => {
      if (!lines?.length) return [];
      const head = el("tr", {}, el("th", { scope: "col" }, title), ...said.runs.map((id) => el("th", { scope: "col" }, place(id))));
      const body = lines.map(([name, ...cells]) => el("tr", {}, el("th", { scope: "row" }, name),
        ...cells.map((cell) => el("td", { class: "long" }, bdi(cell)))));
      return [el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title },
        el("table", {}, el("thead", {}, head), el("tbody", {}, ...body)))];
    };
    const tables = part("figure", said.figures), settings = part("setting", said.settings);
    if (settings.length && here.length > 1) {
      const count = said.settings.length + said.more, title = count === 1 ? "setting that differs" : "settings that differ";
      const left = said.more ? ` (the first ${said.settings.length} are shown)` : "";
      const open = $("compared").querySelector("details[data-live]")?.open ?? count <= MOST_OPEN;
      tables.push(el("details", { "data-live": "", open: open ? "" : null },
        el("summary", {}, `${count} ${title}${left}`), ...settings));
    }
    $("compared").replaceChildren(...(tables.length ? tables : ["No runs to compare."]));
  }

  if (location.search) history.replaceState(null, "", location.pathname);  // the token is in a cookie now
  controls();
  update();
})();
