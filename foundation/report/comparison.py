"""The encoder beside what it was compared with: the sentence at the top, and a card with bars for each probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foundation.printable import escape, isolated
from foundation.report import figures, names, parts
from foundation.report.figures import Bar
from foundation.report.run import Run
from foundation.report.verdict import Comparison, Score, Verdict, compare, latest, metric_of, scores
from foundation.voice import plural

TITLES = {
    "knn": "k nearest neighbours",
    "linear": "Linear probe",
    "svm": "Linear support vector machine",
    "frames": "Moment by moment: linear probe of frames",
}
_TESTED = "Encoder and head on the test shards, which neither taught nor chose anything."
_SHARES = ("top1", "balanced", "mAP", "F1")
"""Figures of fine-tuned models that are shares."""
_NONE_YET = "No probe has been run yet"
_LABELS = {"model": "this encoder", "untrained": "same encoder, untrained"}


def sentence(found: Verdict | None) -> str:
    """The verdict at the top of the page; nothing where no probe has scored the encoder."""
    if found is None:
        return ""
    return f'<p class="verdict {found.standing or "alone"}">{parts.sentence(found.text)}</p>'


def probes(run: Run) -> str:
    """A card for each probe."""
    lead = (
        "Accuracy of the frozen encoder on labelled data, beside the same encoder before training, the raw input and "
        "simple features of the modality. Each counts with the treatment that suits it best; whiskers are 95 % "
        "intervals, the dashed line is chance: always answering the most frequent class."
    )
    tuned = _tested(run)
    blocks = []
    for comparison in compare(run.probes):
        result = latest(run.probes, comparison.probe)
        assert result is not None
        blocks.append(_card(result, comparison))
    if not blocks and tuned:
        return parts.section("What it learned", _TESTED, tuned)
    if not blocks:
        others = ", ".join(dict.fromkeys(str(result["probe"]) for result in run.probes))
        so_far = f"No probe has compared this encoder with others yet (there is: {others})" if others else _NONE_YET
        hint = f"{so_far}: foundation knn {run.path} --baselines --test SHARDS"
        return parts.section("What it learned", lead, parts.empty(hint))
    return parts.section("What it learned", lead, f'{tuned}<div class="grid">{"".join(blocks)}</div>')


def _tested(run: Run) -> str:
    """What a fine-tuned model scored on its test shards; nothing for other runs."""
    if not run.tested:
        return ""
    metric, interval = run.tested["metric"], run.tested["interval"]
    rows = [[name, _shown(name, value)] for name, value in run.tested["figures"].items()]
    for row in rows:
        if row[0] == metric and interval is not None:
            row[1] += f" ({_shown(metric, interval[0])} to {_shown(metric, interval[1])})"
    caption = f"{names.set_name(run.tested['test'])}: {plural(run.tested['n'], 'test sample')}, in brackets 95 %"
    table = parts.table(["figure", "value"], rows, "test figures", numbers=[1], caption=caption)
    return parts.card("Fine-tuned", table)


def _shown(metric: str, value: float | None) -> str:
    if value is None:
        return "not defined"
    return f"{100 * value:.1f} %" if metric in _SHARES else f"{value:.4g}"


def _card(result: Mapping[str, Any], comparison: Comparison) -> str:
    short, long = ("top-1 %", "top-1 accuracy (%)") if metric_of(result) == "top1" else ("F1 %", "F1 (%)")
    found = scores(result)
    bars = [
        Bar(label(score), score.value, score.interval, _how(score), strong=score.name == "model") for score in found
    ]
    treatments = list(dict.fromkeys(treatment for score in found for treatment in score.treated))
    several = len(treatments) > 1  # each is shown; the best one counts
    sizes = {score.row.get("n") for score in found}
    settings = {setting(score) for score in found}
    # Where each feature has its own, the file of the probe has them all.
    chosen = settings.pop() if len(settings) == 1 else f"{label(found[0])}: {setting(found[0])}" if settings else ""
    columns = [
        ("features", [label(score) for score in found]),
        (short, [] if several else [_percent(score.value) for score in found]),
        *((text, [_percent(score.treated.get(text)) for score in found] if several else []) for text in treatments),
        ("balanced %", [_percent(score.row.get("balanced")) for score in found]),
        ("95 % interval", [" to ".join(map(_percent, score.interval or ())) for score in found]),
        ("samples", [f"{score.row.get('n', 0):,}" for score in found] if len(sizes) > 1 else []),
    ]
    columns = [(head, cells) for head, cells in columns if any(cells)]  # older results say less
    head = [head for head, _ in columns]
    rows = list(zip(*(cells for _, cells in columns), strict=True))
    numbers = [index for index, text in enumerate(head) if text != "features"]
    title = TITLES[comparison.probe]
    test, train = names.split_of(result, "test"), names.split_of(result, "train")
    alone = not isinstance((result.get("data") or {}).get("test"), Mapping)
    on = f"leaving one out of {train}" if alone and train else f"scored on {test}" if test else ""
    of = " · ".join(text for text in (isolated(names.model_name(str(result.get("model", "")))), on) if text)
    below = f"{short.removesuffix(' %')} in percent under each treatment of the features" if several else ""
    caption = ", ".join(text for text in (below, chosen) if text)
    return (
        f'<div class="card"><h3>{title}</h3><p class="of">{parts.sentence(of)}</p>'
        f"{figures.bars(bars, axis=long, chance=comparison.chance)}"
        f"{parts.table(head, rows, f'{title}: exact figures', numbers, caption)}{_warnings(result)}</div>"
    )


def _warnings(result: Mapping[str, Any]) -> str:
    """What the probe found odd about its data."""
    said = result.get("warnings")
    lines = "".join(f"<li>{escape(str(line))}</li>" for line in said) if isinstance(said, list) else ""
    return f'<ul class="notes">{lines}</ul>' if lines else ""


def label(score: Score) -> str:
    """A feature for a person."""
    return _LABELS.get(score.name) or isolated(score.label)


def setting(score: Score) -> str:
    """What was chosen for a feature: neighbours, the head, the cost."""
    row = score.row
    if "head" in row:
        return str(row["head"])
    return f"k = {row['k']}" if "k" in row else f"C = {row['cost']:g}" if "cost" in row else ""


def _percent(value: Any) -> str:
    return f"{100 * value:.1f}" if isinstance(value, (int, float)) else ""


def _how(score: Score) -> str:
    return "" if score.treatment in ("", "as is") else score.treatment


def tiles(run: Run) -> list[tuple[str, str, str]]:
    """Title, value and note of a tile for each probe."""
    found = []
    if run.tested:
        shown = _shown(run.tested["metric"], run.tested["value"])
        found.append((f"Test {run.tested['metric']}", shown, plural(run.tested["n"], "sample")))
    for comparison in compare(run.probes):
        notes = []
        if comparison.rival is not None:
            notes.append(f"next best: {label(comparison.rival)},\n{100 * comparison.rival.value:.1f} %")
        elif "k" in comparison.model.row:
            notes.append(f"k = {comparison.model.row['k']}")
        if comparison.chance is not None:
            notes.append(f"chance {100 * comparison.chance:.1f} %")
        found.append((_TILES[comparison.probe], f"{100 * comparison.model.value:.1f} %", "\n".join(notes)))
    return found


_TILES = {"knn": "kNN top-1", "linear": "Linear top-1", "svm": "Linear SVM top-1", "frames": "F1 of frames"}
