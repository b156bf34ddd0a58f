"""Accuracy of any models against their parameters or their cost, from the result files that probes leave."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from foundation import schema
from foundation.errors import UserError
from foundation.files import replace_file
from foundation.modalities.parts import evaluation_config, evaluation_shape, own_evaluation
from foundation.paths import near_path
from foundation.printable import escape
from foundation.probes.results import FORMAT, MOST_BYTES, Result, read_results
from foundation.report import parts
from foundation.report.figures import number
from foundation.report.scatter import HEIGHT, WIDTH, Point, scatter
from foundation.report.sizes import poster
from foundation.report.template import PAGE, STYLE
from foundation.voice import to_stderr
from foundation.zoo.load import LoadedEncoder, load_encoder

Against: TypeAlias = Literal["parameters", "flops"]
AXES: Mapping[Against, str] = {"parameters": "parameters of the encoder", "flops": "operations of one sample (FLOP)"}
PROBES = {"knn": "k nearest neighbours", "linear": "Linear probe", "svm": "Support vector machine"}


@dataclass(frozen=True)
class Scored:
    """One model under one probe.

    Attributes:
        name: of the model.
        probe: that scored it.
        top1: in [0, 1].
        interval: 95 %, where known.
        n: test samples, where known.
        split: what it was scored on.
        sizes: ``parameters`` and ``flops``, those that are known.
        family: of sub-networks of one model; empty for a model by itself.
        source: the word that named it.
        file: result that the score is of.
        data: that it was scored on, wherever it lies.
    """

    name: str
    probe: str
    top1: float
    interval: tuple[float, float] | None
    n: int | None
    split: str
    sizes: Mapping[Against, float] = field(default_factory=dict)
    family: str = ""
    source: str = ""
    file: str = ""
    data: str = ""


def scored(words: Sequence[str]) -> list[Scored]:
    """What some words of a user name.

    Args:
        words: result files of knn, linear, svm or sizes; models, whose newest results are taken; or MODEL=RESULT.json
            for a result that lies elsewhere than with its model.

    Raises:
        UserError: a file is no result, or says nothing of how large its model is.
    """
    found: list[Scored] = []
    for word in words:
        model, equals, result = word.rpartition("=")
        if equals and result.endswith(".json") and not Path(word).exists():
            found += _of_result(Path(result), model)
        elif word.endswith(".json"):
            found += _of_result(Path(word), None)
        else:
            found += _of_model(word)
    seen = Counter((row.probe, row.family, row.name) for row in found)
    return [
        replace(row, name=f"{row.name}, {row.source}") if seen[row.probe, row.family, row.name] > 1 else row
        for row in found
    ]


def charts(rows: Sequence[Scored], against: Sequence[Against] = ("parameters",)) -> list[tuple[str, str]]:
    """Title and drawing of each chart: every probe against every axis."""
    made = []
    for probe, title in PROBES.items():
        for axis in against:
            points = [
                Point(row.name, row.sizes[axis], row.top1, row.interval, row.family)
                for row in rows
                if row.probe == probe and axis in row.sizes
            ]
            drawn = scatter(points, x_label=f"{AXES[axis]}, logarithmic", y_label="top-1 accuracy (%)")
            if drawn:
                made.append((title if len(against) == 1 else f"{title}, by {axis}", drawn))
    return made


def draw(rows: Sequence[Scored], path: Path, against: Sequence[Against] = ("parameters",)) -> Path:
    """Write the charts: a page with a table (``.html``) or a drawing (``.svg``).

    Raises:
        UserError: there is nothing to draw, or the file cannot be written.
    """
    made = charts(rows, against)
    if not made:
        raise UserError("none of these has both an accuracy (top1) of knn, linear or svm and a size: nothing to draw")
    whole = _page(rows, made) if path.suffix.lower() == ".html" else poster(made, size=(WIDTH, HEIGHT))
    try:
        replace_file(path, whole.encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def sizes_of(loaded: LoadedEncoder, evaluation: Mapping[str, Any] | None = None) -> dict[Against, float]:
    """Parameters of an encoder, and floating point operations of one evaluation view, forward.

    Args:
        loaded: the model.
        evaluation: how it was shown to the encoder, as a result file says; None: as the model says.
    """
    encoder: Any = loaded.encoder
    found: dict[Against, float] = {"parameters": float(sum(one.numel() for one in encoder.parameters()))}
    modality, own = own_evaluation(
        loaded.modality,
        evaluation_config(loaded.modality, loaded.evaluation if evaluation is None else _settings(evaluation)),
    )
    found["flops"] = float(encoder.flops([(1, *evaluation_shape(modality, own))]))
    return found


def _settings(plain: Any) -> Any:
    """Values of a result file without the names of their classes."""
    if isinstance(plain, Mapping):
        return {key: _settings(value) for key, value in plain.items() if key != "type"}
    return plain


def _of_model(word: str) -> list[Scored]:
    loaded = load_encoder(word, fetch=False)
    results = [] if loaded.folder is None else read_results(loaded.folder / "probes")
    newest = {one["probe"]: one for one in results if one["probe"] in (*PROBES, "sizes")}
    if not newest:
        raise UserError(
            f"{word} has no results of foundation knn, linear or svm: score it first, or name the file, "
            f"{word}=RESULT.json"
        )
    folder = Path() if loaded.folder is None else loaded.folder / "probes"
    return [row for content in newest.values() for row in _rows(content, loaded, word, folder / content["file"])]


def _of_result(path: Path, model: str | None) -> list[Scored]:
    if not path.is_file():
        raise UserError(
            f"there is no result file {path}{near_path(path)} (foundation knn, linear, svm or sizes write them)"
        )
    content: Any = schema.read_json(Result, path, MOST_BYTES)
    if content.get("format") != FORMAT or "probe" not in content:
        raise UserError(f"{path} is no result of a probe (foundation knn, linear, svm or sizes write them)")
    if content["probe"] == "sizes":
        return _rows(content, None, str(path), path)
    if model is None:
        if path.absolute().parent.name != "probes":
            raise UserError(f"{path} does not say how large its model is: write MODEL={path}")
        model = str(path.absolute().parent.parent)
        return _rows(content, load_encoder(model, fetch=False), str(path), path)
    loaded = load_encoder(model, fetch=False)
    if loaded.sha256 is not None and content.get("model_sha256") != loaded.sha256:
        to_stderr(f"note: {path} is of {content.get('model')}, and its size is taken from {loaded.description}")
    return _rows(content, loaded, str(path), path)


def _rows(content: Mapping[str, Any], loaded: LoadedEncoder | None, source: str, file: Path) -> list[Scored]:
    """The best row of each model in a result: each probe tries several settings."""
    name = re.sub(r"( \w+)? at step [\d,]+ \(.*\)$", "", str(content.get("model", source)))
    rows = [
        row
        for row in content.get("results") or []
        if row.get("name") == "model" and isinstance(row.get("top1"), float | int) and math.isfinite(row["top1"])
    ]
    family = content["probe"] == "sizes"
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in rows:
        place = (str(row.get("probe", content["probe"])), str(row["features"]) if family else name)
        if place not in best or row["top1"] > best[place]["top1"]:
            best[place] = row
    known = {} if loaded is None else sizes_of(loaded, content.get("evaluation"))
    found = []
    for (probe, own), row in best.items():
        interval = row.get("interval")
        size: dict[Against, float] = (
            {"parameters": float(row["parameters"])} if family and "parameters" in row else known
        )
        found.append(
            Scored(
                own,
                probe,
                float(row["top1"]),
                (float(interval[0]), float(interval[1])) if interval else None,
                row.get("n"),
                _split(content),
                size,
                name if family else "",
                source,
                str(file),
                _data(content),
            )
        )
    return found


def _split(content: Mapping[str, Any]) -> str:
    test = (content.get("data") or {}).get("test")
    if not isinstance(test, Mapping):
        return str(test or "")
    return f"{test.get('samples', '?')} of {' '.join(test.get('shards', ()))}"


def _data(content: Mapping[str, Any]) -> str:
    """As :func:`_split`, by what the shards hold where that is known: copies of them are the same data."""
    test = (content.get("data") or {}).get("test")
    if isinstance(test, Mapping) and test.get("digest") and "samples" in test:
        return f"{test['samples']} of {test['digest']}"
    return _split(content)


def mixed(rows: Sequence[Scored]) -> str:
    """What to say of scores that cannot be compared; empty where they can."""
    return "these were scored on different data: they cannot be compared" if len({r.data for r in rows}) > 1 else ""


def _page(rows: Sequence[Scored], made: Sequence[tuple[str, str]]) -> str:
    cards = "".join(parts.card(title, f'<div class="wide">{chart}</div>') for title, chart in made)
    lines = [
        [
            row.name if not row.family else f"{row.family}: {row.name}",
            PROBES.get(row.probe, row.probe),
            number(row.sizes["parameters"]) if "parameters" in row.sizes else "",
            number(row.sizes["flops"]) if "flops" in row.sizes else "",
            f"{100 * row.top1:.1f}",
            f"{100 * row.interval[0]:.1f} to {100 * row.interval[1]:.1f}" if row.interval else "",
            row.split,
        ]
        for row in sorted(rows, key=lambda one: (one.probe, one.sizes.get("parameters", 0.0)))
    ]
    head = ["model", "probe", "parameters", "FLOP", "top-1 %", "95 %", "scored on"]
    said = mixed(rows)
    warning = f'<p class="lead"><b>{escape(said.capitalize())}.</b></p>' if said else ""
    lead = "Each model at the best of the settings its probe tried; the bar is its 95 % interval."
    table = parts.table(head, lines, "exact figures", (2, 3, 4, 5))
    body = (
        f"<header><h1>Accuracy against size</h1><p>{escape(lead)}</p></header>{warning}"
        f'<div class="grid">{cards}</div><div class="card">{table}</div>'
    )
    return PAGE.format(title="Accuracy against size", style=STYLE + _STYLE, body=body)


_STYLE = """
.card{margin-top:14px}.wide{max-width:860px}.grid{grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr))}
"""
