"""The result of an evaluation on disk: ``result.json`` for programs, ``samples.npz`` with what each test sample adds.

A comparison needs no model and no shards, only these two files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation import schema
from foundation.errors import UserError
from foundation.files import replace_file, replace_json
from foundation.probes.digests import plain, weights_digest
from foundation.probes.results import MOST_BYTES, versions
from foundation.tasks.base import Score
from foundation.tasks.evaluation import Answer, Evaluation

FORMAT = 1
"""Version of the files; readers refuse others."""
RESULT, SAMPLES = "result.json", "samples.npz"
_MOST_SAMPLES = 2048 * schema.MEBIBYTE


class ScoreForm(TypedDict, total=False):
    """A :class:`foundation.tasks.base.Score`; ``samples`` and ``keys`` name arrays of ``samples.npz``."""

    metric: str
    value: float | None
    interval: tuple[float, float] | None
    n: int
    better: str | None
    setting: str
    features: str
    share: bool
    chance: float | None
    samples: str | None
    keys: str | None


class TaskForm(TypedDict, total=False):
    """Answer of a task, or why it was left out."""

    name: str
    scores: list[ScoreForm]
    protocol: str
    warnings: list[str]
    left_out: str | None


class ResultForm(TypedDict, total=False):
    """What is known of a result file; it may say more."""

    format: int
    kind: str
    model: str
    name: str | None
    model_sha256: str
    modality: str
    suite: str
    created: str
    samples_sha256: str
    data: dict[str, Any]
    settings: dict[str, Any]
    tasks: list[TaskForm]
    warnings: list[str]


@dataclass(frozen=True)
class Measured:
    """A score that was read.

    Attributes:
        task: that it is of.
        score: as it was, ``each`` and ``keys`` included where they were kept.
    """

    task: str
    score: Score


@dataclass(frozen=True)
class Result:
    """An evaluation that was read, or is at hand.

    Attributes:
        name: of the model, for a person.
        modality: of the model.
        scores: of the model alone, without baselines.
        data: what is said of the splits.
        groups: of the test samples, by key; empty: each stands for itself.
        source: file that it was read from, or what was evaluated.
        settings: how it was run, where that is known.
    """

    name: str
    modality: str
    scores: tuple[Measured, ...]
    data: Mapping[str, Any]
    groups: Mapping[str, int]
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def result_of(found: Evaluation) -> Result:
    """What a comparison needs of an evaluation."""
    scores = [
        Measured(answer.name, score)
        for answer in found.answers
        for score in (answer.outcome.scores if answer.outcome else ())
        if score.features == "model"
    ]
    loaded = found.subject.loaded
    return Result(
        loaded.name or loaded.description,
        loaded.modality,
        tuple(scores),
        found.data,
        found.groups,
        loaded.description,
        settings_of(found),
    )


def settings_of(found: Evaluation) -> dict[str, Any]:
    """How an evaluation was run, as plain values."""
    settings = found.subject.settings
    return {**plain(settings), "device": str(settings.device), "pieces": found.subject.pieces}


def save(found: Evaluation, suite: str, folder: Path) -> Path:
    """Write both files, whole or not at all.

    Args:
        found: the evaluation.
        suite: its name.
        folder: made where it is not there.

    Returns:
        Path of the JSON file.

    Raises:
        UserError: the folder cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {}
    content = as_json(found, suite, arrays)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    content["samples_sha256"] = hashlib.sha256(stream.getvalue()).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / SAMPLES, stream.getvalue())
        replace_json(folder / RESULT, content)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error}; choose another place by --out FOLDER") from error
    return folder / RESULT


def as_json(found: Evaluation, suite: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Content of the JSON file.

    Args:
        found: the evaluation.
        suite: its name.
        arrays: gets those of the other file.
    """
    subject, loaded = found.subject, found.subject.loaded
    if found.groups:
        arrays["groups.keys"] = _text(tuple(found.groups))
        arrays["groups"] = np.array(list(found.groups.values()), np.int64)
    held: dict[tuple[str, ...], str] = {}
    return {
        "format": FORMAT,
        "kind": "evaluation",
        "model": loaded.description,
        "name": loaded.name,
        "model_sha256": loaded.sha256 or weights_digest(loaded.encoder),
        "modality": loaded.modality,
        "suite": suite,
        "evaluation": plain(subject.evaluation),
        "seed": subject.settings.seed,
        "settings": settings_of(found),
        "data": found.data,
        "baselines": list(found.baselines),
        "warnings": list(found.warnings),
        "tasks": [_task(answer, arrays, held) for answer in found.answers],
        "versions": versions(),
        "seconds": round(found.seconds, 1),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _task(answer: Answer, arrays: dict[str, NDArray[Any]], held: dict[tuple[str, ...], str]) -> dict[str, Any]:
    outcome = answer.outcome
    said: dict[str, Any] = {"name": answer.name, "settings": plain(answer.task), "seconds": round(answer.seconds, 2)}
    if outcome is None:
        return said | {"left_out": answer.reason, "scores": []}
    return said | {
        "left_out": None,
        "protocol": outcome.protocol,
        "warnings": list(outcome.warnings),
        "outcome": plain(outcome.settings),
        "scores": [_score(score, arrays, held) for score in outcome.scores],
    }


def _score(score: Score, arrays: dict[str, NDArray[Any]], held: dict[tuple[str, ...], str]) -> dict[str, Any]:
    said = {
        field.name: getattr(score, field.name)
        for field in dataclasses.fields(score)
        if field.name not in ("each", "keys", "interval")
    }
    said["value"] = score.value if math.isfinite(score.value) else None
    said["interval"] = None if score.interval is None else list(score.interval)
    said["samples"] = said["keys"] = None
    if score.each is not None and score.features == "model":
        if score.keys not in held:
            held[score.keys] = f"keys.{len(held)}"
            arrays[held[score.keys]] = _text(score.keys)
        said["samples"], said["keys"] = f"each.{len(arrays)}", held[score.keys]
        arrays[said["samples"]] = score.each.numpy().astype(np.float32)
    return said


def _text(keys: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(list(keys)).encode(), np.uint8)


def read(path: Path) -> Result:
    """Read what :func:`save` wrote.

    Args:
        path: the JSON file, or the folder that it lies in.

    Raises:
        UserError: it is not there, damaged, or of another format.
    """
    path = path / RESULT if path.is_dir() else path
    try:
        content: Any = schema.read_json(ResultForm, path, MOST_BYTES)
        if content.get("kind") != "evaluation" or content.get("format") != FORMAT:
            raise schema.FormError(
                f"{path} is no result of foundation evaluate of format {FORMAT}: it says {content.get('kind')!r}, "
                f"format {content.get('format')!r}"
            )
        arrays = _arrays(path.parent / SAMPLES, content.get("samples_sha256"))
        scores = [
            Measured(str(task["name"]), _read_score(score, arrays, path))
            for task in content.get("tasks", [])
            for score in task.get("scores", [])
            if score.get("features", "model") == "model" and score.get("value") is not None
        ]
        groups = _read_groups(arrays)
    except FileNotFoundError as error:
        raise UserError(f"no {error.filename or path}: foundation evaluate writes it") from None
    except (schema.FormError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from None
    name = content.get("name") or content.get("model", str(path))
    return Result(
        str(name),
        str(content.get("modality", "")),
        tuple(scores),
        content.get("data", {}),
        groups,
        str(path),
        content.get("settings", {}),
    )


def _arrays(path: Path, sha256: str | None) -> dict[str, NDArray[Any]]:
    """Of the file that belongs to a result."""
    content = schema.read_bytes(path, _MOST_SAMPLES)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise schema.FormError(f"{path.name} beside it is not the one that was written with it")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            held = sum(member.file_size for member in file.infolist())
        if held > _MOST_SAMPLES:
            raise schema.FormError(f"{path.name} beside it unpacks to {held:,} bytes")
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, MemoryError, NotImplementedError) as error:
        raise schema.FormError(f"{path.name} beside it is damaged: {error}") from None


def _keys(arrays: Mapping[str, NDArray[Any]], name: str) -> tuple[str, ...]:
    keys = json.loads(arrays[name].tobytes())
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise schema.FormError(f"{SAMPLES} beside it: {name} is no list of keys")
    return tuple(keys)


def _read_groups(arrays: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    if "groups" not in arrays:
        return {}
    numbers = arrays["groups"]
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise schema.FormError(f"{SAMPLES} beside it: groups are no list of whole numbers")
    return dict(zip(_keys(arrays, "groups.keys"), numbers.tolist(), strict=True))


def _read_score(form: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], path: Path) -> Score:
    each: Tensor | None = None
    keys: tuple[str, ...] = ()
    if form.get("samples") is not None:
        each = torch.from_numpy(arrays[form["samples"]].astype(np.float32))
        keys = _keys(arrays, form["keys"])
        if not bool(each.isfinite().all()):
            raise schema.FormError(f"{SAMPLES} beside it: some values are not finite")
        if each.ndim != 1 or len(each) != len(keys):
            raise schema.FormError(f"{SAMPLES} beside it has {len(each)} values for {len(keys)} samples")
    better = form.get("better")
    if better not in ("more", "less", None):
        raise schema.FormError(f"better is {better!r}")
    return Score(
        metric=str(form["metric"]), value=float(form["value"]), n=int(form.get("n", 0)),
        interval=form.get("interval"), better=better, setting=form.get("setting", ""), share=form.get("share", True),
        chance=form.get("chance"),
        each=each, keys=keys,
    )  # fmt: skip
