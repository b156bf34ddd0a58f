"""Speech Commands (Warden 2018): single words of a second, from the published folder.

Layout (either version, unpacked)::

    speech_commands_v0.02/yes/0a7c2a8d_nohash_0.wav      16 kHz, up to 1 s; the folder is the word
    speech_commands_v0.02/validation_list.txt, testing_list.txt      names of those splits; all others train
    speech_commands_v0.02/_background_noise_/...         not taken

The lists keep all recordings of a speaker in one split.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from foundation.data import folders
from foundation.data.walk import is_hidden
from foundation.errors import UserError
from foundation.ranges import Seed, argument

CARD = {
    "title": "Speech Commands",
    "licence": "CC BY 4.0",
    "source": "https://download.tensorflow.org/data/speech_commands_v0.02.tar.gz (or v0.01)",
    "citation": "P. Warden, Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition, arXiv:1804.03209",
    "modality": "audio",
    "splits": ["train", "val", "test"],
    "layout": "wav, cls, json (word, speaker)",
    "size": "version 2: 84,843 + 9,981 + 11,005 recordings of 35 words, 3.3 GB",
}
_LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="the unpacked folder, with testing_list.txt")
    parser.add_argument("--words", default="", help="only these words, with commas between (default: all)")
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of the order (default: 0)")


@lru_cache(maxsize=4)
def _words(root: Path, wanted: str) -> tuple[str, ...]:
    if not root.is_dir():
        raise UserError(f"--root {root}: there is no such folder")
    folders_there = [path.name for path in root.iterdir() if path.is_dir()]
    there = sorted(name for name in folders_there if name[0] != "_" and not is_hidden(name))
    if not there:
        raise UserError(f"--root {root}: no folders of words")
    chosen = [word.strip() for word in wanted.split(",") if word.strip()]
    unknown = [word for word in chosen if word not in there]
    if unknown:
        raise UserError(f"--words {', '.join(unknown)}: there is no such folder (there are: {', '.join(there)})")
    return tuple(chosen or there)


def classes(arguments: argparse.Namespace) -> list[str]:
    """The words, in order of the labels."""
    return list(_words(arguments.root, arguments.words))


def samples(arguments: argparse.Namespace) -> Mapping[str, folders.Split]:
    words = _words(arguments.root, arguments.words)
    listed: dict[str, str] = {}
    for split, name in _LISTS.items():
        try:
            text = (arguments.root / name).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"--root {arguments.root}: no {name} ({error.strerror})") from error
        listed |= {line.strip(): split for line in text.splitlines() if line.strip()}
    splits: dict[str, list[folders.Item]] = {"train": [], "val": [], "test": []}
    for word in words:
        for path in sorted((arguments.root / word).glob("*.wav")):
            if is_hidden(path.name):
                continue
            name = f"{word}/{path.name}"
            split = listed.get(name, "train")
            facts = {"speaker": path.stem.partition("_nohash_")[0]}
            splits[split].append(folders.Item(path, name, word, split, "wav", facts))
    if not splits["train"]:
        raise UserError(f"--root {arguments.root}: no recordings (.wav) to train on")
    found = {split: items for split, items in splits.items() if items}
    return folders.shuffled(found, list(words), arguments.seed, look, "audio")


def look(data: bytes, extension: str) -> dict[str, Any]:
    from foundation.modalities.audio.decode import facts

    return facts(data)
