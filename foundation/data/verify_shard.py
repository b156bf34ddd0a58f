"""Checking one shard: all that can be said without looking at another."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from foundation.data.arrays import ARRAYS, PICKLES, ArrayFacts, MemberFile, array_facts
from foundation.data.boundary import decoded
from foundation.data.kinds import kind_of
from foundation.data.shard_bytes import MAX_MEMBER_BYTES, ShardError, read_payload
from foundation.data.tar import Table, check_members, scan
from foundation.errors import SampleError

NAMED = 20
"""Problems of one reason that are named per shard; the rest is counted."""

_PIECE = 1 << 22
_PART = re.compile(r"([a-z_][a-z0-9_-]*)?")  # what a member of a sample is called; numbers are rather parts of a key


@dataclass(frozen=True)
class Problem:
    """Something wrong.

    Attributes:
        shard: path of the shard, or of its index or folder.
        reason: one of ``foundation.errors.REASONS``.
        detail: for a person.
        key: of the sample; empty when the whole shard is meant.
        member: its name in the archive; empty when the whole sample is meant.
        severity: ``error``: a run would refuse, skip or misread it. ``warning``: worth knowing.
    """

    shard: str
    reason: str
    detail: str
    key: str = ""
    member: str = ""
    severity: Literal["error", "warning"] = "error"


@dataclass
class Group:
    """Samples that are alike: how many, and the keys of the first."""

    count: int = 0
    keys: list[str] = field(default_factory=list)

    def add(self, key: str) -> None:
        self.count += 1
        if len(self.keys) < NAMED:
            self.keys.append(key)


@dataclass
class ShardCheck:
    """What was found in one shard.

    Attributes:
        shard: its path.
        samples: in it.
        bytes: of the file.
        sha256: of the file; empty when it could not be read.
        problems: the first of each reason.
        more: number of those that are not named, by severity and reason.
        layouts: samples by the set of their members.
        arrays: samples by extension and what the array in that member is like.
    """

    shard: str
    samples: int = 0
    bytes: int = 0
    sha256: str = ""
    problems: list[Problem] = field(default_factory=list)
    more: Counter[tuple[str, str]] = field(default_factory=Counter)
    layouts: dict[tuple[str, ...], Group] = field(default_factory=dict)
    arrays: dict[tuple[str, ArrayFacts], Group] = field(default_factory=dict)
    _named: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, problem: Problem) -> None:
        """Name the problem, or count it when enough like it are named."""
        kind = (problem.severity, problem.reason)
        if self._named[kind] < NAMED:
            self._named[kind] += 1
            self.problems.append(problem)
        else:
            self.more[kind] += 1

    def add_error(self, error: SampleError, member: str = "") -> None:
        self.add(Problem(self.shard, error.reason, error.detail, error.key, member))


def cut_keys(layouts: Mapping[tuple[str, ...], Group]) -> Iterator[tuple[str, str]]:
    """What webdataset's rule has made of keys with dots: one sample of files that may have been meant as several.

    Samples with several pictures under names (``left.jpg``, ``right.jpg``) that other samples have too are meant so.

    Args:
        layouts: samples by the set of their members.

    Yields:
        Key of a sample and what to know about it, once for each set of members.
    """
    for extensions, group in layouts.items():
        kinds: dict[str, list[str]] = {}
        for extension in extensions:
            kinds.setdefault(kind_of(extension).rpartition(".")[2], []).append(extension)
        for kind, same in kinds.items():
            meant = group.count > 1 and all(_PART.fullmatch(name.rpartition(".")[0]) for name in same)
            if len(same) > 1 and not meant:
                listed = ", ".join(f".{name}" for name in same[:3]) + (", ..." if len(same) > 3 else "")
                more = f"; {group.count - 1:,} more samples are like it" if group.count > 1 else ""
                key = group.keys[0]
                yield (
                    key,
                    f"{len(same)} members of kind {kind} under one key {key!r} ({listed}): webdataset cuts keys at the "
                    f"first dot of a file's name, so they are one sample. If they are {len(same)}, write names without "
                    f"that dot, such as {key}_{same[0]}{more}",
                )


def check_shard(shard: str, decoding: Any = None) -> ShardCheck:
    """Check one shard; whatever is wrong with it is part of the result.

    Args:
        shard: path.
        decoding: a modality's decode ``Config``, by which every sample is tried; None: do not decode.
    """
    check = ShardCheck(shard)
    decode = None if decoding is None else decoding.build()
    try:
        descriptor = os.open(shard, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        check.add(Problem(shard, reason, f"cannot be opened: {error.strerror}"))
        return check
    try:
        check.bytes = os.fstat(descriptor).st_size
        _check(check, descriptor, decode)
    except OSError as error:
        check.add(Problem(shard, "unreadable", f"cannot be read: {error.strerror}"))
    finally:
        os.close(descriptor)
    return check


def _check(check: ShardCheck, descriptor: int, decode: Callable[[dict[str, Any]], Any] | None) -> None:
    fatal: list[ShardError] = []

    def report(error: ShardError) -> None:
        check.add(Problem(error.shard, error.reason, error.detail, error.key, error.member))
        if not error.member:
            fatal.append(error)

    table = scan(descriptor, check.shard, report)
    check.samples = len(table.keys)
    for name in table.strays:
        text = f"member {name!r} belongs to no sample (names are key.extension); it is left out"
        check.add(Problem(check.shard, "stray", text, member=name, severity="warning"))
    if not fatal:
        if not table.keys:
            check.add(Problem(check.shard, "empty", "no samples"))
        elif not table.complete:
            text = f"no end-of-archive mark after sample {table.keys[-1]!r}: the shard has been cut off"
            check.add(Problem(check.shard, "truncated", text, table.keys[-1]))
    for index in range(check.samples):
        _check_sample(check, descriptor, table, index, decode)
    for key, text in cut_keys(check.layouts):
        check.add(Problem(check.shard, "duplicate", text, key, severity="warning"))
    check.sha256 = _digest(descriptor)


def _check_sample(
    check: ShardCheck, descriptor: int, table: Table, index: int, decode: Callable[[dict[str, Any]], Any] | None
) -> None:
    key, extensions = table.keys[index], table.extensions[index]
    try:
        check_members(check.shard, key, extensions)
    except SampleError as error:
        check.add_error(error)
        return
    check.layouts.setdefault(tuple(sorted(extensions)), Group()).add(key)
    raw: dict[str, Any] = {"__key__": key, "__shard__": check.shard, "__id__": index}
    for number, extension in enumerate(extensions, start=int(table.first[index])):
        offset, size = int(table.offsets[number]), int(table.sizes[number])
        try:
            if offset + size > table.bytes or size > MAX_MEMBER_BYTES:
                read_payload(descriptor, check.shard, key, extension, offset, size, table.bytes)  # says why not
            _check_member(check, descriptor, key, extension, offset, size, finite=decode is None)
            if decode:
                raw[extension] = read_payload(descriptor, check.shard, key, extension, offset, size, table.bytes)
        except SampleError as error:
            check.add_error(error, f"{key}.{extension}")
            decode = None
    if decode:
        try:
            sample = decoded(decode, raw)
        except SampleError as error:
            check.add_error(error)
            return
        for note in sample.get("__notes__", ()):
            check.add(Problem(check.shard, note.reason, note.detail, key, severity="warning"))


def _check_member(
    check: ShardCheck, descriptor: int, key: str, extension: str, offset: int, size: int, finite: bool
) -> None:
    last = extension.rpartition(".")[2]
    if last in PICKLES:
        text = f"member .{extension} runs code when it is opened; this program never opens it"
        check.add(Problem(check.shard, "unsafe", text, key, f"{key}.{extension}", "warning"))
    elif last in ARRAYS:
        with io.BufferedReader(MemberFile(descriptor, offset, size)) as file:
            for facts in array_facts(file, extension, size, check.shard, key, finite):
                check.arrays.setdefault((extension, facts), Group()).add(key)


def _digest(descriptor: int) -> str:
    digest, offset = hashlib.sha256(), 0
    while piece := os.pread(descriptor, _PIECE, offset):
        digest.update(piece)
        offset += len(piece)
    return digest.hexdigest()
