"""Files that become samples: what is known of each, its key, and a split of them that is read while it is written."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from foundation.data.boundary import decoded
from foundation.data.tally import Tally, shown
from foundation.errors import SampleError
from foundation.plugins import resolve

Look: TypeAlias = Callable[[bytes, str], dict[str, Any]]
"""Looks at the header of a file, given as its bytes and its extension without a dot: what is worth writing beside it
(JSON); a ValueError says what is wrong with it."""

Describe: TypeAlias = Callable[[Mapping[str, Any]], dict[str, Any]]
"""What is worth writing beside a file (JSON), from the decoded sample."""


@dataclass(frozen=True)
class Item:
    """One file.

    Attributes:
        path: where it lies.
        name: what it is called in the data set.
        label: name of its class, or None.
        split: where it goes.
        extension: of its member in the sample, without a dot.
        facts: what else is to be written beside it.
        bytes: its size, where it is known.
        suffix: how its name ends, without a dot, where that is not the extension.
    """

    path: Path
    name: str
    label: str | None
    split: str
    extension: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    bytes: int = 0
    suffix: str | None = None


@dataclass
class Split:
    """Files of one split, read while they are iterated over.

    Attributes:
        items: the files, in their order.
        keys: of each file, by its name.
        numbers: of the classes, by their name.
        look: at a file's header; None: do not look.
        decode: tries each sample; None: nothing does.
        describe: what to write beside a sample that was decoded.
        left_out: files that cannot be used, with those that were left out before.
        notes: what the decoder had to say about files that can be used.
        alike: a fact of ``describe`` that should be the same for all files; those that differ from most are noted.
        seen: values of that fact so far, counted over all splits that share this.
    """

    items: list[Item]
    keys: Mapping[str, str]
    numbers: Mapping[str, int]
    look: Look | None
    decode: Callable[[dict[str, Any]], Any] | None = None
    describe: Describe | None = None
    left_out: Tally = field(default_factory=Tally)
    notes: Tally = field(default_factory=Tally)
    alike: str | None = None
    seen: Counter[Any] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def bytes(self) -> int:
        """Of all files, as far as it is known."""
        return sum(item.bytes for item in self.items)

    @property
    def problems(self) -> list[str]:
        """Files that are left out, for a person: ``NAME: REASON: what is wrong``."""
        return self.left_out.problems()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        values: list[tuple[str, Any]] = []
        for item in self.items:
            try:
                sample = self._sample(item)
                if self.alike is not None and self.decode is not None:
                    values.append((item.name, json.loads(sample["json"]).get(self.alike)))
                    self.seen[values[-1][1]] += 1
                yield sample
            except OSError as error:
                self.left_out.add("unreadable", item.name, error.strerror or str(error))
            except SampleError as error:
                self.left_out.add(error.reason, item.name, error.detail)
        usual = max(self.seen, key=lambda value: self.seen[value], default=None)
        for name, value in values:
            if value != usual:
                self.notes.add("shape", name, f"{self.alike} {value}, most others have {usual}")

    def _sample(self, item: Item) -> dict[str, Any]:
        """Read, look at and try one file.

        Raises:
            OSError, SampleError: it cannot be used.
        """
        data = item.path.read_bytes()
        if not data:
            raise SampleError("", item.name, "empty", "no bytes")
        sample: dict[str, Any] = {"__key__": self.keys[item.name], item.extension: data}
        facts = {"path": shown(item.name), **item.facts}
        if item.label is not None:
            sample["cls"] = str(self.numbers[item.label]).encode()
            facts["class"] = item.label
        if self.decode is not None:
            found = tried(self.decode, {**sample, "json": _json(facts)})
            for note in found.get("__notes__", ()):
                self.notes.add(note.reason, item.name, note.detail)
            facts |= {} if self.describe is None else self.describe(found)
        try:
            facts |= {} if self.look is None else self.look(data, item.extension)
        except ValueError as error:
            raise SampleError("", item.name, "decode", str(error)) from error
        return sample | {"json": _json(facts)}


def tried(decode: Callable[[dict[str, Any]], Any], sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sample that is about to be written, decoded as training will.

    Raises:
        SampleError: it cannot be used.
        UserError: a package is missing.
    """
    return decoded(decode, {"__shard__": "", "__id__": 0, **sample})


def accepted(
    decode: Callable[[dict[str, Any]], Any], samples: Iterable[dict[str, Any]], name: str, left_out: Tally
) -> Iterator[dict[str, Any]]:
    """Samples that a data set has made of a file, without those that training would refuse.

    Args:
        decode: what training reads them with.
        samples: about to be written.
        name: of the file.
        left_out: counts the others.
    """
    for sample in samples:
        try:
            tried(decode, sample)
        except SampleError as error:
            left_out.add(error.reason, name, f"{sample['__key__']}: {error.detail}")
        else:
            yield sample


def decoder_of(modality: str) -> Callable[[dict[str, Any]], Any]:
    """What training reads the files of a modality with, unless a recipe says otherwise."""
    decode: Callable[[dict[str, Any]], Any] = resolve("foundation.modalities.{name}.decode", modality).Config().build()
    return decode


def _json(facts: Mapping[str, Any]) -> bytes:
    return json.dumps(facts, ensure_ascii=False).encode()


def keys_of(items: Iterable[Item]) -> dict[str, str]:
    """A key for each file by its name: its path without the extension, made safe.

    Where several files would share one (``a.jpg`` and ``a.png``, ``A.jpg`` and ``a.jpg``), each of them gets letters of
    its own name's digest: a key never depends on the order of files, and never names another file in a later build.
    """
    plain = {item.name: _safe(item) for item in items}
    shared = Counter(key.casefold() for key in plain.values())
    return {
        name: key if shared[key.casefold()] == 1 else f"{key[:100]}-{_letters(name)}" for name, key in plain.items()
    }


def _letters(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:8]


def _safe(item: Item) -> str:
    """A name without dots, spaces or anything that a tar or a shell could trip over."""
    suffix = item.extension if item.suffix is None else item.suffix
    stem = item.name[: -len(suffix) - 1] if suffix else item.name
    stem = stem or item.name
    safe = re.sub(r"[^A-Za-z0-9_/-]+", "_", stem).replace("/", "-").strip("-") or "file"
    if len(safe) > 120 or safe != stem.replace("/", "-"):
        # Different names may become equal or too long: a few letters of their digest keep them apart.
        safe = f"{safe[:100]}-{_letters(item.name)}"
    return safe
