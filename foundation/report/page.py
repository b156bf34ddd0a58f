"""One HTML file about a run: how it went, what the encoder learned, and how to repeat it."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foundation.engine.runs import number_or_none
from foundation.printable import escape
from foundation.redact import redact
from foundation.report import figures
from foundation.report.figures import Series, line_chart
from foundation.report.pictures import Gallery
from foundation.report.run import Run
from foundation.report.template import PAGE, STYLE

NAMES = {
    "model": "this encoder",
    "untrained": "same encoder, untrained",
    "raw": "raw input",
    "simple": "best simple feature",
}
TILES = {
    "knn": "kNN top-1",
    "linear": "Linear top-1",
    "svm": "Linear SVM top-1",
    "frames": "F1 of frames",
}
TITLES = {
    "knn": "k nearest neighbours",
    "linear": "Linear probe",
    "svm": "Linear support vector machine",
    "frames": "Moment by moment: linear probe of frames",
}


_MOST_PROBLEMS = 10


def render(run: Run, gallery: Gallery | None, problem: str | None = None, parameters: int | None = None) -> str:
    """The page.

    Args:
        run: what the folder holds.
        gallery: pictures, or None.
        problem: why there is no gallery.
        parameters: of the encoder, where it could be loaded.
    """
    body = [
        _header(run),
        _tiles(run, parameters),
        _probes(run),
        _curves(run),
        *_gallery(run, gallery, problem),
        _recipe(run),
        _machine(run),
    ]
    title = f"{run.name} · foundation report"
    return PAGE.format(title=escape(title), style=STYLE, body="\n".join(part for part in body if part))


def _section(title: str, lead: str, content: str) -> str:
    lead_html = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f"<section><h2>{escape(title)}</h2>{lead_html}{content}</section>"


def _empty(text: str) -> str:
    return f'<div class="card empty">{escape(text)}</div>'


def _header(run: Run) -> str:
    state = str(run.status.get("state", ""))
    kind = {"done": " done", "failed": " failed"}.get(state, "")
    chip = f' <span class="chip{kind}">{escape(state)}</span>' if state else ""
    parts = []
    encoder = run.plain.get("encoder")
    if isinstance(encoder, dict):
        shape = encoder.get("preset") or encoder.get("model") or ""
        parts.append(f"{encoder.get('name', 'encoder')} {shape}".strip())
    objectives = run.plain.get("objectives")
    if isinstance(objectives, list):
        parts.append(" + ".join(str(item.get("name", "?")) for item in objectives if isinstance(item, dict)))
    parts.append(f"report of {time.strftime('%-d %B %Y, %H:%M', time.localtime())}")
    reason = run.status.get("reason")
    why = f"<p>{escape(redact(str(reason)))}</p>" if reason and state in ("failed", "stopped") else ""
    damaged = "".join(f"<li>{escape(problem)}</li>" for problem in run.problems[:_MOST_PROBLEMS])
    if len(run.problems) > _MOST_PROBLEMS:
        damaged += f"<li>and {len(run.problems) - _MOST_PROBLEMS} more</li>"
    left_out = f'<p>Damaged, and left out:</p><ul class="notes">{damaged}</ul>' if damaged else ""
    return f"<header><h1>{escape(run.name)}{chip}</h1><p>{escape(' · '.join(parts))}</p>{why}{left_out}</header>"


def _best(result: dict[str, Any], name: str) -> dict[str, Any] | None:
    metric = _metric(result)
    named = [row for row in result.get("results", []) if row.get("name") == name]
    rows = [row for row in named if number_or_none(row.get(metric)) is not None]
    return max(rows, key=lambda row: row[metric], default=None)


def _metric(result: dict[str, Any]) -> str:
    """Key of a probe's score in its rows; all are shares of 1, the more the better."""
    return str(result.get("metric", "top1"))


def _latest(run: Run, probe: str) -> dict[str, Any] | None:
    found = [result for result in run.probes if result.get("probe") == probe and _best(result, "model")]
    with_baselines = [result for result in found if _best(result, "untrained")]
    chosen = with_baselines or found
    return chosen[-1] if chosen else None


def _tiles(run: Run, parameters: int | None) -> str:
    tiles: list[tuple[str, str, str]] = []
    for probe, title in TILES.items():
        result = _latest(run, probe)
        best = _best(result, "model") if result else None
        if result and best:
            others = [
                f"{name} {100 * row[_metric(result)]:.1f} %"
                for name in ("untrained", "raw", "simple")
                if (row := _best(result, name))
            ]
            note = "\n".join(others) or (f"k = {best['k']}" if "k" in best else "")
            tiles.append((title, f"{100 * best[_metric(result)]:.1f} %", note))
    if not any(tile[0] == "kNN top-1" for tile in tiles):
        steps, values = run.series("probe/knn_top1")
        known = [(value, step) for step, value in zip(steps, values, strict=True) if value is not None]
        if known:
            value, step = max(known)
            tiles.append(("kNN top-1", f"{100 * value:.1f} %", f"best while training, step {step:,}"))
    training = [line for line in run.metrics if line.get("loss") is not None]
    if run.metrics:
        last = run.metrics[-1]
        train: dict[str, Any] = run.plain["train"] if isinstance(run.plain.get("train"), dict) else {}
        length = f"of {train['length']}" if train.get("length") else ""
        tiles.append(("Optimiser steps", f"{int(last['step']):,}", length))
        if isinstance(train.get("batch_size"), int):
            epochs = [line["epoch"] for line in run.metrics if isinstance(line.get("epoch"), (int, float))]
            seen = figures.number(last["step"] * train["batch_size"])
            tiles.append(("Samples seen", seen, f"{epochs[-1]:.1f} epochs" if epochs else ""))
    if training:
        first, end = training[0]["loss"], training[-1]["loss"]
        tiles.append(("Loss", f"{end:.3f}", f"{first:.3f} at step {training[0]['step']:,}"))
    speeds = [value for value in run.series("throughput/samples_per_second")[1] if value is not None]
    if speeds:
        waits = [value for value in run.series("data/wait_fraction")[1] if value is not None]
        note = f"samples, median\n{100 * statistics.median(waits):.0f} % waiting for data" if waits else "samples"
        tiles.append(("Throughput", f"{figures.number(round(statistics.median(speeds), 1))}/s", note))
    count = parameters or run.card.get("parameters")
    if isinstance(count, int):
        tiles.append(("Encoder", figures.number(float(f"{count:.3g}")), "parameters"))
    if not tiles:
        return ""
    return '<div class="tiles">' + "".join(
        f'<div class="card tile"><div class="name">{escape(name)}</div><div class="value">{escape(value)}</div>'
        f'<div class="note">{escape(note)}</div></div>'
        for name, value, note in tiles
    ) + "</div>"  # fmt: skip


def _probes(run: Run) -> str:
    lead = (
        "Accuracy of the frozen encoder on labelled data, beside the same encoder before training, the raw input and "
        "the best simple feature of the modality."
    )
    blocks = []
    for probe, title in TITLES.items():
        result = _latest(run, probe)
        if result is None:
            continue
        bars, table = [], []
        for name, label in NAMES.items():
            row = _best(result, name)
            if row is None:
                continue
            interval = tuple(row["interval"]) if row.get("interval") else None
            label = str(row.get("features", label)) if name == "simple" else label
            bars.append((label, row[_metric(result)], interval))
            setting = f"k = {row['k']}" if "k" in row else f"C = {row['cost']:g}" if "cost" in row else ""
            setting = str(row.get("head", setting))
            low_high = f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else ""
            table.append((label, setting, f"{100 * row[_metric(result)]:.1f}", low_high, f"{row.get('n', 0):,}"))
        cells = "".join(
            f'<tr><td>{escape(a)}</td><td{_whole(b)}>{escape(b)}</td><td class="n">{c}</td><td class="n">{d}</td>'
            f'<td class="n">{e}</td></tr>'
            for a, b, c, d, e in table
        )
        short, long = ("top-1 %", "top-1 accuracy (%)") if _metric(result) == "top1" else ("F1 %", "F1 (%)")
        head = (
            f'<thead><tr><th>features</th><th>setting</th><th class="n">{short}</th><th class="n">95 % interval</th>'
            '<th class="n">samples</th></tr></thead>'
        )
        blocks.append(
            f'<div class="card"><h3>{title}</h3><p class="of">{escape(str(result.get("model", "")))}</p>'
            f"{figures.bars(bars, x_label=long)}"
            f'<div class="scroll"><table>{head}<tbody>{cells}</tbody></table></div></div>'
        )
    if not blocks:
        hint = f"No probe has been run yet: foundation knn {run.path} --baselines --test SHARDS"
        return _section("What it learned", lead, _empty(hint))
    return _section("What it learned", lead, f'<div class="grid">{"".join(blocks)}</div>')


def _card(title: str, chart: str) -> str:
    return f'<div class="card"><h3>{escape(title)}</h3>{chart}</div>' if chart else ""


def _curves(run: Run) -> str:
    if not run.metrics:
        return _section("Training", "", _empty("No metrics have been written yet."))
    keys = run.keys()
    left = dict.fromkeys(keys)
    step = "optimiser step"

    def chart(title: str, wanted: Sequence[str], y_label: str, dots: bool = False, **options: Any) -> str:
        lines = []
        for key in wanted:
            left.pop(key, None)
            label = key.removeprefix("loss/").removeprefix("probe/").removesuffix("/" + key.split("/")[-1])
            lines.append(Series(label.replace("_", " "), *run.series(key), dots=dots))
        return _card(title, line_chart(lines, x_label=step, y_label=y_label, **options))

    def ending(*ends: str) -> list[str]:
        return [key for key in keys if key.endswith(ends) and not key.startswith(("schedule/", "loss/"))]

    accuracies = [key for key in keys if key.startswith("probe/") and not key.endswith("_top5")]
    main = [
        chart("Accuracy while training", accuracies, "accuracy (%)", percent=True, dots=True),
        chart("Loss", ["loss"], "loss, weighted sum", smooth=True),
        chart("Parts of the loss", [key for key in keys if key.startswith("loss/")], "loss", smooth=True),
        chart("Entropy of the teacher's assignments", ending("/entropy"), "entropy (nats)", smooth=True),
        chart("Divergence of student from teacher", ending("/kl"), "KL divergence (nats)", smooth=True),
        chart("Prototypes in use", ending("/prototypes"), "share of those possible (%)", zero=True, percent=True),
        chart("Gradient norm", ["gradient/norm"], "norm before clipping", smooth=True, zero=True),
        chart("Throughput", ["throughput/samples_per_second"], "samples per second", zero=True),
        chart("Waiting for data", ["data/wait_fraction"], "share of the time (%)", percent=True, zero=True),
    ]
    schedules = [key for key in keys if key.startswith("schedule/")]
    plots = [chart(_words(key), [key], _words(key), width=360, height=230) for key in schedules if _values(run, key)]
    rest = [key for key in left if len(set(_values(run, key))) > 1]
    others = [chart(_words(key), [key], _words(key), smooth=True, width=360, height=230) for key in rest[:12]]
    content = f'<div class="grid">{"".join(main)}</div>'
    text = "Numbers of single steps are drawn faintly, their moving mean on top."
    page = _section("Training", text, content)
    if any(plots):
        page += _section("Schedules", "Values that the optimiser and the teacher used.", _small(plots))
    if any(others):
        page += _section("Further figures", "", _small(others))
    return page


def _small(plots: Sequence[str]) -> str:
    return f'<div class="grid small">{"".join(plots)}</div>'


def _words(key: str) -> str:
    return key.removeprefix("schedule/").replace("_", " ").replace("/", ": ")


def _whole(text: str) -> str:
    """Short settings stay on one line."""
    return ' class="t"' if len(text) < 12 else ""


def _values(run: Run, key: str) -> list[float]:
    return [value for value in run.series(key)[1] if value is not None]


def _gallery(run: Run, gallery: Gallery | None, problem: str | None) -> list[str]:
    title = "What it looks at"
    knn = _latest(run, "knn") or {}
    measured = knn.get("confusion") or {}
    from foundation.probes.labels import class_names

    index = gallery.classes if gallery else ()
    classes = class_names(measured["classes"], index) if measured.get("classes") else index
    counts, k, how = measured.get("counts"), measured.get("k"), "on the test split of the kNN probe"
    if not counts and gallery and gallery.counts:
        counts, k, classes = gallery.counts, gallery.k, gallery.counted
        how = f"leaving one out of {gallery.searched:,} samples; top-1 {100 * gallery.top1:.1f} %"
    matrix = ""
    if counts:
        lead = f"Rows are true classes, numbers are percent of a row; kNN with k = {k}, {how}."
        drawn = f'<div class="card" style="max-width:720px">{figures.confusion(counts, classes)}</div>'
        matrix = _section("Which classes it confuses", lead, drawn)
    if gallery is None:
        return [_section(title, "", _empty(f"No pictures: {problem or 'no encoder or no data'}")), matrix]
    notes = "".join(f"<li>{escape(note)}</li>" for note in gallery.notes)
    parts = [_looks(gallery, title), _neighbours(gallery)]
    listed = f'<ul class="notes">{notes}</ul>' if notes else ""
    return [*parts, matrix, listed]


def _looks(gallery: Gallery, title: str) -> str:
    if not gallery.looks:
        return ""
    heads = [name for name, _ in gallery.looks[0].attention]
    first = gallery.looks[0]
    columns = ["sample", *(["hidden"] if first.hidden else []), *heads, *(["components"] if first.components else [])]
    cells = [f'<div class="head">{escape(name)}</div>' for name in columns]
    for look in gallery.looks:
        pictures = [("sample", look.image), *([("hidden", look.hidden)] if look.hidden else []), *look.attention]
        if look.components:
            pictures.append(("components", look.components))
        cells += [
            f'<figure><img src="{uri}" alt="{escape(f"{name} of {look.name}")}" loading="lazy"></figure>'
            for name, uri in pictures
        ]
    masked = "What a mask of the kind used in training hides. " if first.hidden else ""
    lead = masked + (
        "Attention of the class token in the last block, its mean and single heads (bright: much), and the first three "
        "principal components of the patch features as red, green and blue: like colours mean like features, in all "
        "samples."
    )
    style = f"grid-template-columns:repeat({len(columns)},1fr)"
    grid = f'<div class="card scroll"><div class="maps" style="{style}">{"".join(cells)}</div></div>'
    return _section(title, lead, grid)


def _neighbours(gallery: Gallery) -> str:
    if not gallery.neighbours:
        return ""
    rows = []
    for item in gallery.neighbours:
        picture, name = item.query
        cells = [
            f'<figure class="query"><img src="{picture}" alt="query" loading="lazy"><figcaption>'
            f"{escape(name) or 'query'}</figcaption></figure><div></div>"
        ]
        for uri, label, cosine, same in item.near:
            kind = "" if same is None else ' class="same"' if same else ' class="other"'
            cells.append(
                f'<figure{kind}><img src="{uri}" alt="neighbour" loading="lazy"><figcaption>{escape(label)} '
                f"{cosine:.2f}</figcaption></figure>"
            )
        rows.append(f'<div class="near" style="--n:{len(item.near)}">{"".join(cells)}</div>')
    coloured = any(same is not None for item in gallery.neighbours for *_, same in item.near)
    frames = " Green frames share the query's label, orange ones do not." if coloured else ""
    lead = f"Query on the left, then its nearest of {gallery.searched:,} samples, with their cosine.{frames}"
    return _section("Nearest neighbours", lead, f'<div class="card scroll">{"".join(rows)}</div>')


def _recipe(run: Run) -> str:
    if not run.recipe:
        return _section("Recipe", "", _empty("The run folder has no recipe.yaml."))
    lead = "Everything that the run was told; it is enough to repeat it."
    text = f"<details><summary>recipe.yaml</summary><pre>{escape(run.recipe)}</pre></details>"
    return _section("Recipe", lead, f'<div class="card">{text}</div>')


def _machine(run: Run) -> str:
    from foundation.probes.results import versions

    rows = [("Run folder", str(run.path))]
    if run.card.get("sha256"):
        rows.append(("Exported weights", f"{run.card.get('file', '')} sha256 {run.card['sha256']}"))
    if run.card.get("foundation_version"):
        rows.append(("Trained with", f"foundation {run.card['foundation_version']}"))
    for result in run.probes:
        data = result.get("data", {}).get("test")
        shards = ", ".join(data.get("shards", [])) if isinstance(data, dict) else str(data)
        rows.append((f"Probe {result['probe']}", f"{result['file']}, {result.get('created', '')}, {shards}"))
    rows += [
        ("Report made on", _processor()),
        ("System", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
    ]
    cells = "".join(
        f'<tr><td>{escape(name)}</td><td style="overflow-wrap:anywhere">{escape(redact(v))}</td></tr>'
        for name, v in rows
    )
    return _section("Machine and versions", "", f'<div class="card scroll"><table><tbody>{cells}</tbody></table></div>')


def _processor() -> str:
    import torch

    name = platform.processor() or "processor"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {cores} cores{gpu}"
