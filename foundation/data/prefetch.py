"""Fetching remote shards before they are read, in a thread of the process that will read them."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from foundation.data.addresses import RemoteError
from foundation.data.cache import Cache, CacheFullError, Expected
from foundation.errors import UserError


class Prefetcher:
    """Brings shards into the cache, one after the other, while others are being read.

    A shard that another process is fetching is left to it. What goes wrong is not said here: the reader meets it again.

    Args:
        cache: to fetch into.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._changed = threading.Condition()
        self._wanted: list[tuple[str, Expected]] = []
        self._seen: frozenset[str] = frozenset()
        self._ended = False
        threading.Thread(target=self._work, name="prefetch", daemon=True).start()

    def want(self, shards: Sequence[tuple[str, Expected]]) -> None:
        """Say which shards come next, in order; what was wanted before and is not now is forgotten."""
        with self._changed:
            pending = {address for address, _ in self._wanted}
            self._wanted = [item for item in shards if item[0] in pending or item[0] not in self._seen]
            self._seen = frozenset(address for address, _ in shards)
            if self._wanted:
                self._changed.notify()

    def end(self) -> None:
        """Fetch nothing more after the shard at hand."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._wanted and not self._ended:
                    self._changed.wait()
                if self._ended:
                    return
                address, expected = self._wanted.pop(0)
            try:
                descriptor = self._cache.open(address, expected, wait=False)
            except (CacheFullError, RemoteError, UserError, OSError):
                continue
            if descriptor is not None:
                os.close(descriptor)
