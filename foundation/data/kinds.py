"""Which files a modality reads: the one table of extensions, each modality's ``decode.EXTENSIONS``.

Builders take these files, ``data verify`` knows by them what stands for what (``.jpg`` and ``.png`` are both a
picture), and a test compares the pages of the modalities with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from foundation.plugins import available, resolve

_ROOM = "foundation.modalities.{name}.decode"
_WORDS = {"image": "picture", "audio": "sound", "video": "film", "points": "cloud", "imu": "recording"}
"""What a member is called in messages, where that is not the modality's name. In order: what several modalities read,
such as GIF, is taken for the first of them where nobody says whose samples they are."""


_BUILDERS = {
    "image": "folder", "audio": "audio-folder", "video": "video-folder", "points": "point-folder", "imu": "imu-folder"
}  # fmt: skip
"""The data set of each modality that makes shards of a folder of files."""
_NOTES = "txt"
"""An extension that clouds and recordings have, and more often somebody's notes."""


@lru_cache(maxsize=64)
def extensions_of(modality: str) -> tuple[str, ...]:
    """Extensions of the files that a modality reads, without dots; empty where its samples are several files.

    Args:
        modality: built in, or of an installed package.

    Raises:
        UserError: there is no such modality.
    """
    return tuple(vars(resolve(_ROOM, modality)).get("EXTENSIONS", ()))


@lru_cache(maxsize=4096)
def kind_of(extension: str, modality: str = "") -> str:
    """What a member is: ``.jpg`` and ``.png`` are both a ``picture``, so that a set may mix them.

    Args:
        extension: of a member, in lower case; it may have a prefix (``rgb.jpg``), which stays.
        modality: whose samples these are, if that is known. Arrays and tables, which several modalities read, are
            taken for what this one reads; else they stand for themselves.
    """
    names = [modality] if modality in _order() else []  # an index may name anything, and nothing of it is imported
    names += [name for name in _order() if name not in names]
    for name in names:
        known = extensions_of(name)
        suffix = max((e for e in known if f".{extension}".endswith(f".{e}")), key=len, default=None)
        if suffix is not None and (name == modality or suffix not in _shared()):
            return extension[: len(extension) - len(suffix)] + _WORDS.get(name, name)
    return f".{extension}"


def builders_for(names: Iterable[str]) -> list[str]:
    """Data sets (of ``foundation data build``) that read most of the files of these names, the likeliest first.

    Args:
        names: of files; those that no modality reads do not count.

    Returns:
        ``["folder"]`` for pictures; more than one where several modalities read as many; empty for none.
    """
    lower = [f".{name.lower()}" for name in names if not name.lower().endswith(f".{_NOTES}")]
    known = {name: tuple(f".{extension}" for extension in extensions_of(name)) for name in _order()}
    counts = {name: sum(text.endswith(known[name]) for text in lower) for name in _BUILDERS if known[name]}
    most = max(counts.values(), default=0)
    return [_BUILDERS[name] for name, count in counts.items() if count == most and most]


@lru_cache(maxsize=1)
def _order() -> tuple[str, ...]:
    built_in = available(_ROOM)
    return tuple(sorted(built_in, key=lambda name: (list(_WORDS).index(name) if name in _WORDS else len(_WORDS), name)))


@lru_cache(maxsize=1)
def _shared() -> frozenset[str]:
    """Arrays and tables: what more than one modality reads, pictures apart."""
    pictures = set(extensions_of(_order()[0]))
    lists = [set(extensions_of(name)) for name in _order()]
    every = set().union(*lists)
    return frozenset(e for e in every if sum(e in known for known in lists) > 1 and e not in pictures)
