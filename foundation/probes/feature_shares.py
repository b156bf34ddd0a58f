"""Features that the processes of a run compute together: each those of a share of the samples, all get the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.parallel.collective import gather_json, gather_to_all, world_size
from foundation.probes.features import FeatureSet

_TENSORS = ("patches", "labels", "ids", "prints", "groups")


def together(own: Callable[[], FeatureSet]) -> FeatureSet:
    """Features of all processes, in the order of their ranks, in every process; all call this together.

    Args:
        own: computes those of this one.

    Raises:
        UserError: in all processes, where none has any: what the first says.
    """
    if world_size() == 1:
        return own()
    found, said = None, ""
    try:
        found = own()
    except UserError as error:  # not one of a share can be read
        said = str(error)
    words = gather_json({"said": said, **({} if found is None else _words(found))})
    tensors = gather_to_all({} if found is None else _tensors(found))
    if all(one["said"] for one in words):
        raise UserError(words[0]["said"])
    return _joined([(t, w) for t, w in zip(tensors, words, strict=True) if not w["said"]])


def _tensors(features: FeatureSet) -> dict[str, Tensor]:
    layers = {f"cls.{number}": layer for number, layer in enumerate(features.cls)}
    return {name: getattr(features, name) for name in _TENSORS} | layers


def _words(features: FeatureSet) -> dict[str, Any]:
    return {
        "keys": features.keys, "names": features.names, "skipped": dict(features.skipped),
        "messages": features.messages, "classes": features.classes,
    }  # fmt: skip


def _joined(parts: Sequence[tuple[Mapping[str, Tensor], Mapping[str, Any]]]) -> FeatureSet:
    tensors = {name: torch.cat([part[name] for part, _ in parts]) for name in parts[0][0]}
    skipped: dict[str, int] = {}
    names: list[Any] = []
    named = any(words["names"] for _, words in parts)
    for part, words in parts:
        names += words["names"] or [None] * (len(part["labels"]) if named else 0)
        for reason, count in words["skipped"].items():
            skipped[reason] = skipped.get(reason, 0) + count
    layers = [name for name in tensors if name.startswith("cls.")]
    return FeatureSet(
        cls=tuple(tensors[name] for name in sorted(layers, key=lambda name: int(name[4:]))),
        keys=tuple(key for _, words in parts for key in words["keys"]),
        skipped=skipped,
        messages=tuple(line for _, words in parts for line in words["messages"])[:8],
        names=tuple(names),
        classes=tuple(parts[0][1]["classes"]),
        **{name: tensors[name] for name in _TENSORS},
    )
