"""The section ``data`` of a recipe."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from foundation.data import mixture
from foundation.errors import UserError
from foundation.plugins import Plugin
from foundation.ranges import Count, CountOrNone, Range, Seconds, ShareBelowOne, Workers, check
from foundation.types import Batch


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the samples come from."""

    shards: tuple[str, ...] = ()
    """Shards to train on: paths, globs, brace patterns (``shards/train-{000000..000099}.tar``) or addresses
    (``https://``, ``s3://``, ``gs://``; see docs/remote-shards.md)."""
    cache: str | None = None
    """Folder for copies of remote shards; None: ``FOUNDATION_CACHE``, else ``~/.cache/foundation/shards``."""
    cache_gib: Annotated[float, Range(0, 1e6)] = 50.0
    """Size that the cache may take, in GiB; the shards not used for longest go first. 0: no copies, only ranges."""
    prefetch_shards: Annotated[int, Range(0, 1000)] = 2
    """Remote shards that are fetched ahead of their use."""
    allow_pipes: bool = False
    """Allow ``pipe:COMMAND`` as a shard: the recipe may then start any program."""
    sources: dict[str, mixture.Config] = field(default_factory=dict)
    """In place of ``shards``: a mixture of several sources, by name."""
    mix: Literal["sample", "batch"] = "sample"
    """``sample`` spreads the sources over every global batch; ``batch`` draws each global batch from one source."""
    weigh_by: Literal["samples", "tokens"] = "samples"
    """Whether the weights of the sources are shares of the samples or of the tokens."""
    temperature: Annotated[float, Range(1e-3, 1e3)] = 1.0
    """A source's weight w counts as w^(1 / temperature): 1 as given, larger is more even."""
    workers: Workers | None = None
    """Loader processes per training process; None: the processors that this process may use, less one, at most 16."""
    shuffle_window: Count = 4096
    """Samples are shuffled within windows of this many, after the shards have been shuffled."""
    max_bad_samples: CountOrNone | ShareBelowOne = 10
    """Samples that cannot be used are replaced by others and counted, each once; one more than this ends the run with
    exit code 3. Below 1: a share of all samples."""
    max_decoded_gib: Annotated[float, Range(0, 1 << 20, above=True)] = 2.0
    """Memory in GiB that one sample may take when decoded; a larger one is refused. When the samples of a batch take as
    much together, a worker makes their views before it decodes more."""
    samples_per_epoch: Annotated[int, Range(1, 10**12)] | None = None
    """Samples that count as one epoch in durations; None: what the shards (of all sources) hold."""
    extras: dict[str, Annotated[Any, Plugin("foundation.data.extras.{name}", key="kind")]] = field(default_factory=dict)
    """Further members of each sample that the run reads, by the name that objectives use: teachers' features, region
    maps, text."""
    timeout_seconds: Seconds = 300.0
    """A loader worker that gives no batch for so long ends the run with an error."""

    def __post_init__(self) -> None:
        check(self, "data")
        if self.shards and self.sources:
            raise UserError("give data.shards or data.sources, not both (data.shards=[] takes the shards back)")
        for name in self.sources:
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
                raise UserError(f"data.sources: {name!r} is no plain name: use letters, digits, '_', '.' and '-'")
        taken = {part.name for part in fields(Batch)}
        for name in self.extras:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
                raise UserError(f"data.extras: {name!r} is no plain name: use letters, digits and '_'")
            if name in taken:
                raise UserError(f"data.extras: every batch has {name!r} already; give this one another name")

    @property
    def patterns(self) -> tuple[str, ...]:
        """Shards of all sources."""
        return self.shards + tuple(text for name in sorted(self.sources) for text in self.sources[name].shards)
