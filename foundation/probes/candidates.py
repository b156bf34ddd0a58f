"""What is scored side by side: a model, and the baselines that a score says little without.

Imported for ``--help``, so nothing heavy stands at the top.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.redact import redact

if TYPE_CHECKING:
    from foundation.probes.features import FeatureSet
    from foundation.zoo.load import LoadedEncoder


@dataclass(frozen=True)
class Candidate:
    """An encoder to score.

    Attributes:
        name: ``model``, ``untrained``, ``raw`` or ``simple``.
        label: for a person.
        encoder: on the device.
        sha256: of its weights, where known.
    """

    name: str
    label: str
    encoder: Any
    sha256: str | None


def candidates(
    loaded: LoadedEncoder, evaluation: Any, *, device: Any, seed: int = 0, baselines: bool = True, simple: bool = True
) -> Iterator[Candidate]:
    """The model, then its baselines.

    Args:
        loaded: the model.
        evaluation: its modality's ``EvaluationConfig``.
        device: where baselines with weights shall lie.
        seed: of the untrained weights.
        baselines: the same encoder untrained, and the raw input.
        simple: also those that the modality's room ``simple`` names: one feature for a whole sample.
    """
    from foundation.modalities.parts import simple_features
    from foundation.probes.digests import weights_digest
    from foundation.probes.simple_encoders import RawEncoder, SimpleEncoder

    yield Candidate("model", loaded.description, loaded.encoder, loaded.sha256 or weights_digest(loaded.encoder))
    if not baselines:
        return
    fresh = loaded.untrained(seed).to(device)
    yield Candidate("untrained", "the same encoder, untrained", fresh, None)
    yield Candidate("raw", f"raw {loaded.modality}", RawEncoder(), "raw")
    for label, function in (simple_features(loaded.modality, evaluation) if simple else {}).items():
        # Kept features must not outlive the code that made them.
        code = Path(inspect.getfile(function)).read_bytes()
        digest = hashlib.sha256(code + label.encode()).hexdigest()
        yield Candidate("simple", label, SimpleEncoder(function), digest)


def describe_data(patterns: Sequence[str], features: FeatureSet | None) -> dict[str, Any]:
    """What the result file says about a split.

    Args:
        patterns: of its shards.
        features: of its samples; None where none were computed.
    """
    from foundation.probes.digests import data_digest
    from foundation.probes.road import find_shards

    said = {"shards": [redact(pattern) for pattern in patterns], "digest": data_digest(find_shards(patterns))}
    return said if features is None else said | {"samples": len(features), "skipped": dict(features.skipped)}
