"""The boundary around what comes from data: whatever a file makes a decoder or its views do, one sample is bad.

A decoder that was written for good files raises anything at a damaged one (``tokenize.TokenError``, ``zlib.error``,
``OverflowError``, ``MemoryError``): no list of exception types is complete. Training, evaluation, probes and
``foundation data verify --decode`` all read samples through :func:`decoded`, so that they cannot disagree about one.
Numbers are tested here too, after the last cast, for every modality.
"""

from __future__ import annotations

import dataclasses
import math
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from foundation.errors import FoundationError, SampleError
from foundation.types import BadSample, Sample

if TYPE_CHECKING:
    from foundation.counter import Draws
    from foundation.data.shards import RawSample

LARGEST = 1e15
"""Size of a float32 number in a sample, in its units; squares of larger ones soon leave the range of float32."""

MAX_DECODED_BYTES = 2 << 30
"""Decoded samples that lie in one process's memory together, unless a recipe says otherwise."""

_PANIC = "PanicException"  # what extensions written in Rust raise; it is no Exception
_TEXT = 300  # characters of an exception's text

T = TypeVar("T")
RawOrError: TypeAlias = "RawSample | SampleError"


def decoded(
    decode: Callable[..., Sample], raw: RawSample, draws: Draws | None = None, max_bytes: int = MAX_DECODED_BYTES
) -> Sample:
    """Decode one sample.

    Args:
        decode: of a modality. One whose ``takes_draws`` is true is called as ``decode(raw, draws)`` where there are
            some: it may read a random part of a long recording.
        raw: members by extension.
        draws: random numbers of this sample alone.
        max_bytes: that the decoded sample may take.

    Raises:
        SampleError: the sample cannot be used, whatever the decoder raised.
        FoundationError: it is not the sample: a package is missing, a setting is impossible.
    """
    try:
        with_draws = draws is not None and getattr(decode, "takes_draws", False)
        sample = decode(raw, draws) if with_draws else decode(raw)
        check_numbers(sample)
        if (size := bytes_of(sample)) > max_bytes:
            said = f"takes {size / 2**30:.3g} GiB when decoded, more than data.max_decoded_gib = {max_bytes / 2**30:g}"
            raise SampleError(str(raw["__shard__"]), str(raw["__key__"]), "too_large", said)
    except (FoundationError, ImportError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        raise unforeseen(str(raw.get("__shard__", "")), str(raw.get("__key__", "")), error) from error
    return sample


def unforeseen(shard: str, key: str, error: BaseException) -> SampleError:
    """A sample that made something raise what nobody had foreseen; where it did, goes along for whoever mends it."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(str(error).split()))[:_TEXT]
    where = "".join(traceback.format_exception(error)[-12:])
    return SampleError(shard, key, "decode", f"{type(error).__name__}: {text}", trace=where)


def check_numbers(sample: Sample) -> None:
    """Refuse a sample with numbers that are not finite, or too large to calculate with.

    Raises:
        SampleError: reason ``not_finite``.
    """
    for name, value in sample.items():
        if name.startswith("__") or name == "label":
            continue
        for array in arrays_of(value):
            said = _unfit(array, LARGEST)
            if said:
                origin = str(sample.get("__shard__", "")), str(sample.get("__key__", ""))
                raise SampleError(*origin, "not_finite", f"{name}: {said}")


def arrays_of(value: Any) -> Iterator[Any]:
    """Tensors, arrays and floats anywhere inside a sample's entry or a prepared batch."""
    if isinstance(value, (Tensor, np.ndarray, float)):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from arrays_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from arrays_of(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from arrays_of(getattr(value, field.name))


def bytes_of(sample: Sample) -> int:
    """Memory that the numbers of a sample take."""
    total = 0
    for value in sample.values():
        if isinstance(value, (Tensor, np.ndarray)):  # nearly always; this is done for every sample
            total += value.nbytes
        elif not isinstance(value, (str, int, float)):
            total += sum(array.nbytes for array in arrays_of(value) if not isinstance(array, float))
    return total


def _unfit(array: Any, largest: float = math.inf) -> str:
    """What is wrong with some numbers; empty when nothing is. Times and other float64 numbers may be of any size."""
    if isinstance(array, float):
        return "" if math.isfinite(array) else f"is {array}"
    if isinstance(array, np.ndarray):
        if array.dtype.kind != "f" or not array.size:
            return ""
        low, high = float(array.min()), float(array.max())
    elif not array.is_floating_point() or not array.numel():
        return ""
    else:
        low, high = (float(value) for value in torch.aminmax(array))
    if not (math.isfinite(low) and math.isfinite(high)):
        flat = np.asarray(array.detach().double().cpu() if isinstance(array, Tensor) else array, np.float64).ravel()
        first = int(np.argmin(np.isfinite(flat)))
        return f"{flat[first]} among the numbers, first at number {first}"
    if array.dtype.itemsize <= 4 and not -largest <= low <= high <= largest:
        return f"numbers from {low:g} to {high:g}; beyond {largest:g} nothing can be calculated with them"
    return ""


class Boundary:
    """Decodes the samples of one batch and keeps the list of the bad ones.

    Args:
        decode: of the modality.
        max_bytes: that a decoded sample may take.

    Attributes:
        skipped: bad samples by reason.
        bad: each of them.
        notes: what the first sample with a note of each reason had to say, by reason.
    """

    def __init__(self, decode: Callable[..., Sample], max_bytes: int = MAX_DECODED_BYTES) -> None:
        self._decode, self._max_bytes = decode, max_bytes
        self.skipped: Counter[str] = Counter()
        self.bad: list[BadSample] = []
        self.notes: dict[str, str] = {}

    def __call__(self, raw: RawOrError, number: int, draws: Draws | None = None) -> Sample | SampleError:
        """The sample, or what is wrong with it, written down.

        Args:
            raw: members by extension, or what went wrong reading them.
            number: of the sample in the data set.
            draws: random numbers of this sample alone.
        """
        try:
            if isinstance(raw, SampleError):
                raise raw
            sample = decoded(self._decode, raw, draws, self._max_bytes)
        except SampleError as error:
            self.refuse(error, number)
            return error
        for note in sample.get("__notes__", ()):
            self.notes.setdefault(note.reason, f"{sample['__shard__']}: {sample['__key__']}: {note.detail}")
        return sample

    def refuse(self, error: SampleError, number: int) -> None:
        """Write a bad sample down."""
        self.skipped[error.reason] += 1
        self.bad.append(BadSample(number, error.shard, error.key, error.reason, error.detail, error.trace))


def prepared(
    prepare: Callable[[list[Sample], list[int]], T], samples: list[Sample]
) -> tuple[T | None, dict[int, SampleError]]:
    """Make views of some samples; when that fails, find out whose fault it is by trying each alone.

    Args:
        prepare: (samples, their rows) -> views.
        samples: decoded.

    Returns:
        The views, or None and what is wrong with samples, by row.

    Raises:
        Exception: what ``prepare`` raised for all together, when it takes each one alone.
    """
    rows = list(range(len(samples)))
    try:
        result = prepare(samples, rows)
        if not _said(result):
            return result, {}
        failure: Exception | None = None
    except ImportError:
        raise
    except SampleError as error:
        result, failure = None, error  # type: ignore[assignment]
    except FoundationError:
        raise
    except Exception as error:
        result, failure = None, error  # type: ignore[assignment]
    guilty = {row: wrong for row in rows if (wrong := _alone(prepare, samples[row], row)) is not None}
    if guilty:
        return None, guilty
    if failure is not None:
        raise failure
    return result, {}


def _alone(prepare: Callable[[list[Sample], list[int]], Any], sample: Sample, row: int) -> SampleError | None:
    origin = str(sample.get("__shard__", "")), str(sample.get("__key__", ""))
    try:
        said = _said(prepare([sample], [row]))
        return SampleError(*origin, "not_finite", f"its views: {said}") if said else None
    except SampleError as error:
        return error
    except (FoundationError, ImportError):
        raise
    except Exception as error:
        return unforeseen(*origin, error)


def _said(result: Any) -> str:
    return next((said for array in arrays_of(result) if (said := _unfit(array))), "")


def pieces(samples: Iterable[Sample], max_bytes: int, most: int) -> Iterator[list[Sample]]:
    """Cut decoded samples, as they come, so that no more than a piece lies in memory.

    Args:
        samples: decoded.
        max_bytes: a piece ends when its samples take so much.
        most: samples of a piece.
    """
    piece: list[Sample] = []
    held = 0
    for sample in samples:
        piece.append(sample)
        held += bytes_of(sample)
        if held >= max_bytes or len(piece) == most:
            yield piece
            piece, held = [], 0
    if piece:
        yield piece


def good_views(
    prepare: Callable[[list[Sample]], T], samples: Sequence[Sample]
) -> tuple[T | None, list[Sample], list[tuple[Sample, SampleError]]]:
    """Evaluation views of the samples that have some.

    Returns:
        What ``prepare`` gives of B samples, such as views [B, ...] (None without a good sample), these samples, and the
        others with what is wrong with them.
    """
    kept: list[Sample] = list(samples)
    bad: list[tuple[Sample, SampleError]] = []
    while kept:
        views, guilty = prepared(lambda some, _: prepare(some), kept)
        if not guilty:
            return views, kept, bad
        bad += [(kept[row], error) for row, error in guilty.items()]
        kept = [sample for row, sample in enumerate(kept) if row not in guilty]
    return None, [], bad
