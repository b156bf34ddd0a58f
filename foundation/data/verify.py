"""``foundation data verify``: finds what is wrong with shards before a run meets it.

Each shard is checked by itself (:mod:`foundation.data.verify_shard`), in as many processes as there are processors.
What only shows in comparison is found afterwards: samples that lack what the others have, arrays unlike their fellows,
shards that are not what their index says.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, TypeAlias

from foundation.compatibility import installed
from foundation.data.arrays import ArrayFacts
from foundation.data.expand import expand
from foundation.data.index import NAME as INDEX
from foundation.data.index import Index, default_decoding, read_index
from foundation.data.kinds import kind_of
from foundation.data.verify_shard import Problem, ShardCheck, check_shard
from foundation.errors import FoundationError, UserError
from foundation.files import replace_json
from foundation.version import VERSION
from foundation.voice import plural

SCHEMA = 1
"""Of the JSON report; raised when the meaning of a field changes."""

_NEARLY_ALL = (
    0.9  # so many must agree on an axis before the rest is called odd: lengths differ, numbers of channels do not
)
_Tally: TypeAlias = Mapping[Any, int]


@dataclass
class Findings:
    """What was looked at and what was found.

    Attributes:
        shards: each of them.
        problems: the first of each kind and shard, in the order of the shards.
        errors: all problems by reason.
        warnings: things worth knowing that do no harm, by reason.
        members: samples that have a member, by extension.
        decoded: the samples were decoded too.
    """

    shards: list[ShardCheck]
    problems: list[Problem] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    members: dict[str, int] = field(default_factory=dict)
    decoded: bool = False

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    def add(self, problems: Iterable[Problem], more: Mapping[tuple[str, str], int] | None = None) -> None:
        """Take problems in; ``more`` counts those that are not named, by severity and reason."""
        for problem in problems:
            self.problems.append(problem)
            self._count(problem.severity)[problem.reason] += 1
        for (severity, reason), number in (more or {}).items():
            self._count(severity)[reason] += number

    def _count(self, severity: str) -> Counter[str]:
        return self.errors if severity == "error" else self.warnings

    def to_json(self) -> dict[str, Any]:
        """The report, ready for ``json.dump``."""
        return {
            "schema": SCHEMA,
            "command": "foundation data verify",
            "versions": {"foundation": VERSION, "numpy": installed("numpy"), "pillow": installed("pillow")},
            "decoded": self.decoded,
            "shards": len(self.shards),
            "samples": self.samples,
            "bytes": sum(shard.bytes for shard in self.shards),
            "members": self.members,
            "errors": dict(sorted(self.errors.items())),
            "warnings": dict(sorted(self.warnings.items())),
            "problems": [asdict(problem) for problem in self.problems],
            "files": [
                {"shard": s.shard, "samples": s.samples, "bytes": s.bytes, "sha256": s.sha256} for s in self.shards
            ],
        }


def verify(
    patterns: Sequence[str],
    *,
    members: Sequence[str] = (),
    decode: bool = False,
    modality: str | None = None,
    decoding: Any = None,
    workers: int | None = None,
    progress: Callable[[Iterator[ShardCheck], int], Iterable[ShardCheck]] = lambda checks, total: checks,
) -> Findings:
    """Look for everything that would spoil a run.

    Args:
        patterns: paths, globs, brace patterns or folders.
        members: extensions that every sample must have; empty: those that at least half of the samples have.
        decode: decode every sample too.
        modality: whose decoder; None: as the index beside a shard says, else images.
        decoding: a modality's decode ``Config`` in place of the default one; with it every sample is decoded.
        workers: processes; None: as many as this process may use processors.
        progress: wraps the iterator over finished shards, to show how far it is.

    Raises:
        UserError: nothing matches the patterns, or an index is too new to be read.
    """
    if workers is not None and workers < 1:
        raise UserError(f"--workers must be at least 1, got {workers}")
    paths = [Path(path) for path in expand(patterns, several_splits=True)]
    decode = decode or decoding is not None
    found = Findings([], decoded=decode)
    indices = _read_indices(paths, found)
    number = min(len(paths), workers or len(os.sched_getaffinity(0)))
    known = {folder: modality or index.modality or "image" for folder, index in indices.items()}
    decoders = [
        (decoding or default_decoding(known.get(path.parent, modality or "image"), indices.get(path.parent)))
        if decode
        else None
        for path in paths
    ]
    for check in progress(_check_all([str(path) for path in paths], decoders, number), len(paths)):
        found.shards.append(check)
        found.add(check.problems, check.more)
    found.add(_against_index(found.shards, indices))
    found.add(_same_bytes(found.shards))
    found.members = dict(sorted(_members(found.shards).items()))
    whose = modality or next((index.modality for index in indices.values() if index.modality), "")
    found.add(_lacking(found.shards, members, whose))
    found.add(_unlike_fellows(found.shards, decode))
    if not found.samples and not found.errors:
        found.add([Problem(str(paths[0].parent), "empty", f"no samples in {plural(len(paths), 'shard')}")])
    return found


def write_report(found: Findings, path: Path) -> None:
    """Write the report so that a reader sees all of it or none."""
    try:
        replace_json(path, found.to_json())
    except OSError as error:
        raise UserError(f"the report cannot be written to {path}: {error.strerror}") from error


def _check_all(paths: list[str], decoders: list[Any], workers: int) -> Iterator[ShardCheck]:
    if workers == 1:
        yield from map(check_shard, paths, decoders)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(check_shard, paths, decoders)
        except BrokenProcessPool as error:
            raise FoundationError(
                "a process that checked a shard was killed, mostly because memory ran out: give fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _read_indices(paths: Sequence[Path], found: Findings) -> dict[Path, Index]:
    indices: dict[Path, Index] = {}
    for folder in dict.fromkeys(path.parent for path in paths):
        try:
            index = read_index(folder)
        except UserError as error:
            found.add([Problem(str(folder / INDEX), "index", str(error))])
            continue
        if index is None:
            text = (
                "no index.json: a shard that lost its last samples, or a changed byte, cannot be told from a good one"
            )
            found.add([Problem(str(folder), "index", text, severity="warning")])
        else:
            indices[folder] = index
    return indices


def _against_index(checks: Sequence[ShardCheck], indices: Mapping[Path, Index]) -> Iterator[Problem]:
    for folder, index in indices.items():
        entries = index.entries()
        given = {Path(check.shard).name: check for check in checks if Path(check.shard).parent == folder}
        for name, check in given.items():
            entry = entries.get(name)
            if entry is None:
                yield Problem(check.shard, "index", f"not in {folder / INDEX}; a run would read it nevertheless")
                continue
            for what, says, has in (("bytes", entry.bytes, check.bytes), ("samples", entry.samples, check.samples)):
                if says != has:
                    yield Problem(check.shard, "index", f"has {has:,} {what}, index.json says {says:,}")
            if check.sha256 and check.sha256 != entry.sha256:
                text = f"SHA-256 is {check.sha256[:12]}..., index.json says {entry.sha256[:12]}...: bytes have changed"
                yield Problem(check.shard, "corrupt", text)
        for split in index.splits.values():
            names = [entry.file for entry in split]
            if any(name in given for name in names):
                for name in names:
                    if name not in given and not (folder / name).exists():
                        yield Problem(str(folder / name), "missing", "listed in index.json, but not there")


def _same_bytes(checks: Sequence[ShardCheck]) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for check in checks:
        if check.sha256 and check.samples:
            twin = first.setdefault(check.sha256, check.shard)
            if twin != check.shard:
                yield Problem(check.shard, "duplicate", f"the same bytes as {twin}: every sample would count twice")


def _members(checks: Sequence[ShardCheck]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for check in checks:
        for extensions, group in check.layouts.items():
            for extension in extensions:
                counts[extension] += group.count
    return counts


def _lacking(checks: Sequence[ShardCheck], wanted: Sequence[str], modality: str) -> Iterator[Problem]:
    """Samples without a member that they ought to have."""

    def kinds(extensions: Iterable[str]) -> set[str]:
        return {kind_of(extension, modality) for extension in extensions}

    have: Counter[str] = Counter()
    for check in checks:
        for extensions, group in check.layouts.items():
            have.update({kind: group.count for kind in kinds(extensions)})
    total = sum(check.samples for check in checks)
    expected = kinds(name.lstrip(".").lower() for name in wanted) or {k for k, n in have.items() if n * 2 >= total}
    for check in checks:
        for extensions, group in check.layouts.items():
            for kind in sorted(expected - kinds(extensions)):
                said = "every sample must have one" if wanted else f"{have[kind]:,} of {total:,} samples have one"
                listed = ", ".join(f".{extension}" for extension in extensions)
                more = f" (and {group.count - len(group.keys)} more like it)" if group.count > len(group.keys) else ""
                for index, key in enumerate(group.keys):
                    last = index == len(group.keys) - 1
                    text = f"no {kind} member (members: {listed}); {said}{more if last else ''}"
                    # A run can do without labels, unless whoever asks for this check cannot.
                    severity: Literal["error", "warning"] = "warning" if kind == ".cls" and not wanted else "error"
                    yield Problem(check.shard, "missing", text, key, severity=severity)


def _unlike_fellows(checks: Sequence[ShardCheck], decoded: bool) -> Iterator[Problem]:
    """Arrays whose number type, axes or rate differ from those of most others with their extension.

    Another type or rate of an array that a modality has decoded is a warning: training casts and resamples it likewise.
    """
    by_name: dict[tuple[str, str], Counter[ArrayFacts]] = {}
    for check in checks:
        for (extension, facts), group in check.arrays.items():
            by_name.setdefault((extension, facts.name), Counter())[facts] += group.count
    usual = {name: _usual(counts) for name, counts in by_name.items()}
    for check in checks:
        for (extension, facts), group in check.arrays.items():
            odd = usual[extension, facts.name](facts)
            if odd:
                severity: Literal["error", "warning"] = (
                    "warning" if decoded and not odd.startswith("shape") else "error"
                )
                for key in group.keys:
                    text = f"member .{extension}: {odd}"
                    yield Problem(check.shard, "shape", text, key, f"{key}.{extension}", severity)


def _usual(counts: Counter[ArrayFacts]) -> Callable[[ArrayFacts], str]:
    """What is odd about an array among these; empty when nothing is."""
    total = counts.total()

    def commonest(of: Callable[[ArrayFacts], Any], share: float) -> Any:
        values: Counter[Any] = Counter()
        for facts, number in counts.items():
            values[of(facts)] += number
        value, number = values.most_common(1)[0]
        return value if number >= share * total else None

    dtype, axes = commonest(lambda facts: facts.dtype, 0.5), commonest(lambda facts: len(facts.shape), 0.5)
    rate = commonest(lambda facts: facts.rate, 0.5)
    sizes = [commonest(_axis(axis), _NEARLY_ALL) for axis in range(axes or 0)]

    def odd(facts: ArrayFacts) -> str:
        if dtype is not None and facts.dtype != dtype:
            return f"numbers of type {facts.dtype}, most others have {dtype}"
        if axes is not None and len(facts.shape) != axes:
            return f"shape {list(facts.shape)}, most others have {axes} axes"
        if rate is not None and facts.rate != rate:
            return f"{facts.rate} samples per second, most others have {rate}"
        for axis, size in enumerate(sizes):
            if size is not None and facts.shape[axis] != size:
                return f"shape {list(facts.shape)}, most others have {size} on axis {axis}"
        return ""

    return odd


def _axis(number: int) -> Callable[[ArrayFacts], int | None]:
    return lambda facts: facts.shape[number] if number < len(facts.shape) else None
