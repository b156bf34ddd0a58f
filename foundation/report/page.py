"""One HTML file about a run: how it went, what the encoder learned, and how to repeat it."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Mapping
from typing import Any

from foundation.parallel.placement import processor
from foundation.printable import escape
from foundation.probes.results import versions
from foundation.redact import redact
from foundation.report import comparison, figures, looks, names, parts, sizes
from foundation.report.pictures import Gallery
from foundation.report.run import Run
from foundation.report.template import PAGE, STYLE
from foundation.report.training import curves
from foundation.report.verdict import verdict
from foundation.report.views import Sheet

_MOST_PROBLEMS = 10


def render(
    run: Run,
    gallery: Gallery | None,
    problem: str | None = None,
    parameters: int | None = None,
    views: Sheet | None = None,
    no_views: str | None = None,
) -> str:
    """The page.

    Args:
        run: what the folder holds.
        gallery: pictures, or None.
        problem: why there is no gallery.
        parameters: of the encoder, where it could be loaded.
        views: what training saw, or None.
        no_views: why there are no views; None: none were asked for.
    """
    body = [
        _header(run, parameters),
        comparison.sentence(verdict(run.probes)),
        _tiles(run),
        comparison.probes(run),
        sizes.section(run),
        *looks.sections(run, gallery, problem, views, no_views),
        curves(run),
        _recipe(run),
        _machine(run),
    ]
    title = f"{run.name} · foundation report"
    return PAGE.format(title=escape(title), style=STYLE, body="\n".join(part for part in body if part))


def _header(run: Run, parameters: int | None) -> str:
    state = str(run.status.get("state", ""))
    kind = {"done": " done", "failed": " failed"}.get(state, "")
    chip = f' <span class="chip{kind}">{escape(state)}</span>' if state else ""
    said = []
    if stage := run.status.get("stage"):
        said.append(f"stage {stage}")
    encoder = run.plain.get("encoder")
    if isinstance(encoder, dict):
        shape = encoder.get("preset") or encoder.get("model") or ""
        said.append(f"{encoder.get('name', 'encoder')} {shape}".strip())
    count = parameters or run.card.get("parameters")
    if isinstance(count, int):
        said.append(f"{figures.number(float(f'{count:.3g}'))} parameters")
    objectives = run.plain.get("objectives")
    if isinstance(objectives, list):
        named = [names.objective(str(item.get("name", "?"))) for item in objectives if isinstance(item, dict)]
        said.append(" + ".join(named))
    data = run.plain.get("data")
    if isinstance(data, dict) and (trained_on := _data(data)):
        said.append(f"trained on {trained_on}")
    said.append(f"report of {time.strftime('%-d %B %Y, %H:%M', time.localtime())}")
    reason = run.status.get("reason")
    why = f"<p>{escape(redact(str(reason)))}</p>" if reason and state in ("failed", "stopped") else ""
    damaged = "".join(f"<li>{escape(problem)}</li>" for problem in run.problems[:_MOST_PROBLEMS])
    if len(run.problems) > _MOST_PROBLEMS:
        damaged += f"<li>and {len(run.problems) - _MOST_PROBLEMS} more</li>"
    left_out = f'<p>Damaged, and left out:</p><ul class="notes">{damaged}</ul>' if damaged else ""
    line = " · ".join(parts.name(text) for text in said)
    return f'<header><h1 dir="auto">{escape(run.name)}{chip}</h1><p>{line}</p>{why}{left_out}</header>'


def _data(data: Mapping[str, Any]) -> str:
    """Names of the sets that a recipe trains on."""
    shards, sources = data.get("shards"), data.get("sources")
    if isinstance(shards, list) and shards:
        return names.set_name([str(pattern) for pattern in shards])
    return ", ".join(map(str, sources)) if isinstance(sources, dict) else ""


def _tiles(run: Run) -> str:
    tiles = comparison.tiles(run)
    if not any(title == "kNN top-1" for title, *_ in tiles):
        steps, values = run.series("probe/knn_top1")
        known = [(value, step) for step, value in zip(steps, values, strict=True) if value is not None]
        if known:
            value, step = max(known)
            tiles.append(("kNN top-1", f"{100 * value:.1f} %", f"best while training, step {step:,}"))
    training = [line for line in run.metrics if line.get("loss") is not None]
    if run.metrics:
        last = run.metrics[-1]
        train: dict[str, Any] = run.plain["train"] if isinstance(run.plain.get("train"), dict) else {}
        length = f"of {_length(train['length'])}" if train.get("length") else ""
        staged = bool(run.plain.get("stages"))  # then ``train`` is that of some stages, and each may have another
        if staged:
            total = run.status.get("total")
            length = f"of {total:,} steps" if total else ""
        tiles.append(("Steps", f"{int(last['step']):,}", length))
        if isinstance(train.get("batch_size"), int) and not staged:
            epochs = [line["epoch"] for line in run.metrics if isinstance(line.get("epoch"), (int, float))]
            seen = figures.number(last["step"] * train["batch_size"])
            tiles.append(("Samples seen", seen, f"{epochs[-1]:.1f} epochs" if epochs else ""))
    if training:
        end = training[-1]
        first = next(line for line in training if line.get("stage") == end.get("stage"))  # others have other objectives
        tiles.append(("Loss", f"{end['loss']:.3f}", f"{first['loss']:.3f} at step {first['step']:,}"))
    if run.seconds is not None:
        starts = f"in {len(run.starts)} starts" if len(run.starts) > 1 else "in training steps"
        tiles.append(("Duration", names.duration(run.seconds), starts))
    speeds = [value for value in run.series("throughput/samples_per_second")[1] if value is not None]
    if speeds:
        waits = [value for value in run.series("data/wait_fraction")[1] if value is not None]
        note = f"samples, median\n{100 * statistics.median(waits):.0f} % waiting for data" if waits else "samples"
        tiles.append(("Throughput", f"{figures.number(round(statistics.median(speeds), 1))}/s", note))
    hardware = _hardware(run)
    if hardware is not None:
        tiles.append(("Hardware", *hardware))
    if not tiles:
        return ""
    return '<div class="tiles">' + "".join(
        f'<div class="card tile"><div class="name">{escape(name)}</div><div class="value">{escape(value)}</div>'
        f'<div class="note">{parts.sentence(note)}</div></div>'
        for name, value, note in tiles
    ) + "</div>"  # fmt: skip


def _length(text: Any) -> str:
    """``1,000 steps`` for ``1000 steps``."""
    return re.sub(r"^\d{4,15}(?= )", lambda found: f"{int(found[0]):,}", str(text))


def _computed(run: Run) -> Mapping[str, Any]:
    """Device, processor and precision of the training: of its last start, else as the export's card says."""
    return run.starts[-1] if run.starts else run.card.get("computed") or {}


def _hardware(run: Run) -> tuple[str, str] | None:
    """Kind of device, and its model, cores, processes and precision."""
    made = _computed(run)
    if not made.get("device"):
        return None
    cores, processes = made.get("cores"), made.get("processes", 1)
    lines = [str(made.get("processor", ""))]
    if isinstance(cores, int):
        lines.append(f"{cores} core{'' if cores == 1 else 's'}")
    lines.append(str(made.get("precision", "")))
    several = f"{processes} × " if isinstance(processes, int) and processes > 1 else ""
    kind = {"cpu": "CPU", "cuda": "GPU"}.get(str(made["device"]), str(made["device"]))
    return several + kind, "\n".join(line for line in lines if line)


def _recipe(run: Run) -> str:
    if not run.recipe:
        return parts.section("Recipe", "", parts.empty("The run folder has no recipe.yaml."))
    lead = "Everything that the run was told; it is enough to repeat it."
    text = f'<details><summary>recipe.yaml</summary><pre tabindex="0">{escape(run.recipe)}</pre></details>'
    return parts.section("Recipe", lead, f'<div class="card">{text}</div>')


def _machine(run: Run) -> str:

    rows = [("Run folder", str(run.path))]
    rows += [("Trained on", text) for text in _machines(run)]
    rows += [("Code", text) for text in _codes(run)]
    if run.seconds is not None:
        rows.append(("Duration", f"{names.duration(run.seconds)} in training steps"))
    if run.card.get("sha256"):
        rows.append(("Exported weights", f"{run.card.get('file', '')}, SHA-256 {run.card['sha256']}"))
    for result in run.probes:
        test = names.split_of(result, "test")
        what = [comparison.TITLES.get(result["probe"], names.words(result["probe"])), test, result.get("created", "")]
        rows.append((f"Probe {result['file']}", ", ".join(str(item) for item in what if item)))
    rows += [
        ("Report made on", f"{processor()}; {platform.system()} {platform.release()}, {platform.machine()}"),
        ("Report made with", ", ".join(f"{name} {version}" for name, version in versions().items())),
    ]
    cells = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="long">{parts.name(redact(v))}</td></tr>' for name, v in rows
    )
    table = parts.scroll(f"<table><tbody>{cells}</tbody></table>", "Machine and versions", "card")
    return parts.section("Machine and versions", "", table)


def _machines(run: Run) -> list[str]:
    """Each machine that the run was started on."""
    found = []
    for made in run.starts or [run.card.get("computed") or {}]:
        if made.get("device"):
            cores, processes = made.get("cores"), made.get("processes")
            text = f"{made.get('processor', '')} ({made['device']}), {made.get('precision', '')}"
            text += f", {cores} cores" if isinstance(cores, int) else ""
            found.append(text + (f", {processes} process{'es' if processes != 1 else ''}" if processes else ""))
    return list(dict.fromkeys(found))


def _codes(run: Run) -> list[str]:
    """Each version of the code that the run was started with."""
    found = []
    for made in run.starts:
        commit, modified = made.get("commit"), made.get("modified")
        git = f", git commit {commit}" if commit else ", from no git checkout"
        git += " with changes that are not committed" if commit and modified else ""
        libraries = ", ".join(f"{name} {made[name]}" for name in ("python", "torch") if made.get(name))
        found.append(f"foundation {made.get('foundation', '')}{git}; {libraries}")
    if not found and run.card.get("foundation_version"):
        found.append(f"foundation {run.card['foundation_version']}, git commit not recorded")
    return list(dict.fromkeys(found))
