"""Models of the zoo as a person reads them: a list, and one model whole."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from foundation.data.download import Expected
from foundation.printable import isolated, padded
from foundation.zoo.cards import Listed
from foundation.zoo.entry import Entry, Metric
from foundation.zoo.home import Home


def size_of(number: int) -> str:
    """Bytes in decimal units: ``2.6 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.1f} {unit}" if unit in ("MB", "GB") else f"{number:.0f} {unit}"
        number /= 1000  # type: ignore[assignment]
    raise AssertionError("unreachable")


def state_of(one: Listed, home: Home) -> str:
    """Where the weights of a model are."""
    if one.entry.loads:
        return one.entry.loads.partition(":")[0]
    if not one.entry.files:
        return _TO_TRAIN
    if one.in_place:
        return "in the package"
    if home.pulled(one.entry.name) is None:
        return "to pull"
    whole = all(home.has(one.file(file.name, home), Expected(file.size, file.sha256)) for file in one.entry.needed)
    return "pulled" if whole else _IN_DOUBT


_TO_TRAIN = "to train"
_IN_DOUBT = "in doubt"
_MEANING = {
    "timm": "timm fetches the weights when the model is loaded",
    "open_clip": "open_clip fetches the weights when the model is loaded",
    _IN_DOUBT: "pulled, and changed since or not checked yet: 'foundation zoo verify NAME' looks, 'pull' mends",
    _TO_TRAIN: "no weights are published; 'foundation zoo show NAME' says the command that trains it",
}


def states(models: Sequence[Listed], home: Home) -> list[str]:
    """What the less plain of the states of a :func:`table` mean, one line each."""
    seen = {state_of(one, home) for one in models}
    return [f"{state}: {meaning}" for state, meaning in _MEANING.items() if state in seen]


def table(models: Sequence[Listed], home: Home) -> list[str]:
    """One line for each model, with a head."""
    rows = [("name", "modality", "parameters", "files", "state", "summary")]
    for one in models:
        entry = one.entry
        size = size_of(entry.size) if entry.files else "-"
        count = f"{entry.architecture.parameters / 1e6:,.2f} M"
        rows.append((entry.name, entry.modality, count, size, state_of(one, home), entry.summary))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return ["  ".join([*map(padded, row, widths), isolated(row[-1])]).rstrip() for row in rows]


def shown_metric(metric: Metric) -> str:
    """A score with its interval, number of samples and protocol."""
    interval = f" [{metric.interval[0]:.3f}, {metric.interval[1]:.3f}]" if metric.interval else ""
    count = f", n = {metric.n:,}" if metric.n else ""
    return f"{metric.task} {metric.metric} {metric.value:.3f}{interval}{count} ({metric.protocol})"


def details(one: Listed, home: Home, columns: int = 120) -> list[str]:
    """All that is known of a model, in lines of at most so many columns where words allow it."""
    entry = one.entry
    architecture, fed = entry.architecture, entry.input
    kind = ", ".join(
        [
            architecture.encoder,
            f"{architecture.parameters:,} parameters",
            f"width {architecture.width}",
            f"depth {'-'.join(map(str, architecture.depth))}",
            *(f"{key} {value}" for key, value in architecture.details.items()),
        ]
    )
    seen = [" x ".join(map(str, fed.shape))]
    seen += [f"{fed.rate:g} per second"] if fed.rate else []
    seen += [fed.units] if fed.units else []
    seen += [f"mean {_listed(fed.mean)}"] if fed.mean else []
    seen += [f"deviation {_listed(fed.deviation)}"] if fed.deviation else []
    facts = [
        ("summary", entry.summary),
        ("modality", entry.modality),
        ("encoder", kind),
        ("input", ", ".join(seen)),
        ("recipe", entry.recipe),
        *(("data", _data(data.name, data.licence, data.url)) for data in entry.data),
        ("licence", entry.licence),
        *(("parent", f"{parent.how} from {parent.of}") for parent in entry.parents),
        *(("score", shown_metric(metric)) for metric in entry.metrics),
        *(("", metric.command) for metric in entry.metrics if metric.command),
        *(("file", f"{file.name}, {file.size:,} bytes, sha256 {file.sha256}") for file in entry.files),
        ("loads", entry.loads),
        ("reproduce", entry.reproduce),
        ("notes", entry.notes),
        ("from", one.origin),
        ("state", state_of(one, home) + (f" ({path})" if (path := _place(one, home)) else "")),
    ]
    lines = [entry.name]
    for key, text in facts:
        wrapped = textwrap.wrap(text, max(columns - 12, 40), break_long_words=False, break_on_hyphens=False)
        lines += [f"  {key if not number else '':<10}{isolated(line)}" for number, line in enumerate(wrapped)]
    return lines


def _place(one: Listed, home: Home) -> str:
    """Path of the weights where they are on this machine."""
    if one.entry.weights is None:
        return ""
    path = one.file(one.entry.weights.name, home)
    return str(path) if path.is_file() else ""


def _data(name: str, licence: str, url: str) -> str:
    return f"{name} ({licence})" + (f", {url}" if url else "")


def _listed(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:g}" for number in numbers)


def verdict(entry: Entry, wrong: Sequence[str]) -> str:
    """What ``verify`` says of one model."""
    if entry.loads:
        return f"{entry.name}: nothing to check: {entry.loads} is fetched and kept by its library"
    if not entry.files:
        return f"{entry.name}: nothing to check: its weights are not published"
    return f"{entry.name}: {'; '.join(wrong)}" if wrong else f"{entry.name}: good, {len(entry.files)} files"
