"""One HTML page about an evaluation: a table of all figures, then a section for each task with what it drew."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from foundation.parallel.placement import processor
from foundation.printable import escape, isolated
from foundation.probes.results import versions
from foundation.report import figures, parts
from foundation.report.template import PAGE, STYLE
from foundation.tasks.base import Chart, Confusion, Outcome, Picture, Score
from foundation.tasks.evaluation import Answer, Evaluation
from foundation.tasks.values import interval, shown


def render(found: Evaluation, suite: str) -> str:
    """The page.

    Args:
        found: the evaluation.
        suite: its name.
    """
    loaded = found.subject.loaded
    title = f"{loaded.name or loaded.description} · foundation evaluate"
    body = [
        f"<header><h1>{escape(loaded.name or loaded.description)}</h1><p>{_said(found, suite)}</p></header>",
        notes(found.warnings, "Before you believe the figures"),
        _table(found),
        *(_section(answer, answer.outcome) for answer in found.answers if answer.outcome is not None),
        _left_out(found.answers),
        footer(),
    ]
    return PAGE.format(title=escape(title), style=STYLE, body="\n".join(part for part in body if part))


def notes(sentences: Sequence[str], title: str) -> str:
    """Warnings as a list; nothing where there are none."""
    if not sentences:
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in sentences)
    return f'<div class="verdict below"><strong>{escape(title)}</strong><ul class="notes">{lines}</ul></div>'


def footer() -> str:
    """Versions and machine."""
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"<footer>{escape(said)}; {escape(processor())}</footer>"


def _said(found: Evaluation, suite: str) -> str:
    splits = [f"{split} {entry['samples']:,} samples" for split, entry in found.data.items() if "samples" in entry]
    words = [f"suite {suite}", *splits, f"{found.seconds:.0f} s on {found.subject.settings.device}"]
    return escape(" · ".join(words)) + f"<br>{escape(found.subject.loaded.description)}"


def _table(found: Evaluation) -> str:
    lines = []
    for answer in found.answers:
        for score in answer.outcome.scores if answer.outcome else ():
            if score.features != "model":
                continue
            chance = "" if score.chance is None else shown(score, score.chance)
            others = [other for other in answer.outcome.scores if _same(other, score)] if answer.outcome else []
            beside = {other.features: shown(other) for other in others}
            lines.append(
                [answer.name, score.metric, shown(score), interval(score), chance]
                + [beside.get(label, "") for label in found.baselines]
                + [f"{score.n:,}", score.setting]
            )
    head = ["task", "metric", "value", "95 %", "chance", *found.baselines, "samples", "setting"]
    numbers = range(2, 6 + len(found.baselines))
    table = parts.table(head, lines, "All figures", tuple(numbers))
    lead = (
        "Each task says below how its figure comes about. Intervals are 95 %; chance is what an answer without a look "
        "would score, such as always the largest class."
    )
    lead = " ".join([lead, *(f"{line[0].upper()}{line[1:]}." for line in found.conditions)])
    return parts.section("All figures", lead, f'<div class="card">{table}</div>')


def _same(other: Score, score: Score) -> bool:
    return other.features != "model" and other.metric == score.metric


def _section(answer: Answer, outcome: Outcome) -> str:
    first = outcome.scores[0]
    beside = any(score.features != "model" for score in outcome.scores)
    title = f"{first.metric} beside baselines" if beside else "Figures"
    cards = [parts.card(title, _bars(outcome))] if first.share else []
    cards += [_drawn(picture) for picture in outcome.pictures]
    told = notes(outcome.warnings, "Mind")
    return parts.section(answer.name, outcome.protocol, told + f'<div class="grid">{"".join(cards)}</div>')


def _bars(outcome: Outcome) -> str:
    """The headline of model and baselines; without baselines all shares of the model."""
    first = outcome.scores[0]
    beside = [score for score in outcome.scores if score.metric == first.metric]
    if len(beside) == 1:
        beside = [score for score in outcome.scores if score.share]
    alone = all(score.features == "model" for score in beside)
    rows = [
        figures.Bar(
            label=score.metric if alone else _whose(score),
            value=score.value,
            interval=score.interval,
            note=score.setting,
            strong=score.features == "model",
        )
        for score in beside
    ]
    axis = "%" if alone else f"{first.metric} (%)"
    return figures.bars(rows, axis=axis, chance=first.chance)


def _whose(score: Score) -> str:
    return "the model" if score.features == "model" else score.features


def _drawn(picture: Picture | Chart | Confusion) -> str:
    match picture:
        case Chart():
            series = [
                figures.Series(name, [x for x, _ in line], [y for _, y in line], dots=len(line) <= 20)
                for name, line in picture.lines.items()
            ]
            drawing = figures.line_chart(
                series, x_label=picture.x_label, y_label=picture.y_label, percent=picture.percent
            )
        case Confusion():
            matrix = figures.confusion(picture.counts, picture.classes)
            drawing = parts.scroll(matrix, picture.title, "matrix")
        case Picture():
            kind, content = ("png", picture.content) if isinstance(picture.content, bytes) else (
                "svg+xml", picture.content.encode()
            )  # fmt: skip
            uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
            drawing = parts.picture(uri, picture.alternative)
    return parts.card(isolated(picture.title), drawing)


def _left_out(answers: Sequence[Answer]) -> str:
    rows = [[answer.name, answer.reason] for answer in answers if answer.outcome is None]
    if not rows:
        return ""
    return parts.section("Left out", "", f'<div class="card">{parts.table(["task", "why"], rows, "Left out")}</div>')
