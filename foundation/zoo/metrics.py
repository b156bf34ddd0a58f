"""Scores on the card of a model, out of the result files that probes of it have written."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from foundation import schema
from foundation.errors import UserError
from foundation.paths import near_path
from foundation.zoo.entry import Metric

_NEIGHBOURS = 20


class _Scored(TypedDict):
    """What a card takes from the result file of a probe, see :mod:`foundation.probes.results`."""

    probe: str
    metric: str
    model: NotRequired[str]
    model_sha256: NotRequired[str]
    results: list[dict[str, Any]]
    data: dict[str, Any]
    settings: NotRequired[dict[str, Any]]


def metric_of(path: Path, name: str, digests: Collection[str | None]) -> Metric:
    """The score of the model out of the result file of a probe: of several settings the first treatment and, of kNN,
    20 neighbours, so that none is chosen by the test samples.

    Args:
        path: of the file.
        name: of the model, for the command.
        digests: of the model's weights.

    Raises:
        UserError: it is none, or of other weights.
    """
    found = _result(path)
    if found.get("model_sha256") not in digests:
        raise UserError(
            f"{path} is of other weights ({found.get('model', 'it does not say which')}): score the model that is "
            "published"
        )
    metric, rows = found["metric"], [row for row in found["results"] if row.get("name", "model") == "model"]
    rows = [row for row in rows if row.get("k", _NEIGHBOURS) == _NEIGHBOURS] or rows
    if not rows or not isinstance(rows[0].get(metric), float):
        raise UserError(f"{path} has no {metric!r} of the model")
    row = rows[0]
    data = {split: facts for split, facts in found["data"].items() if isinstance(facts, dict)}
    shards = {split: " ".join(facts.get("shards", [])) for split, facts in data.items()}
    counted = [f"{facts['samples']:,} {split} samples" for split, facts in data.items() if "samples" in facts]
    tokens = found.get("settings", {}).get("tokens")
    settings = [f"features {tokens}"] if tokens else []
    said_tokens = f" --tokens {tokens}" if tokens else ""
    said_k = f" --k {row['k']}" if "k" in row else ""
    settings += [f"{key} {row[key]}" for key in ("treatment", "k", "head") if row.get(key) is not None]
    options = "".join(f' --{split} "{said}"' for split, said in shards.items() if said)
    interval = row.get("interval")
    return Metric(
        task=found["probe"],
        metric=metric,
        value=round(row[metric], 4),
        interval=None if interval is None else (round(interval[0], 4), round(interval[1], 4)),
        n=row.get("n"),
        protocol=", ".join([*counted, *settings]),
        command=f"foundation {found['probe']} {name}{options}{said_tokens}{said_k}",
    )


def _result(path: Path) -> _Scored:
    try:
        return schema.read_json(_Scored, path)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}{near_path(path)}") from None
    except schema.FormError as error:
        raise UserError(f"{error}: a result file of foundation knn, linear or svm is wanted") from None
