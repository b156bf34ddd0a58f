"""What probe results say in one sentence: is the trained encoder above what it was compared with, and above chance?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from foundation.printable import isolated

PROBES = {"knn": "kNN", "linear": "the linear probe", "svm": "the linear SVM", "frames": "F1 of frames"}
"""Probes that compare features, in the order in which a person reads them, as they are called in a sentence."""
BASELINES = ("untrained", "raw", "simple")
"""Names of rows that are not the encoder itself."""

Standing = Literal["above", "level", "below"]


@dataclass(frozen=True)
class Score:
    """The best row of one feature.

    Attributes:
        name: ``model``, ``untrained``, ``raw`` or ``simple``.
        label: of the feature, for a person.
        treatment: of the feature before the probe (``as is``, ``standardised``, ``whitened``); empty where a result
            does not say.
        value: in [0, 1].
        interval: 95 %, in [0, 1]; None where it is unknown.
        row: as the result has it.
        treated: best value under each treatment that was tried.
    """

    name: str
    label: str
    treatment: str
    value: float
    interval: tuple[float, float] | None
    row: Mapping[str, Any]
    treated: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """One probe: the encoder beside the best of what it was compared with.

    Attributes:
        probe: key of :data:`PROBES`.
        model: score of the encoder.
        rival: best score of anything else; None where nothing else was scored.
        others: how many features it was compared with.
        chance: accuracy of always answering the most frequent class; None where it is unknown.
    """

    probe: str
    model: Score
    rival: Score | None
    others: int
    chance: float | None

    @property
    def margin(self) -> float:
        """Points (hundredths) between the encoder and its best rival; 0 without one."""
        return 100 * (self.model.value - self.rival.value) if self.rival else 0.0

    @property
    def standing(self) -> Standing:
        """``level``: 0 lies in the 95 % interval of the difference (Newcombe 1998, method 10, from both intervals).

        The test samples are the same for both, which it does not use: it calls a little too much level, never too
        little. Where an interval is unknown, the sign of the difference counts.
        """
        if self.rival is None:
            return "level"
        difference = self.model.value - self.rival.value
        reach = 0.0
        if self.model.interval and self.rival.interval:
            better, worse = (self.model, self.rival) if difference > 0 else (self.rival, self.model)
            assert better.interval is not None and worse.interval is not None
            reach = math.hypot(better.value - better.interval[0], worse.interval[1] - worse.value)
        if abs(difference) <= reach:
            return "level"
        return "above" if difference > 0 else "below"

    @property
    def by_chance(self) -> bool:
        """Whether the encoder is not above chance by more than its interval."""
        if self.chance is None:
            return False
        low = self.model.interval[0] if self.model.interval else self.model.value
        return low <= self.chance


@dataclass(frozen=True)
class Verdict:
    """What the probes say together.

    Attributes:
        text: one sentence.
        standing: ``above``, ``level`` or ``below`` everything else, the worst of all probes; None: nothing to compare
            with; ``chance``: no probe finds more in the encoder than chance would.
        comparisons: one for each probe, in the order of :data:`PROBES`.
    """

    text: str
    standing: Standing | Literal["chance"] | None
    comparisons: tuple[Comparison, ...]


def metric_of(result: Mapping[str, Any]) -> str:
    """Key of a probe's score in its rows; all are shares of 1, the more the better."""
    return str(result.get("metric") or "top1")


def _number(value: Any) -> float | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def scores(result: Mapping[str, Any]) -> list[Score]:
    """The best row of each feature over its settings and treatments: the encoder first, then by score, best first.

    Args:
        result: of a probe, as its JSON file has it; rows without ``treatment`` (of older versions) are read too.
    """
    metric = metric_of(result)
    best: dict[tuple[str, str], Score] = {}
    treated: dict[tuple[str, str], dict[str, float]] = {}
    for row in result.get("results") or ():
        value, name = _number(row.get(metric)), row.get("name")
        if value is None or (name != "model" and name not in BASELINES):
            continue
        label = str(row.get("features") or name)
        bounds = [_number(bound) for bound in row.get("interval") or ()]
        interval = (bounds[0], bounds[1]) if len(bounds) == 2 and None not in bounds else None
        kind = (name, label if name == "simple" else "")
        treatment = str(row.get("treatment") or "")
        of = treated.setdefault(kind, {})
        of[treatment] = max(value, of.get(treatment, value))
        if kind not in best or value > best[kind].value:
            best[kind] = Score(name, label, treatment, value, interval, row, of)  # type: ignore[arg-type]
    return sorted(best.values(), key=lambda score: (score.name != "model", -score.value))


def chance_of(result: Mapping[str, Any]) -> float | None:
    """Accuracy of always answering the most frequent class of the test samples; None where a result does not tell.

    For balanced classes that is one in their number.
    """
    said = _number(result.get("chance"))
    if said is not None:
        return said
    if metric_of(result) != "top1":
        return None
    counts = (result.get("confusion") or {}).get("counts") or ()
    sizes = [sum(row) for row in counts]
    return max(sizes) / sum(sizes) if sum(sizes) > 0 else None


def latest(results: Sequence[Mapping[str, Any]], probe: str) -> Mapping[str, Any] | None:
    """The newest result of a probe that scored the encoder, preferring those that scored baselines as well.

    Args:
        results: oldest first.
        probe: key of :data:`PROBES`.
    """
    found = []
    for result in results:
        if result.get("probe") == probe:
            names = [score.name for score in scores(result)]
            if "model" in names:
                found.append((len(names) > 1, result))
    compared = [result for several, result in found if several]
    chosen = compared or [result for _, result in found]
    return chosen[-1] if chosen else None


def compare(results: Sequence[Mapping[str, Any]]) -> tuple[Comparison, ...]:
    """One comparison for each probe that there is a result of.

    Args:
        results: as :func:`foundation.probes.results.read_results` gives them, oldest first.
    """
    found = []
    for probe in PROBES:
        result = latest(results, probe)
        if result is None:
            continue
        chance = chance_of(result)
        if chance is None and metric_of(result) == "top1":  # only kNN keeps a table of all classes
            chance = next((c for c in map(chance_of, _same_test(result, results)) if c is not None), None)
        model, *others = scores(result)
        found.append(Comparison(probe, model, others[0] if others else None, len(others), chance))
    return tuple(found)


def _same_test(result: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Results on the same test samples."""
    wanted = (result.get("data") or {}).get("test")
    return [other for other in results if wanted and (other.get("data") or {}).get("test") == wanted]


def verdict(results: Sequence[Mapping[str, Any]]) -> Verdict | None:
    """What the probes of one encoder say, in one sentence; None where none has scored it.

    Best against best: each feature counts with its best setting and treatment. "Level" means that the difference lies
    within its 95 % interval.

    Args:
        results: as :func:`foundation.probes.results.read_results` gives them, oldest first.
    """
    found = compare(results)
    if not found:
        return None
    chances = [f"{100 * c:.1f} %" for c in dict.fromkeys(item.chance for item in found) if c is not None]
    chance = f"chance is {' or '.join(dict.fromkeys(chances))}" if chances else ""
    if all(item.by_chance for item in found):
        values = _listed([f"{100 * item.model.value:.1f} % in {PROBES[item.probe]}" for item in found])
        return Verdict(f"The trained encoder is no better than chance: {values}; {chance}.", "chance", found)
    compared = [item for item in found if item.rival is not None]
    if not compared:
        values = _listed([f"{100 * item.model.value:.1f} % in {PROBES[item.probe]}" for item in found])
        missing = "compared with nothing else (add --baselines)"
        return Verdict(f"The trained encoder reaches {values}, {missing}{_tail(chance)}.", None, found)
    kinds: tuple[Standing, ...] = ("above", "level", "below")
    groups = [(kind, [item for item in compared if item.standing == kind]) for kind in kinds]
    clauses = [_clause(kind, items) for kind, items in groups if items]
    worst = [kind for kind, items in groups if items][-1]
    return Verdict(f"The trained encoder is {', but '.join(clauses)}{_tail(chance)}.", worst, found)


def _tail(chance: str) -> str:
    return f"; {chance}" if chance else ""


def _clause(standing: Standing, items: Sequence[Comparison]) -> str:
    """Probes with one outcome: ``not above HOG: 3.1 points below it in kNN and 4.0 in the linear probe``."""
    rivals = list(dict.fromkeys(map(_called, items)))
    shared = rivals[0] if len(rivals) == 1 else ""
    if standing == "above":
        alone = all(item.others == 1 for item in items)
        what = shared if alone and shared else "every other feature tested"
        next_best = "" if alone and shared else f" (next best: {shared})"
        each = _places(items, lambda item: f"{item.margin:.1f}", "", "" if shared else " (next best: {rival})")
        return f"above {what} by {each}{next_best if shared else ''}"
    if standing == "level":
        within = f"within the 95 % {'interval' if len(items) == 1 else 'intervals'}"
        each = _places(items, lambda item: f"{item.margin:+.1f}", "", "" if shared else " against {rival}")
        return f"level with {shared or 'the best of the others'}: {each}, {within}"
    each = _places(items, lambda item: f"{-item.margin:.1f}", " below it" if shared else " below {rival}")
    return f"not above {shared or 'every other feature tested'}: {each}"


def _places(items: Sequence[Comparison], number: Callable[[Comparison], str], how: str, after: str = "") -> str:
    """``3.1 points below it in kNN and 4.0 in the linear probe``; the unit and shared words stand once."""
    parts = []
    for index, item in enumerate(items):
        once = "" if index else " points"
        words = how if "{rival}" in how or not index else ""
        parts.append(f"{number(item)}{once}{words} in {PROBES[item.probe]}{after}".replace("{rival}", _called(item)))
    return _listed(parts)


def _called(item: Comparison) -> str:
    """The rival in a sentence."""
    assert item.rival is not None
    label = isolated(item.rival.label)
    return {"untrained": "the same encoder untrained", "raw": f"the {label}"}.get(item.rival.name, label)


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
