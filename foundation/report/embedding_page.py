"""The page of an embedding map: a canvas that can be moved and searched. All names are data and never markup."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from foundation.printable import escape
from foundation.report import parts
from foundation.report.template import PAGE, STYLE


def page(title: str, about: Sequence[str], data: str, sheets: Sequence[str]) -> str:
    """The page, which needs nothing else and may load nothing: its policy allows its own script and data URIs only.

    Args:
        title: of the page.
        about: sentences under the title.
        data: JSON object, see :func:`foundation.report.embedding_map.write_map`.
        sheets: data URIs of the sheets of pictures.
    """
    inert = data.replace("<", "\\u003c")  # nothing in it can end the element
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = (
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'\">\n<meta name=\"viewport\""
    )
    pictures = "".join(f'<img class="sheet" alt="" src="{uri}" hidden>' for uri in sheets)
    said = "".join(f"<p>{parts.sentence(text)}</p>" for text in about)
    body = (
        f"<header><h1>{parts.sentence(title)}</h1>{said}</header>"
        f'{_BODY}{pictures}<script type="application/json" id="data">{inert}</script><script>{_SCRIPT}</script>'
    )
    whole = PAGE.format(title=escape(title), style=STYLE + _STYLE, body=body)
    return whole.replace('<meta name="viewport"', policy, 1)


_STYLE = """
main{max-width:1600px;padding-bottom:24px}header h1{font-size:22px}header p{max-width:120ch}
.map{display:grid;grid-template-columns:minmax(0,1fr) 290px;gap:14px;margin-top:16px;align-items:start}
.view{position:relative;padding:0;overflow:hidden}
canvas{display:block;width:100%;height:min(76vh,1000px);min-height:380px;touch-action:none;cursor:grab;border-radius:10px}
canvas.held{cursor:grabbing}
.tools{position:absolute;top:10px;left:10px;display:flex;gap:6px;flex-wrap:wrap;max-width:calc(100% - 20px)}
.tools input,.tools button{font:inherit;font-size:13px;color:var(--ink);background:var(--card);
border:1px solid var(--rule);border-radius:6px;padding:4px 9px}
.tools input{width:190px}.tools button{cursor:pointer}.tools button:hover{border-color:var(--soft)}
.tools output{font-size:12.5px;color:var(--soft);background:var(--card);padding:5px 7px;border-radius:6px}
.tools output:empty{display:none}
.tip{position:absolute;pointer-events:none;padding:6px;border-radius:8px;background:var(--card);
border:1px solid var(--rule);box-shadow:0 3px 14px #0004;max-width:240px;font-size:12.5px;line-height:1.35;z-index:2}
.tip[hidden]{display:none}.tip canvas,.side canvas{width:auto;height:auto;min-height:0;cursor:default;max-width:100%;
image-rendering:auto;border-radius:4px;background:var(--grid);touch-action:auto}
.tip b,.side b{display:block;overflow-wrap:anywhere;font-weight:600}.tip span,.side span{color:var(--soft);
overflow-wrap:anywhere}
.side{display:grid;gap:12px;max-height:min(76vh,1000px);overflow:auto}
.classes{max-height:44vh;overflow:auto;display:grid;gap:1px}
.classes button{all:unset;display:flex;gap:8px;align-items:center;font-size:13px;padding:2px 6px;border-radius:5px;
cursor:pointer;min-width:0}
.classes button:hover{background:var(--grid)}.classes button:focus-visible{outline:2px solid var(--accent)}
.classes i{flex:none;width:11px;height:11px;border-radius:50%}.classes bdi{flex:1;overflow:hidden;
text-overflow:ellipsis;white-space:nowrap}.classes small{color:var(--soft)}
.classes button[aria-pressed=false]{opacity:.35}
.near{display:flex;flex-wrap:wrap;gap:6px;margin:8px 0 0}.near figure{margin:0;width:min-content;cursor:pointer;
font-size:11.5px;line-height:1.25;color:var(--soft);overflow-wrap:anywhere}
.near canvas{max-width:none}.hint{color:var(--soft);font-size:12.5px;margin:0}
@media(max-width:820px){.map{grid-template-columns:1fr}.side{max-height:none}#map{height:min(60vh,105vw)}}
"""

_BODY = """
<noscript><p class="card empty">This page draws its map with JavaScript, which is switched off.</p></noscript>
<div class="map"><div class="card view"><canvas id="map" tabindex="0" role="img" aria-label="map of samples"></canvas>
<div class="tools"><input id="search" type="search" placeholder="search key or label" aria-label="search">
<button id="whole" type="button">whole map</button><output id="found"></output></div>
<div id="tip" class="tip" hidden></div></div>
<div class="side"><div class="card"><h3>Labels</h3><div id="classes" class="classes"></div></div>
<div class="card" id="chosen"><p class="hint">Hover over a point to see its sample; click to keep it here with the
samples nearest to it in feature space. Wheel or pinch: zoom. Drag: move. Click a label: only that one.</p></div>
</div></div>
"""

_SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const map = document.getElementById("map"), pen = map.getContext("2d"), tip = document.getElementById("tip");
const sheets = [...document.querySelectorAll("img.sheet")], count = data.x.length, per = data.across ** 2;
const dark = matchMedia("(prefers-color-scheme: dark)");
const strong = {
  light: ["#2f6fde", "#e07b1f", "#178a50", "#cf3339", "#9b4fd1", "#8c5b3a", "#df6cb4", "#12a0b3", "#8b9418", "#33456b"],
  dark: ["#7aa7ff", "#ffb05c", "#4cc38a", "#ff7b72", "#c191f0", "#c9a083", "#f7a8d8", "#55d3e0", "#c9d25c", "#b4c0d6"]};
function colour(label) {
  if (label < 0) return dark.matches ? "#7d8590" : "#8b929c";
  if (data.labels.length <= 10) return strong[dark.matches ? "dark" : "light"][label];
  const hue = label * 360 / data.labels.length, step = label % 3, yellow = hue > 40 && hue < 200;
  const light = dark.matches ? [66, 76, 56][step] : [45, 34, 55][step] - (yellow ? 13 : 0);
  const blue = dark.matches && hue > 220 && hue < 290 ? 12 : 0;
  return `hsl(${hue} ${[72, 55, 88][step]}% ${light + blue}%)`;
}
let only = null, words = "", pinned = -1, hovered = -1, zoom = 1, left = 0, top_ = 0, base = 1;
const lower = data.keys.map((key, i) => (key + "\\n" + name(i)).toLowerCase());
function name(i) { return data.label[i] < 0 ? "" : data.labels[data.label[i]]; }
function matches(i) { return (only === null || data.label[i] === only) && (!words || lower[i].includes(words)); }
function px(i) { return (data.x[i] * base) * zoom + left; }
function py(i) { return (data.y[i] * base) * zoom + top_; }

function whole() {
  const wide = map.clientWidth, tall = map.clientHeight, mx = Math.max(1, ...data.x), my = Math.max(1, ...data.y);
  base = Math.min((wide - 60) / mx, (tall - 100) / my);
  zoom = 1; left = (wide - mx * base) / 2; top_ = 30 + (tall - my * base) / 2;
}
function draw() {
  const ratio = devicePixelRatio || 1, wide = map.clientWidth, tall = map.clientHeight;
  if (map.width !== Math.round(wide * ratio) || map.height !== Math.round(tall * ratio)) {
    map.width = Math.round(wide * ratio); map.height = Math.round(tall * ratio);
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, wide, tall);
  const size = Math.min(9, (count > 2500 ? 2.2 : count > 400 ? 3 : 4.5) * Math.sqrt(zoom));
  for (const faint of [true, false]) {
    for (let i = 0; i < count; i++) {
      if (matches(i) === faint) continue;
      const x = px(i), y = py(i);
      if (x < -9 || y < -9 || x > wide + 9 || y > tall + 9) continue;
      pen.globalAlpha = faint ? .12 : .82;
      pen.fillStyle = colour(data.label[i]);
      pen.beginPath(); pen.arc(x, y, size, 0, 7); pen.fill();
    }
  }
  pen.globalAlpha = 1;
  const ink = getComputedStyle(document.body).color;
  if (pinned >= 0) {
    pen.strokeStyle = ink; pen.lineWidth = 1;
    for (const other of data.near[pinned]) {
      pen.beginPath(); pen.moveTo(px(pinned), py(pinned)); pen.lineTo(px(other), py(other)); pen.stroke();
    }
  }
  for (const i of [pinned, hovered]) if (i >= 0) {
    pen.strokeStyle = ink; pen.lineWidth = 2.2; pen.fillStyle = colour(data.label[i]);
    pen.beginPath(); pen.arc(px(i), py(i), size + 2.5, 0, 7); pen.fill(); pen.stroke();
  }
}
let waiting = false;
function later() { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); }); } }

function picture(i, times) {
  const place = data.picture[i];
  if (place < 0) return null;
  const [w, h] = data.cell, sheet = sheets[Math.floor(place / per)], at = place % per;
  const one = document.createElement("canvas");
  one.width = w; one.height = h; one.style.width = w * times + "px";
  const paint = () => one.getContext("2d").drawImage(sheet, at % data.across * w, Math.floor(at / data.across) * h,
    w, h, 0, 0, w, h);
  if (sheet.complete) paint(); else sheet.addEventListener("load", paint);
  return one;
}
function text(kind, words_) {
  const made = document.createElement(kind); made.dir = "auto"; made.textContent = words_; return made;
}
function card(i, times) {
  const made = document.createDocumentFragment(), seen = picture(i, times);
  made.append(seen || text("span", "(no picture: see above) "), text("b", data.keys[i]));
  made.append(text("span", name(i) || "no label"));
  return made;
}
function pin(i) {
  pinned = i;
  const box = document.getElementById("chosen");
  box.replaceChildren(text("h3", i < 0 ? "" : "Sample"));
  if (i >= 0) {
    box.dataset.sample = i;
    box.append(card(i, Math.min(2.4, 250 / data.cell[0])), text("h3", ""), text("span", "Nearest by cosine:"));
    const near = document.createElement("div"); near.className = "near";
    for (const other of data.near[i]) {
      const one = document.createElement("figure"), seen = picture(other, Math.min(.8, 118 / data.cell[0]));
      if (seen) one.append(seen);
      one.append(text("div", name(other) || data.keys[other])); one.title = data.keys[other];
      one.addEventListener("click", () => pin(other)); near.append(one);
    }
    box.append(near);
  }
  later();
}
function at(event) {
  const box = map.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}
function closest(x, y) {
  let best = -1, least = 14 ** 2;
  for (let i = 0; i < count; i++) if (matches(i)) {
    const far = (px(i) - x) ** 2 + (py(i) - y) ** 2;
    if (far < least) { least = far; best = i; }
  }
  return best;
}
function hover(x, y) {
  const i = closest(x, y);
  if (i !== hovered) {
    hovered = i; tip.hidden = i < 0; tip.replaceChildren();
    if (i >= 0) { tip.dataset.sample = i; tip.append(card(i, Math.min(2.5, 220 / data.cell[0]))); }
    later();
  }
  if (i >= 0) {
    tip.style.left = Math.max(4, Math.min(x + 16, map.clientWidth - tip.offsetWidth - 6)) + "px";
    const below = y + 18 + tip.offsetHeight < map.clientHeight;
    tip.style.top = (below ? y + 18 : Math.max(4, y - tip.offsetHeight - 14)) + "px";
  }
}
function scale(factor, x, y) {
  const next = Math.max(.5, Math.min(80, zoom * factor)), real = next / zoom;
  left = x - (x - left) * real; top_ = y - (y - top_) * real; zoom = next; later();
}
const down = new Map(); let moved = 0, spread = 0;
map.addEventListener("pointerdown", event => {
  map.setPointerCapture(event.pointerId); down.set(event.pointerId, at(event)); moved = 0; spread = 0;
  map.classList.add("held");
});
map.addEventListener("pointermove", event => {
  const [x, y] = at(event);
  if (!down.has(event.pointerId)) return hover(x, y);
  const [ox, oy] = down.get(event.pointerId);
  down.set(event.pointerId, [x, y]); moved += Math.abs(x - ox) + Math.abs(y - oy);
  if (down.size === 2) {
    const [a, b] = [...down.values()], far = Math.hypot(a[0] - b[0], a[1] - b[1]);
    if (spread) scale(far / spread, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
    spread = far;
  } else { left += x - ox; top_ += y - oy; later(); }
});
function release(event) {
  if (down.delete(event.pointerId) && moved < 6 && event.type === "pointerup") {
    const i = closest(...at(event)); if (i >= 0) { pin(i); history.replaceState(null, "", "#sample=" + i); }
  }
  if (!down.size) map.classList.remove("held");
}
map.addEventListener("pointerup", release); map.addEventListener("pointercancel", release);
map.addEventListener("pointerleave", () => { hovered = -1; tip.hidden = true; later(); });
map.addEventListener("wheel", event => {
  event.preventDefault(); scale(Math.exp(-event.deltaY * .0015), ...at(event));
}, {passive: false});
map.addEventListener("dblclick", () => { whole(); later(); });
map.addEventListener("keydown", event => {
  const step = {ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60]}[event.key];
  if (step) { left += step[0]; top_ += step[1]; later(); event.preventDefault(); }
  const times = {"+": 1.3, "-": 1 / 1.3}[event.key];
  if (times) scale(times, map.clientWidth / 2, map.clientHeight / 2);
});
document.getElementById("whole").addEventListener("click", () => { whole(); later(); });
const search = document.getElementById("search");
function look() {
  words = search.value.trim().toLowerCase();
  let hits = 0; for (let i = 0; i < count; i++) hits += matches(i);
  document.getElementById("found").textContent = words || only !== null ? `${hits} of ${count}` : "";
  later();
}
search.addEventListener("input", look);
search.addEventListener("keydown", event => {
  if (event.key === "Enter") for (let i = 0; i < count; i++) if (matches(i)) { pin(i); break; }
});
const counts = new Map(); for (const label of data.label) counts.set(label, (counts.get(label) || 0) + 1);
const list = document.getElementById("classes");
function legend() {
  list.replaceChildren();
  for (const label of [...data.labels.keys(), -1]) if (counts.has(label)) {
    const one = document.createElement("button"), dot = document.createElement("i");
    dot.style.background = colour(label); one.type = "button";
    one.setAttribute("aria-pressed", only === null || only === label);
    one.append(dot, text("bdi", label < 0 ? "no label" : data.labels[label]), text("small", counts.get(label)));
    one.addEventListener("click", () => { only = only === label ? null : label; legend(); look(); });
    list.append(one);
  }
}
legend(); whole(); draw();
addEventListener("resize", () => { if (zoom === 1) whole(); later(); });
dark.addEventListener("change", () => { legend(); later(); });
function linked() { const i = Number((location.hash.match(/^#sample=(\\d+)$/) || [])[1]); if (i < count) pin(i); }
addEventListener("hashchange", linked);
if (data.open >= 0) pin(data.open);
linked();
"""
