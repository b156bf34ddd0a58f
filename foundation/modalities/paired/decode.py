"""From the members of one sample to several modalities at once: each by its own decoder, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from foundation.errors import SampleError, UserError
from foundation.plugins import Plugin
from foundation.types import Sample


@dataclass(frozen=True, kw_only=True)
class Config:
    """Decoders whose results make one sample."""

    decoders: tuple[Annotated[Any, Plugin("foundation.modalities.{name}.decode")], ...]
    """One for each modality of a sample; each must give an entry of its own."""

    def __post_init__(self) -> None:
        if not self.decoders:
            raise UserError("paired: no decoders given; name one for each modality of a sample")

    def build(self) -> PairedDecoder:
        return PairedDecoder([decoder.build() for decoder in self.decoders])


class PairedDecoder:
    """Decodes every modality of a sample and merges them.

    Args:
        decoders: each from a raw sample to a sample with its own modality's entry.
    """

    def __init__(self, decoders: Sequence[Callable[[Mapping[str, Any]], Sample]]) -> None:
        self.decoders = tuple(decoders)

    def __call__(self, raw: Mapping[str, Any]) -> Sample:
        """Decode one sample.

        Returns:
            The entries of all decoders. A label may come from any of them.

        Raises:
            SampleError: as the decoders raise it (``missing`` where a modality has no member), or ``conflict`` where
                two of them read different labels. A sample that lacks one modality is bad as a whole.
            UserError: two decoders give the same entry.
        """
        whole: Sample = {name: value for name, value in raw.items() if name.startswith("__")}
        for decoder in self.decoders:
            part = {name: value for name, value in decoder(raw).items() if not name.startswith("__")}
            label = part.pop("label", None)
            if label is not None and whole.setdefault("label", label) != label:
                labels = f"one modality says label {whole['label']}, another {label}"
                raise SampleError(str(raw.get("__shard__", "")), str(raw.get("__key__", "")), "conflict", labels)
            taken = sorted((part.keys() & whole.keys()) - {"label"})
            if taken:
                raise UserError(f"paired: two decoders give {', '.join(taken)}; each needs an entry of its own")
            if not part:
                detail = f"{type(decoder).__name__} gave no entry for this sample"
                raise SampleError(str(raw.get("__shard__", "")), str(raw.get("__key__", "")), "missing", detail)
            whole |= part
        return whole
