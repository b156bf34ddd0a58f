"""Which files a modality reads: the one table of extensions, each modality's ``decode.EXTENSIONS``.

Builders take these files, ``data verify`` knows by them what stands for what (``.jpg`` and ``.png`` are both a
picture), and a test compares the pages of the modalities with them.
"""

from __future__ import annotations

from functools import lru_cache

from foundation.plugins import available, resolve

_ROOM = "foundation.modalities.{name}.decode"
_WORDS = {"image": "picture", "audio": "sound", "video": "film", "points": "cloud", "imu": "recording"}
"""What a member is called in messages, where that is not the modality's name. In order: what several modalities read,
such as GIF, is taken for the first of them where nobody says whose samples they are."""


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
