"""What all kinds of extras share: which member of the sample it is, and how large it may be."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from foundation.data.arrays import array_facts
from foundation.data.shards import RawSample
from foundation.errors import SampleError, UserError
from foundation.ranges import Range, check

MEBIBYTE = 1 << 20
SelfMember = TypeVar("SelfMember", bound="Member")


@dataclass(frozen=True, kw_only=True)
class Member:
    """Base of the ``Config`` of every kind of extra."""

    member: str
    """The member of a sample that is read, by what follows the key in the shard: ``teacher.npy``."""
    max_mib: Annotated[float, Range(0, 1 << 20, above=True)] = 64.0
    """Memory in MiB that it may take, packed or unpacked; a sample with a larger one is bad."""

    def __post_init__(self) -> None:
        check(self, "data.extras")
        if not self.member or self.member.startswith((".", "_")):
            raise UserError(
                f"data.extras: member {self.member!r} is none: give what follows the key, as in teacher.npy"
            )

    @property
    def max_bytes(self) -> int:
        """Bytes that it may take."""
        return int(self.max_mib * MEBIBYTE)

    def build(self: SelfMember, name: str) -> SelfMember:
        """The reader; ``name`` is that of the extra in the recipe."""
        return self

    def decode(self, raw: RawSample) -> Any:
        """What one sample has.

        Raises:
            SampleError: it has no such member, or one that cannot be used.
        """
        if self.member not in raw:
            there = ", ".join(name for name in raw if not name.startswith("__")) or "none"
            raise self.refused(raw, "missing", f"not there (members: {there})")
        payload = bytes(raw[self.member])
        if len(payload) > self.max_bytes:
            raise self.refused(raw, "too_large", f"{len(payload):,} bytes are more than max_mib = {self.max_mib:g}")
        try:
            return self.read(payload, raw)
        except SampleError:
            raise
        except Exception as error:  # what a damaged file makes a reader raise cannot be listed
            raise self.refused(raw, "decode", f"{type(error).__name__}: {error}") from error

    @abstractmethod
    def read(self, payload: bytes, raw: RawSample) -> Any:
        """The member's value.

        Args:
            payload: its bytes.
            raw: the sample, for messages.

        Raises:
            SampleError: it cannot be used.
        """

    def collate(self, values: Sequence[Any]) -> Tensor | tuple[Any, ...]:
        """Those of a batch: [B, ...], or a tuple of B."""
        return tuple(values)

    def refused(self, raw: RawSample, reason: str, detail: str) -> SampleError:
        """What is wrong with the member of a sample."""
        shard, key = str(raw.get("__shard__", "")), str(raw.get("__key__", ""))
        return SampleError(shard, key, reason, f"member {self.member}: {detail}")

    def array(self, payload: bytes, raw: RawSample) -> NDArray[Any]:
        """An NPY file as an array, after a look at what it says about itself; never unpickled."""
        shard, key = str(raw.get("__shard__", "")), str(raw.get("__key__", ""))
        (facts,) = array_facts(BytesIO(payload), "npy", len(payload), shard, key)
        if np.dtype(facts.dtype).kind not in "biuf":
            raise self.refused(raw, "decode", f"an array of {facts.dtype}, not of numbers")
        return np.lib.format.read_array(BytesIO(payload), allow_pickle=False)
