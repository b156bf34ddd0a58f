"""Spoken digits (Free Spoken Digit Dataset), from the published folder or from shards of it; also as strings of digits.

Layouts::

    free-spoken-digit-dataset/recordings/7_theo_12.wav      8 kHz; digit, speaker, number of the recording
    shards/train-000000.tar, shards/test-000000.tar         what this file writes; to split anew or to make strings

``--hold-out`` puts whole speakers into the test split: a harder test than the official one, whose speakers are known.
``--strings 4`` joins four recordings of a speaker with pauses between and says what is heard when (``events`` in the
json): for models that are measured frame by frame.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from foundation import counter
from foundation.data.items import decoder_of, tried
from foundation.data.tally import Tally
from foundation.data.walk import is_hidden
from foundation.errors import SampleError, UserError
from foundation.ranges import CountOrNone, SecondsOrNever, Seed, argument

CARD = {
    "title": "Free Spoken Digit Dataset",
    "licence": "CC BY-SA 4.0",
    "source": "https://github.com/Jakobovski/free-spoken-digit-dataset",
    "citation": "Z. Jackson and contributors, Free Spoken Digit Dataset (FSDD), 2016-2020",
    "modality": "audio",
    "splits": ["train", "test"],
    "layout": "flac (8 kHz), cls, json (label, speaker, index); strings: flac, json (speaker, events in seconds)",
    "size": "2,700 + 300 recordings of half a second by 6 speakers, 12 MB",
}
_NAME = re.compile(r"([0-9])_([a-z]+)_([0-9]+)")
_OFFICIAL_TEST = 5  # recordings 0 to 4 of each digit and speaker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="folder with recordings/, or with shards (.tar)")
    parser.add_argument("--hold-out", default="", help="speakers of the test split, with commas between")
    parser.add_argument(
        "--strings", type=argument(CountOrNone), default=0, help="digits of a string; 0: single recordings (default: 0)"
    )
    parser.add_argument(
        "--pause",
        type=argument(SecondsOrNever),
        nargs=2,
        default=(0.05, 0.3),
        metavar=("MIN", "MAX"),
        help="seconds between two digits",
    )
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of the order and the strings (default: 0)")


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the labels, in order."""
    return [str(digit) for digit in range(10)]


@dataclass(frozen=True)
class _Recording:
    """One file: digit, speaker, number, and where its bytes are."""

    digit: int
    speaker: str
    index: int
    place: Any

    @property
    def key(self) -> str:
        return f"{self.digit}_{self.speaker}_{self.index}"

    def read(self) -> tuple[str, bytes]:
        """Extension and bytes."""
        if isinstance(self.place, Path):
            return self.place.suffix[1:].lower(), self.place.read_bytes()
        shards, number = self.place
        raw = shards.read(*shards.locate(number))
        name = next(name for name in ("flac", "wav") if name in raw)
        return name, raw[name]


def _is_sound(path: Path) -> bool:
    return path.suffix.lower() in (".wav", ".flac") and not is_hidden(path.name)


@lru_cache(maxsize=4)
def _scan(root: Path) -> tuple[_Recording, ...]:
    if not root.is_dir():
        raise UserError(f"--root {root}: there is no such folder")
    found = []
    if any(root.glob("*.tar")):
        from foundation.data.shards import open_shards

        shards = open_shards([str(root / "*.tar")])
        for number in range(shards.num_samples):
            key = shards.read(*shards.locate(number))["__key__"]
            found.append((key, (shards, number)))
    else:
        folder = root / "recordings" if (root / "recordings").is_dir() else root
        found = [(path.stem, path) for path in sorted(folder.iterdir()) if _is_sound(path)]
    recordings = []
    for key, place in found:
        match = _NAME.fullmatch(key)
        if match:
            recordings.append(_Recording(int(match[1]), match[2], int(match[3]), place))
    if not recordings:
        raise UserError(f"--root {root}: no recordings called DIGIT_SPEAKER_NUMBER, such as 7_theo_12.wav")
    return tuple(sorted(recordings, key=lambda item: (item.speaker, item.digit, item.index)))


def samples(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """The splits.

    Raises:
        UserError: nothing found, an unknown speaker, or an impossible option.
    """
    recordings = _scan(arguments.root)
    speakers = sorted({item.speaker for item in recordings})
    held = [name.strip() for name in arguments.hold_out.split(",") if name.strip()]
    unknown = [name for name in held if name not in speakers]
    if unknown:
        raise UserError(f"--hold-out {', '.join(unknown)}: no such speaker (there are: {', '.join(speakers)})")
    low, high = arguments.pause
    if arguments.strings < 0 or not 0 <= low <= high:
        raise UserError(f"--strings {arguments.strings} --pause {low:g} {high:g}: give 0 or more, and 0 <= MIN <= MAX")
    splits: dict[str, list[_Recording]] = {"train": [], "test": []}
    for item in recordings:
        test = item.speaker in held if held else item.index < _OFFICIAL_TEST
        splits["test" if test else "train"].append(item)
    for split, items in splits.items():
        if not items:
            raise UserError(f"the split {split!r} is empty: hold out fewer speakers, or none")
    kind = _Strings if arguments.strings else _Singles
    return {split: kind(split, items, arguments) for split, items in splits.items()}


@dataclass
class _Singles:
    """Single recordings of a split, in random order."""

    split: str
    items: list[_Recording]
    arguments: argparse.Namespace
    left_out: Tally = field(default_factory=Tally)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        order = counter.permutation(self.arguments.seed, 0, 0, f"digits.order.{self.split}", len(self.items))
        decode = decoder_of("audio")
        for row in order.tolist():
            item = self.items[row]
            facts = {"label": item.digit, "speaker": item.speaker, "index": item.index}
            try:
                extension, data = item.read()
                sample = {
                    "__key__": item.key,
                    extension: data,
                    "cls": str(item.digit).encode(),
                    "json": json.dumps(facts).encode(),
                }
                tried(decode, sample)
            except OSError as error:
                self.left_out.add("unreadable", item.key, error.strerror or str(error))
            except SampleError as error:
                self.left_out.add(error.reason, item.key, error.detail)
            else:
                yield sample


@dataclass
class _Strings:
    """Strings of digits of one speaker each; every recording is heard once, a rest that fills no string is left out."""

    split: str
    items: list[_Recording]
    arguments: argparse.Namespace
    left_out: Tally = field(default_factory=Tally)

    def _groups(self) -> list[list[_Recording]]:
        seed, length = self.arguments.seed, self.arguments.strings
        groups = []
        for speaker in sorted({item.speaker for item in self.items}):
            own = [item for item in self.items if item.speaker == speaker]
            order = counter.permutation(seed, 0, 0, f"digits.strings.{self.split}.{speaker}", len(own)).tolist()
            groups += [[own[row] for row in order[i : i + length]] for i in range(0, len(own) - length + 1, length)]
        if not groups:
            raise UserError(f"--strings {length}: no speaker of the split {self.split!r} has so many recordings")
        order = counter.permutation(seed, 0, 0, f"digits.order.{self.split}", len(groups)).tolist()
        return [groups[row] for row in order]

    def __len__(self) -> int:
        return len(self._groups())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from foundation.modalities.audio.decode import AudioError, decode_bytes, library

        soundfile = library()
        low, high = self.arguments.pause
        for number, group in enumerate(self._groups()):
            chance = counter.uniform(self.arguments.seed, 0, [number], f"digits.pause.{self.split}", len(group) + 1)[0]
            pauses = low + (high - low) * chance
            try:
                waves = [decode_bytes(item.read()[1]) for item in group]
            except (AudioError, OSError) as error:
                self.left_out.add("unusable", f"a string of {', '.join(item.key for item in group)}", str(error))
                continue
            rate, parts, events, now = waves[0][1], [], [], 0
            for item, (wave, own), pause in zip(group, waves, pauses, strict=False):
                if own != rate:
                    raise UserError(f"{item.key} has {own} Hz and others {rate} Hz: the set is not what it should be")
                quiet = np.zeros(round(pause * rate), np.float32)
                begin = now + len(quiet)
                now = begin + len(wave)
                parts += [quiet, wave]
                events.append({"label": item.digit, "onset": round(begin / rate, 4), "offset": round(now / rate, 4)})
            parts.append(np.zeros(round(pauses[-1] * rate), np.float32))
            buffer = io.BytesIO()
            soundfile.write(buffer, np.concatenate(parts), rate, format="FLAC", subtype="PCM_16")
            digits = "".join(str(item.digit) for item in group)
            facts = {"speaker": group[0].speaker, "events": events}
            yield {
                "__key__": f"{self.split}_{number:05d}_{group[0].speaker}_{digits}",
                "flac": buffer.getvalue(),
                "json": json.dumps(facts).encode(),
            }
