"""The page as it is sent: complete without scripts, in the look of the report; the script then keeps it up to date."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from foundation.printable import escape
from foundation.report import parts
from foundation.report.figures import Series, line_chart
from foundation.report.template import STYLE
from foundation.voice import duration
from foundation.watch.board import Board, WatchedRun, listed
from foundation.watch.compare import compare

AT_ONCE = 6
"""Runs that are laid over each other, at most: colours that tell them apart."""
_CHOSEN_AT_FIRST = 4
RELOAD = 10  # seconds after which a browser without scripts asks again
MAIN = (
    "loss", "schedule/learning_rate", "throughput/samples_per_second", "gradient/norm", "features/std",
    "features/rank_share",
)  # fmt: skip
"""Figures that are shown at first, after those of probes."""

_SCRIPTS = ("chart.js", "watch.js")
_STYLE = """
.controls{display:flex;flex-wrap:wrap;gap:8px 20px;align-items:center;margin:0 0 12px;font-size:13.5px}
.controls label{display:inline-flex;gap:7px;align-items:center}
input,select,button{font:inherit;color:inherit;accent-color:var(--accent)}
input[type=search],select,button{background:var(--card);border:1px solid var(--rule);border-radius:7px;padding:4px 10px;
max-width:100%}
button{cursor:pointer}button:hover{border-color:var(--accent)}
.keys{position:sticky;top:0;z-index:2;background:var(--bg);padding:8px 0;margin:0;min-height:20px}
.keys span,.tip span{overflow-wrap:anywhere}
.runs td,.runs th{padding-right:14px;vertical-align:middle}
.runs tbody th{font-weight:400;color:var(--ink);font-size:14px}
.runs tr.chosen td,.runs tr.chosen th{background:var(--grid)}.runs input{width:17px;height:17px;margin:0 0 0 8px}
tbody tr:last-child th{border-bottom:0}#more{margin-top:16px}
.runs label{cursor:pointer;min-width:130px;display:inline-block;overflow-wrap:anywhere;white-space:normal}
.runs small{display:block;color:var(--soft);font-size:12.5px;white-space:normal;overflow-wrap:anywhere}
.chip.running{color:var(--good);border-color:currentColor}.chip.done{color:var(--accent)}
.chip.silent,.chip.unreadable{color:var(--bad);border-color:currentColor}
.bar-of{display:block;width:76px;height:4px;border-radius:2px;margin:4px 0 0 auto}
progress{appearance:none;border:0;background:var(--grid)}progress::-webkit-progress-bar{background:var(--rule);
border-radius:2px}progress::-webkit-progress-value{background:var(--accent);border-radius:2px}
progress::-moz-progress-bar{background:var(--accent)}
.problem{color:var(--bad)}.banner{border-left:5px solid var(--bad);margin:16px 0 0}
.plot{position:relative}.plot svg{touch-action:pan-y;cursor:crosshair}
.band{opacity:.16;stroke:none}.b1{fill:var(--c1)}.b2{fill:var(--c2)}.b3{fill:var(--c3)}.b4{fill:var(--c4)}
.b5{fill:var(--c5)}.b6{fill:var(--c6)}
.cursor{stroke:var(--soft);stroke-width:1}
.tip{position:absolute;top:2px;z-index:1;pointer-events:none;background:var(--card);border:1px solid var(--rule);
border-radius:7px;padding:5px 9px;font-size:12.5px;line-height:1.45;box-shadow:0 2px 8px rgb(0 0 0/.18);max-width:70%}
.tip i,.keys i{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:6px;vertical-align:middle}
.said{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
.choose{columns:260px;font-size:13.5px;margin-top:10px}.choose label{display:flex;gap:7px;break-inside:avoid}
#compared td,#compared th{min-width:88px;max-width:340px;padding-right:16px}#compared details{margin-top:14px}
[hidden]{display:none!important}
"""


@cache
def script() -> str:
    """The script of the page."""
    return "".join(files("foundation.watch").joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS)


def render(board: Board, nonce: str) -> str:
    """The page as the files are now.

    Args:
        board: of the watched folder.
        nonce: by which the page's policy knows its own style and script.
    """
    state = listed(board)
    shown = board.runs()
    with board.lock:
        picked = [run for run in shown if run.state is not None and run.tail.series]
        picked = sorted(picked, key=lambda run: run.state is None or run.state.state != "running")[:_CHOSEN_AT_FIRST]
        chosen = [run.id for run in picked]
        body = _header(state) + _runs(state, chosen) + _curves(state, picked) + _SAMPLES + _compared(picked)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<noscript><meta http-equiv="refresh" content="{RELOAD}"></noscript>
<link rel="icon" href="data:,">
<title>foundation watch</title>
<style nonce="{nonce}">{STYLE}{_STYLE}</style>
</head>
<body>
<main>
{body}
<footer>From the files in the run folders, by foundation watch. Nothing leaves this machine.</footer>
</main>
<script nonce="{nonce}">{script()}</script>
</body>
</html>
"""


def _header(state: dict[str, Any]) -> str:
    problems = "".join(f"<p>{escape(text)}</p>" for text in state["problems"])
    said = (
        f"As of {time.strftime('%H:%M:%S')}. Without scripts the page is loaded anew every {RELOAD} seconds; to choose "
        "runs, values under the pointer and samples need them."
    )
    return (
        f'<header><h1>Watching {parts.name(state["folder"])}</h1><p id="when" role="status">'
        f"<noscript>{said}</noscript></p></header>"
        f'<div id="banner" class="card banner" role="alert"{"" if problems else " hidden"}>{problems}</div>'
    )


def _runs(state: dict[str, Any], chosen: Sequence[str]) -> str:
    rows = []
    for run in state["runs"]:
        step = "" if "step" not in run else f"{run['step']:,}" + (f" / {run['total']:,}" if run["total"] else "")
        sign = run.get("updated")
        cells = (step, _number(run.get("loss")), _number(run.get("rate")), _duration(run.get("left")),
                 f"{_duration(max(0.0, time.time() - sign))} ago" if sign else "")  # fmt: skip
        notes = "".join(f'<small class="problem">{escape(text)}</small>' for text in run["problems"])
        rows.append(
            f'<tr{" class=chosen" if run["id"] in chosen else ""}><td></td>'
            f'<th scope="row">{parts.name(run["place"])}{notes}</th>'
            f'<td><span class="chip {run["state"]}">{run["state"]}</span></td>'
            + "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells) + "</tr>"
        )  # fmt: skip
    titles = "".join(
        f'<th scope="col"{kind}>{title}</th>'
        for title, kind in (("<span class=said>shown</span>", ""), ("run", ""), ("state", ""), *(
            (title, ' class="n"') for title in ("step", "loss", "samples/s", "time left", "last sign of life")
        ))
    )  # fmt: skip
    table = f'<table class="runs"><thead><tr>{titles}</tr></thead><tbody id="runs">{"".join(rows)}</tbody></table>'
    none = parts.empty("No run yet: one appears here when it begins.") if not rows else ""
    find = '<div class="controls" id="find" hidden></div>'
    content = f'{find}{parts.scroll(table, "Runs", "card")}<div id="none">{none}</div>'
    return parts.section("Runs", f"Tick up to {AT_ONCE} to lay their curves over each other.", content)


def _curves(state: dict[str, Any], picked: Sequence[WatchedRun]) -> str:
    keys = dict.fromkeys(key for run in picked for key in run.tail.series)
    shown = [key for key in keys if key.startswith("probe/")] + [key for key in MAIN if key in keys]
    cards = []
    for key in shown:
        kind, lines = state["figures"].get(key), []
        for run in picked:
            if (curve := run.tail.series.get(key)) is not None:
                points = curve.points()
                lines.append(Series(run.place, points["x"], points["y"], dots=key.startswith("probe/")))
        if kind is not None:
            chart = line_chart(lines, x_label="optimiser step", y_label=kind["axis"], percent=kind["percent"])
            cards.append(parts.card(kind["title"], chart))
    empty = "" if cards else parts.empty("No figures yet.")
    content = (
        '<div class="controls" id="controls" hidden></div><div class="legend keys" id="keys"></div>'
        f'<div class="grid" id="charts">{"".join(cards)}</div><div id="no-charts">{empty}</div>'
        '<details id="more" hidden><summary>Figures that are shown</summary>'
        '<div class="choose" id="choose"></div></details>'
    )
    lead = (
        "A band is what the values spread over where a point stands for several. Arrow keys move along the curve that "
        "has the focus."
    )
    return parts.section("Curves and probes", lead, content)


def _compared(picked: Sequence[WatchedRun]) -> str:
    found = compare(picked)
    heads = [run.place for run in picked]
    figures = parts.table(["figure", *heads], found["figures"], "Figures") if found["figures"] else ""
    settings = parts.table(["setting", *heads], found["settings"], "Settings that differ") if found["settings"] else ""
    if settings:
        settings = f"<details><summary>Settings that differ</summary>{settings}</details>"
    content = figures + settings or "No runs to compare."
    return parts.section("Comparison", "", f'<div class="card" id="compared">{content}</div>')


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else ""


def _duration(seconds: Any) -> str:
    return duration(seconds) if isinstance(seconds, (int, float)) else ""


_SAMPLES = parts.section(
    "Samples",
    "The first samples of a run as its first step saw them: views and masks, made again by the code that made them.",
    '<div class="controls" id="of-samples" hidden></div><div id="samples"></div>',
)
