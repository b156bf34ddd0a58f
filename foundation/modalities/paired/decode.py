"""From the members of one sample to several modalities at once: each by its own decoder, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from foundation.data.members import note, origin_of
from foundation.errors import SampleError, UserError
from foundation.plugins import Plugin
from foundation.ranges import ShareBelowOne, check
from foundation.types import Sample

if TYPE_CHECKING:
    from foundation.counter import Draws


@dataclass(frozen=True, kw_only=True)
class Config:
    """Decoders whose results make one sample."""

    decoders: tuple[Annotated[Any, Plugin("foundation.modalities.{name}.decode")], ...] = ()
    """One for each modality of a sample; each must give an entry of its own. At least one."""
    align: Literal["clock", "ends"] = "clock"
    """``clock``: the time stamps of all modalities are of one clock. ``ends``: they are not, but all recordings begin
    and end together (then read them whole: a decoder must not cut a part out of a long one)."""
    tolerance: ShareBelowOne = 0.1
    """With ``clock``: largest share of the shortest recording for which another one may have nothing. More is a pair
    out of step."""

    def __post_init__(self) -> None:
        if not self.decoders:
            raise UserError(
                "paired: no decoders given; name one for each modality of a sample (to look at shards, name a single "
                "modality: --modality video)"
            )
        if self.align not in ("clock", "ends"):
            raise UserError(f"paired: align is {self.align!r}; choose clock or ends")
        check(self, "paired")

    def build(self) -> PairedDecoder:
        """The function from a raw sample to a sample."""
        tolerance = self.tolerance if self.align == "clock" else None
        return PairedDecoder([decoder.build() for decoder in self.decoders], tolerance)


class PairedDecoder:
    """Decodes every modality of a sample and merges them.

    Args:
        decoders: each from a raw sample to a sample with its own modality's entry.
        tolerance: see :class:`Config`; None: clocks are not compared.

    Attributes:
        takes_draws: as for any decoder; each that takes random numbers gets the same ones, so that all read the same
            part of a long recording.
    """

    takes_draws = True

    def __init__(
        self, decoders: Sequence[Callable[[Mapping[str, Any]], Sample]], tolerance: float | None = None
    ) -> None:
        self.decoders = tuple(decoders)
        self.tolerance = tolerance

    def __call__(self, raw: Mapping[str, Any], draws: Draws | None = None) -> Sample:
        """Decode one sample.

        Args:
            raw: members by extension.
            draws: random numbers of this sample, in training.

        Returns:
            The entries of all decoders. A label may come from any of them.

        Raises:
            SampleError: as the decoders raise it (``missing`` where a modality has no member), or ``conflict`` where
                two of them read different labels or were not recorded at the same time. A sample that lacks one
                modality is bad as a whole.
            UserError: two decoders give the same entry.
        """
        whole: Sample = {name: value for name, value in raw.items() if name.startswith("__")}
        for decoder in self.decoders:
            takes = draws is not None and getattr(decoder, "takes_draws", False)
            decoded = decoder(raw, draws) if takes else decoder(raw)  # type: ignore[call-arg]
            part = {name: value for name, value in decoded.items() if not name.startswith("__")}
            note(whole, *decoded.get("__notes__", ()))
            label = part.pop("label", None)
            if label is not None and whole.setdefault("label", label) != label:
                labels = f"one modality says label {whole['label']}, another {label}"
                raise SampleError(*origin_of(raw), "conflict", labels)
            taken = sorted((part.keys() & whole.keys()) - {"label"})
            if taken:
                raise UserError(f"paired: two decoders give {', '.join(taken)}; each needs an entry of its own")
            if not part:
                raise SampleError(*origin_of(raw), "missing", f"{type(decoder).__name__} gave no entry for this sample")
            whole |= part
        if self.tolerance is not None:
            self._compare(whole, raw)
        return whole

    def _compare(self, whole: Sample, raw: Mapping[str, Any]) -> None:
        from foundation.modalities.paired.clock import extents, outside

        spans = extents(whole)
        if len(spans) > 1 and (share := outside(spans)) > self.tolerance:  # type: ignore[operator]
            times = ", ".join(f"{name} {begin:.2f} to {end:.2f} s" for name, (begin, end) in spans.items())
            raise SampleError(
                *origin_of(raw),
                "conflict",
                f"out of step: {times}; {share:.0%} of the shortest has no counterpart (tolerance "
                f"{self.tolerance:.0%}). "
                "If they begin and end together though their clocks differ, set align: ends",
            )
