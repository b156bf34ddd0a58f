"""From a data set's own files to shards: finds the recipe of a data set in ``datasets/`` and writes what it yields.

A data set is one Python file with

- ``CARD``: dict with ``title, licence, source, citation, modality, splits, layout, size``;
- ``add_arguments(parser)``: its options;
- ``samples(arguments) -> Mapping[split, Iterable[sample]]``: a sample is ``{"__key__": ..., extension: bytes, ...}``.
  An iterable with ``len`` gets a progress bar with an end. One with ``left_out`` (a :class:`Tally`) or ``problems``
  (list of text) has reported what it could not use, one with ``notes`` (a Tally) what is worth knowing of the rest;
  one with ``bytes`` (of its files) is refused before anything is written where the disk has less room;
- optionally ``CARD["recipes"]``, of a person's own files: shipped recipes to begin with, by ``cpu`` and ``gpu``;
- optionally ``classes(arguments) -> list[str]``: names of the labels, asked for after ``samples``;
- optionally ``decoding(arguments) -> dict``: settings of the modality's decoder with which the shards are read, where
  the default ones do not fit; ``data verify`` and ``data statistics`` follow them.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from types import ModuleType
from typing import Any

from foundation import paths
from foundation.data.index import Index
from foundation.data.tally import Tally
from foundation.data.write import write_splits
from foundation.errors import REASONS, UserError
from foundation.plugins import near
from foundation.redact import redact

_CARD_KEYS = ("title", "licence", "source", "citation", "modality", "splits", "layout", "size")


@dataclass(frozen=True)
class DatasetScript:
    """A data set's file, imported.

    Attributes:
        name: of the data set.
        module: what the file defines.
    """

    name: str
    module: ModuleType

    @property
    def card(self) -> Mapping[str, Any]:
        return self.module.CARD


def available() -> dict[str, Path]:
    """Files of the data sets that come with the package, by name."""
    return {path.stem: path for path in sorted(paths.bundled("datasets").glob("*.py")) if path.stem[0] != "_"}


def shown_name(name: str) -> str:
    """A data set's name as commands and messages show it; both spellings are understood."""
    return name.replace("_", "-")


def listing(width: int) -> str:
    """What can be built, for a person: the user's own data first, then public data sets and made-up ones.

    Args:
        width: of the terminal; lines are no longer, and at most 120 characters.
    """
    cards = {name: load(name).card for name in available()}
    own = [name for name, card in cards.items() if card["source"].startswith("a folder")]
    parts = []
    for title, names in (
        ("your own data", own),
        ("public data sets and made-up ones", [name for name in cards if name not in own]),
    ):
        lines = [f"{title}:"]
        for name in names:
            card = cards[name]
            facts = f"{card['modality']}; {', '.join(card['splits'])}; {card['size']}; licence: {card['licence']}"
            lines.append(f"  {shown_name(name)}")
            for text in (card["title"], facts):
                indent = " " * 6
                lines.append(
                    fill(text, min(width, 120), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
                )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def load(name: str) -> DatasetScript:
    """Import a data set's file.

    Args:
        name: of a data set that comes with the package, or the path of a file.

    Raises:
        UserError: there is none of that name, or the file lacks a part.
    """
    known = available()
    shown = [shown_name(each) for each in known]
    if name.replace("-", "_") in known:
        path = known[name.replace("-", "_")]
    elif name.endswith(".py"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"no such file: {path}")
    else:
        raise UserError(
            f"no data set is called {name!r}{near(shown_name(name), shown)}\n"
            f"there are: {', '.join(shown)}; or give the path of a .py file of your own"
        )
    spec = importlib.util.spec_from_file_location(f"foundation_dataset_{path.stem}", path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles of the file look themselves up here
    spec.loader.exec_module(module)
    missing = [part for part in ("CARD", "add_arguments", "samples") if not hasattr(module, part)]
    missing += [f"CARD[{key!r}]" for key in _CARD_KEYS if key not in getattr(module, "CARD", {})]
    if missing:
        raise UserError(f"{path} is not a data set: it does not define {', '.join(missing)}")
    return DatasetScript(path.stem, module)


@dataclass(frozen=True)
class Built:
    """What came of a build.

    Attributes:
        index: as written.
        left_out: files that could not be used, by reason.
        notes: what the decoders had to say about files that can be used.
    """

    index: Index
    left_out: Tally
    notes: Tally


def build(
    dataset: DatasetScript,
    out: Path,
    arguments: argparse.Namespace,
    *,
    samples_per_shard: int,
    max_bytes: int,
    overwrite: bool = False,
    progress: Callable[[str, Iterable[Any]], Iterable[Any]] | None = None,
) -> Built:
    """Write a data set as shards.

    Args:
        dataset: what to write.
        out: folder of the shards.
        arguments: the data set's options, parsed.
        samples_per_shard: at most.
        max_bytes: of a shard, at most.
        overwrite: replace splits that exist.
        progress: wraps the samples of a split for display.

    Raises:
        UserError: an option cannot work, a split exists or keeps no file, or the disk has no room.
    """
    splits = dataset.module.samples(arguments)
    classes = dataset.module.classes(arguments) if hasattr(dataset.module, "classes") else ()
    shown = {split: _Shown(split, samples, progress) for split, samples in splits.items()}
    # Paths stay out: where the source lay on one machine says nothing about the shards.
    options = {
        key: redact(value) if isinstance(value, str) else value
        for key, value in vars(arguments).items()
        if isinstance(value, bool | int | float | str | list | tuple)
    }

    def about() -> dict[str, Any]:
        facts = {"dataset": dataset.name, "card": dict(dataset.card), "options": options}
        left_out = _tally(splits.values(), "left_out")
        facts |= {"left_out": left_out.to_json()} if left_out.total else {}
        decode = dataset.module.decoding(arguments) if hasattr(dataset.module, "decoding") else {}
        return facts | ({"decode": dict(decode)} if decode else {})

    index = write_splits(
        shown,
        out,
        samples_per_shard=samples_per_shard,
        max_bytes=max_bytes,
        overwrite=overwrite,
        classes=classes,
        about=about,
        expected_bytes=sum(getattr(samples, "bytes", 0) for samples in splits.values()),
    )
    return Built(index, _tally(splits.values(), "left_out"), _tally(splits.values(), "notes"))


def _tally(splits: Iterable[Any], name: str) -> Tally:
    """Those of all splits; splits that come from one folder share one."""
    result, seen = Tally(), set()
    for samples in splits:
        tally = getattr(samples, name, None)
        if isinstance(tally, Tally):
            if id(tally) not in seen:
                result.merge(tally)
            seen.add(id(tally))
        elif name == "left_out":
            for problem in getattr(samples, "problems", ()):
                file, _, rest = problem.partition(": ")
                reason, _, detail = rest.partition(": ")
                result.add(*((reason, file, detail) if reason in REASONS else ("unusable", problem)))
    return result


@dataclass(frozen=True)
class _Shown:
    split: str
    samples: Iterable[Any]
    progress: Callable[[str, Iterable[Any]], Iterable[Any]] | None

    def __iter__(self) -> Iterator[Any]:
        number = 0
        for sample in self.samples if self.progress is None else self.progress(self.split, self.samples):
            number += 1
            yield sample
        if not number and (left_out := _tally([self.samples], "left_out")).total:
            lines = "\n  ".join(left_out.lines())
            raise UserError(f"the split {self.split!r} has no samples, every file was left out:\n  {lines}")
