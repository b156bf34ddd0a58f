"""JSON: boxes, clock readings, whatever has no shape."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

from foundation.data.extras.member import Member
from foundation.data.shards import RawSample
from foundation.ranges import Range


@dataclass(frozen=True, kw_only=True)
class Config(Member):
    """Values in JSON (``json``): a tuple of B."""

    max_mib: Annotated[float, Range(0, 1 << 20, above=True)] = 1.0
    """Size in MiB that it may have; a sample with a larger one is bad."""

    def read(self, payload: bytes, raw: RawSample) -> Any:
        """See :meth:`Member.read`."""
        return json.loads(payload.decode("utf-8"), parse_constant=_no_number)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")
