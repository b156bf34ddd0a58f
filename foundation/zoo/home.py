"""The folder that models are pulled into, shared by all processes of a user.

::

    FOUNDATION_HOME/                   ~/.cache/foundation unless the variable says otherwise
      models/NAME/                     a model: its files, as its card names them
      models/NAME/.pulled.json         its card, and the zoo that it came from
      models/NAME/.FILE.<digest>.part  a file on its way; gone on with by the next pull
      locks/NAME                       held by who pulls or removes
      sums/<key>                       which file has been checked, by its size, time of change and inode
      zoos/<key>.json                  the last index of a zoo on the network, for when there is none
      mirrors.yaml                     addresses to try in place of others, by their beginnings
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from foundation import config, hub_access, schema
from foundation.data.addresses import is_remote
from foundation.data.download import Expected
from foundation.data.sums import Facts, Sums
from foundation.errors import UserError
from foundation.files import held, replace_json
from foundation.hub_access import OFFLINE_VARIABLE, is_offline
from foundation.paths import user_cache
from foundation.redact import redact
from foundation.zoo.entry import Entry, check_name, from_plain, is_name, to_plain

HOME_VARIABLE = "FOUNDATION_HOME"
MIRRORS_VARIABLE = "FOUNDATION_MIRRORS"
_PULLED = ".pulled.json"


class _Pulled(TypedDict):
    """What is kept of a model that was pulled."""

    origin: str
    card: dict[str, Any]
    format: NotRequired[int]


class Home:
    """The folder with pulled models.

    Args:
        folder: None: what ``FOUNDATION_HOME`` says, else ``foundation`` in the user's cache folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        given = os.environ.get(HOME_VARIABLE)
        self.folder = folder or (Path(given).expanduser() if given else user_cache())
        self._sums = Sums(self.folder / "sums")

    def model(self, name: str) -> Path:
        """Folder of a model, which need not be there.

        Raises:
            UserError: it is no name of a model.
        """
        return self.folder / "models" / check_name(name)

    def names(self) -> list[str]:
        """Models that have been pulled."""
        found = (path.parent.name for path in (self.folder / "models").glob(f"*/{_PULLED}"))
        return sorted(name for name in found if is_name(name))

    def pulled(self, name: str) -> tuple[Entry, str] | None:
        """Card of a pulled model and the zoo that it came from; None where there is none.

        Raises:
            UserError: what was left of it is damaged.
        """
        path = self.model(name) / _PULLED
        try:
            found = schema.read_json(_Pulled, path)
            entry = from_plain(found["card"], str(path))
        except FileNotFoundError:
            return None
        except UserError as error:
            if self.folder.exists() and not self.folder.is_dir():
                raise UserError(f"{self.folder} is no folder: set {HOME_VARIABLE} to one") from None
            raise UserError(f"{error}: 'foundation zoo remove {name}', and pull it again") from None
        if entry.name != name:
            raise UserError(f"{path} is the card of {entry.name!r}: 'foundation zoo remove {name}', and pull it again")
        return entry, found["origin"]

    def note(self, entry: Entry, origin: str) -> None:
        """Remember the card of a model whose files are all there."""
        content = {"format": 1, "origin": redact(origin), "card": to_plain(entry)}
        replace_json(self.model(entry.name) / _PULLED, content)

    @contextmanager
    def lock(self, name: str, waiting: Callable[[], object] | None = None) -> Iterator[None]:
        """Hold the lock of a model; others wait.

        Raises:
            UserError: the folder cannot be written.
        """
        path = self.folder / "locks" / check_name(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UserError(self.unusable(error)) from None
        try:
            with held(descriptor, waiting=waiting):
                yield
        finally:
            os.close(descriptor)

    def unusable(self, error: OSError) -> str:
        """The words for a folder that cannot be used."""
        return f"{self.folder} cannot be written ({error.strerror}): set {HOME_VARIABLE} to a folder that can"

    def known_digest(self, path: Path) -> str:
        """SHA-256 of a file that was checked and has not been changed since; empty where nobody knows it."""
        try:
            found, facts = self._sums.known(_key(path)), Facts.of(os.stat(path))
        except OSError:
            return ""
        return found[0] if found is not None and facts is not None and found[1] == facts else ""

    def remember(self, path: Path, digest: str) -> None:
        """A file has been read whole and has this SHA-256."""
        facts = Facts.of(os.stat(path))
        if facts is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sums.note(_key(path), digest, facts)

    def forget(self, path: Path) -> None:
        """A file is gone, or in doubt."""
        self._sums.forget(_key(path))

    def has(self, path: Path, expected: Expected) -> bool:
        """Whether a file is there and was found to have this size and SHA-256."""
        known = self.known_digest(path)
        return bool(known) and known == expected.sha256 and path.stat().st_size == expected.size

    def index(self, address: str) -> Path:
        """Where the last index of a zoo on the network is kept."""
        return self.folder / "zoos" / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.json"


def _key(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]


def is_forbidden(address: str) -> str:
    """Name of the variable that forbids to ask this address; empty where none does."""
    if not is_remote(address) or address.startswith("file://"):
        return ""
    return hub_access.forbidden() if address.startswith("hf://") else OFFLINE_VARIABLE if is_offline() else ""


def mirrors(home: Home) -> list[tuple[str, str]]:
    """Beginnings of addresses and what stands in their place, longest first.

    From ``FOUNDATION_MIRRORS="https://a/=file:///b/ hf://=https://c/"`` and from ``mirrors.yaml`` in the home, a
    mapping.

    Raises:
        UserError: one of them is no pair of addresses.
    """
    path = home.folder / "mirrors.yaml"
    try:
        plain: dict[str, Any] = config.read_plain(path)
    except FileNotFoundError:
        plain = {}
    except UserError as error:
        raise UserError(f"{error}; a line of it is such as https://models.example.org/: file:///mnt/models/") from None
    pairs = [(str(prefix), str(to), str(path)) for prefix, to in plain.items()]
    for word in os.environ.get(MIRRORS_VARIABLE, "").split():
        prefix, _, to = word.partition("=")
        pairs.append((prefix, to, MIRRORS_VARIABLE))
    for prefix, to, where in pairs:
        if not is_remote(prefix) or not (is_remote(to) or to.startswith("/")):
            raise UserError(
                f"{where}: {redact(prefix)!r} to {redact(to)!r}: a mirror is written BEGINNING=OTHER, such as "
                "https://models.example.org/=file:///mnt/models/"
            )
    return sorted(((prefix, to) for prefix, to, _ in pairs), key=lambda pair: -len(pair[0]))


def mirrored(address: str, pairs: list[tuple[str, str]]) -> list[str]:
    """The addresses to try for one, in their order: its mirrors, and then itself."""
    return [*(to + address[len(prefix) :] for prefix, to in pairs if address.startswith(prefix)), address]


def absolute(base: str, source: str) -> str:
    """Address or path of a source that a card names.

    Args:
        base: folder or address of the zoo that the card lies in.
        source: an address, or a path beside the card.
    """
    if is_remote(source):
        return source
    return f"{base.rstrip('/')}/{source}"
