"""Curves of the training, under names for people; what never changes is said in a line instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foundation.printable import escape
from foundation.report import names, parts
from foundation.report.figures import Series, line_chart
from foundation.report.run import Run

_STEP = "optimiser step"
_MOST_OTHERS = 12


@dataclass(frozen=True)
class _Group:
    """Figures of one kind in one chart."""

    title: str
    axis: str
    keys: tuple[str, ...]
    percent: bool = False
    zero: bool = False
    dots: bool = False
    smooth: bool = True


def curves(run: Run) -> str:
    """All sections with curves."""
    if not run.metrics:
        return parts.section("Training", "", parts.empty("No metrics have been written yet."))
    keys = [key for key in run.figures() if key not in names.HIDDEN]
    groups = _groups(keys)
    grouped = {key for group in groups for key in group.keys}
    varying = {key for key in keys if len(set(_values(run, key))) > 1}
    drawn = [_chart(run, group) for group in groups if varying.intersection(group.keys)]
    schedules = [key for key in keys if key.startswith("schedule/") and key in varying]
    others = [key for key in keys if key in varying and key not in grouped and key not in schedules]
    text = "Numbers of single steps are drawn faintly, their moving mean on top."
    page = parts.section("Training", text, f'<div class="grid">{"".join(drawn)}</div>' + _constant(run, keys, varying))
    if schedules:
        page += parts.section("Schedules", "Values that the optimiser and the teacher used.", _small(run, schedules))
    if others:
        left_out = len(others) - _MOST_OTHERS
        more = f"{left_out} more are in metrics.jsonl and in TensorBoard." if left_out > 0 else ""
        page += parts.section("Further figures", more, _small(run, others[:_MOST_OTHERS]))
    return page


def _groups(keys: Sequence[str]) -> list[_Group]:
    def ending(end: str) -> tuple[str, ...]:
        return tuple(key for key in keys if key.endswith("/" + end) and not key.startswith(("schedule/", "loss/")))

    def one(key: str) -> _Group:
        known = names.figure(key)
        return _Group(known.title, known.axis, (key,), known.percent, known.zero, smooth=key in _SMOOTH)

    probes = [key for key in keys if key.startswith("probe/") and not key.endswith("_top5")]
    accuracies, others = [k for k in probes if k.endswith("_top1")], [k for k in probes if not k.endswith("_top1")]
    entropy, kl, used = (names.figure("x/" + end).axis for end in ("entropy", "kl", "prototypes"))
    return [
        _Group("Accuracy while training", "top-1 accuracy (%)", tuple(accuracies), percent=True, dots=True),
        _Group("F1 while training", "F1 (%)", tuple(others), percent=True, dots=True),
        one("loss"),
        _Group("Parts of the loss", "loss", tuple(key for key in keys if key.startswith("loss/"))),
        _Group("Entropy of the teacher's assignments", entropy, ending("entropy")),
        _Group("Divergence of the student from the teacher", kl, ending("kl")),
        _Group("Prototypes in use", used, ending("prototypes"), percent=True, zero=True, smooth=False),
        *map(one, ("gradient/norm", "throughput/samples_per_second", "data/wait_fraction")),
    ]


_SMOOTH = ("loss", "gradient/norm")


def _chart(run: Run, group: _Group) -> str:
    lines = [Series(names.series(key), *run.series(key), dots=group.dots) for key in group.keys]
    only = [key for key in group.keys if _values(run, key)]
    title = group.title if len(only) != 1 or "/" not in only[0] or only[0].startswith(_OWN) else _titled(group, only[0])
    drawn = line_chart(
        lines, x_label=_STEP, y_label=group.axis, smooth=group.smooth, zero=group.zero, percent=group.percent
    )
    return parts.card(title, drawn)


_OWN = ("gradient/", "throughput/", "data/")


def _titled(group: _Group, key: str) -> str:
    """With the one that it is about, as there is no legend then."""
    return f"{group.title}: {names.series(key)}"


def _small(run: Run, keys: Sequence[str]) -> str:
    plots = []
    for key in keys:
        known = names.figure(key)
        chart = line_chart(
            [Series(known.title, *run.series(key))], x_label=_STEP, y_label=known.axis, smooth=True,
            percent=known.percent, zero=known.zero, width=360, height=230,
        )  # fmt: skip
        plots.append(parts.card(known.title, chart))
    return f'<div class="grid small">{"".join(plots)}</div>'


def _constant(run: Run, keys: Sequence[str], varying: set[str]) -> str:
    """What never changed, in a line: no curve is needed to say so."""
    same = [(key, _values(run, key)) for key in keys if key not in varying]
    said = [names.value(key, values[0]) for key, values in same if values]
    if not said:
        return ""
    head = "The same throughout:" if varying else "All that has been logged so far:"
    return f'<p class="constant"><strong>{head}</strong> {escape("; ".join(said))}.</p>'


def _values(run: Run, key: str) -> list[float]:
    return [value for value in run.series(key)[1] if value is not None]
