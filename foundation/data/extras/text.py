"""Text: captions, reports, transcripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from foundation.data.extras.member import Member
from foundation.data.shards import RawSample
from foundation.ranges import Range


@dataclass(frozen=True, kw_only=True)
class Config(Member):
    """Text in UTF-8 (``txt``): a tuple of B."""

    max_mib: Annotated[float, Range(0, 1 << 20, above=True)] = 1.0
    """Size in MiB that it may have; a sample with a larger one is bad."""

    def read(self, payload: bytes, raw: RawSample) -> str:
        """See :meth:`Member.read`."""
        return payload.decode("utf-8")
