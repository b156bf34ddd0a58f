"""One road for every file of the zoo: a part that is gone on with, size and SHA-256, and then its name at once."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from foundation.data.addresses import RemoteError, is_full, shown
from foundation.data.download import Download, Expected
from foundation.data.part_owner import FREE, alive, owner
from foundation.errors import UserError
from foundation.files import sync_folder
from foundation.voice import duration, to_stderr
from foundation.zoo.entry import Entry, File
from foundation.zoo.home import (
    HOME_VARIABLE,
    MIRRORS_VARIABLE,
    OFFLINE_VARIABLE,
    Home,
    absolute,
    is_forbidden,
    mirrored,
    mirrors,
)
from foundation.zoo.sources import source_of

_SECONDS = 20.0  # between two lines about a download, where no bar can be shown
_RESERVE = 16 << 20  # bytes of a disk that a download leaves free


def pull(entry: Entry, base: str, origin: str, home: Home, heads: bool = False) -> list[Path]:
    """Get the files of a model that are not there yet, one after the other, while others who want them wait.

    Args:
        entry: the model.
        base: folder or address that its card lies in.
        origin: of the card, for those who ask later.
        home: where they go.
        heads: the heads too, where there are some; those of an earlier pull are always brought up to date.

    Returns:
        The files.

    Raises:
        UserError: one cannot be had: says of each source why; nothing else was changed.
    """
    folder = home.model(entry.name)

    def waiting() -> None:
        to_stderr(f"{entry.name}: another process is pulling it; waiting")

    with home.lock(entry.name, waiting):
        old = _files_before(entry.name, home)
        wanted = [file for file in entry.files if file in entry.needed or heads or (folder / file.name).exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file in wanted:
                _get(entry, file, base, folder, home)
            home.note(entry, origin)
        except OSError as error:
            raise UserError(_no_room(home, error) if is_full(error) else home.unusable(error)) from None
        _tidy(folder, old - {file.name for file in entry.files})
    return [folder / file.name for file in wanted]


def _files_before(name: str, home: Home) -> set[str]:
    """Names of the files that an earlier pull brought."""
    try:
        before = home.pulled(name)
    except UserError:  # its card is damaged, and written anew now
        return set()
    return set() if before is None else {file.name for file in before[0].files}


def is_here(entry: Entry, home: Home, heads: bool = False) -> bool:
    """Whether the files of a model, with ``heads`` those too, are there as its card says; files that nobody has looked
    at are read whole."""
    folder = home.model(entry.name)
    return all(not trouble(folder / file.name, file, home) for file in (entry.files if heads else entry.needed))


def trouble(path: Path, file: File, home: Home, again: bool = False) -> str:
    """What is wrong with a file; empty where nothing is.

    Args:
        path: of the file.
        file: what its card says.
        home: remembers what was checked.
        again: read it whole, though it was checked before.
    """
    expected = Expected(file.size, file.sha256)
    if not again and home.has(path, expected):
        return ""
    try:
        size = path.stat().st_size
        if size != file.size:
            return f"it has {size:,} bytes, its card says {file.size:,}"
        digest = digest_of(path)
    except FileNotFoundError:
        return "not there"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if digest != file.sha256:
        home.forget(path)
        return f"its SHA-256 is {digest[:16]}..., its card says {file.sha256[:16]}..."
    with suppress(OSError):  # a home that can only be read is of use too
        home.remember(path, digest)
    return ""


def digest_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _get(entry: Entry, file: File, base: str, folder: Path, home: Home) -> None:
    target = folder / file.name
    if not trouble(target, file, home):
        return
    part = _begin(folder, file)
    try:
        _from_any(entry, file, base, part, target, home)
    finally:
        _release(part, folder, file)


def _begin(folder: Path, file: File) -> Path:
    """A part of this process's own, with what an earlier one left: where a file system has no locks, two never write
    into the same file."""
    mine = folder / f"{_stem(file)}{owner()}.part"
    for left in sorted(folder.glob(f"{_stem(file)}*.part")):
        if not alive(left.name.removeprefix(_stem(file)).removesuffix(".part"), left):
            with suppress(OSError):
                os.rename(left, mine)
                return mine
    mine.touch()
    return mine


def _release(part: Path, folder: Path, file: File) -> None:
    """Leave a part for the next attempt, of whichever process."""
    with suppress(OSError):
        if part.stat().st_size:
            os.replace(part, folder / f"{_stem(file)}{FREE}.part")
        else:
            part.unlink()


def _stem(file: File) -> str:
    return f".{file.name}.{file.sha256[:16]}."


def _from_any(entry: Entry, file: File, base: str, part: Path, target: Path, home: Home) -> None:
    """From the first place that has it."""
    addresses = [address for source in file.sources for address in mirrored(absolute(base, source), mirrors(home))]
    failures: list[str] = []
    for address in dict.fromkeys(addresses):
        if variable := is_forbidden(address):
            failures.append(f"{shown(address)}: not asked, as {variable} is set")
            continue
        _check_room(home, file, part)
        try:
            _download(address, part, file, f"{entry.name}/{file.name}")
        except RemoteError as error:
            if error.reason == "corrupt":
                os.truncate(part, 0)
            failures.append(f"{error.address}: {error.detail}")
            continue
        os.replace(part, target)
        sync_folder(target.parent)
        home.remember(target, file.sha256)
        return
    raise UserError(_advice(entry, file, failures))


def _download(address: str, part: Path, file: File, name: str) -> None:
    there, storage = source_of(address)
    expected = Expected(file.size, file.sha256)
    with _progress(name, file.size, part.stat().st_size, address) as tell:
        Download(there, part, expected, lambda: None, storage, tell, "its card").run()


def _advice(entry: Entry, file: File, failures: list[str]) -> str:
    lines = [f"{entry.name}: {file.name} cannot be had", *(f"  {failure}" for failure in failures)]
    if any("SHA-256" in failure or "more bytes" in failure for failure in failures):
        lines.append("What came is not what the card promises; it was thrown away. Tell who published the model")
    elif any(OFFLINE_VARIABLE in failure for failure in failures):
        lines.append(f"Unset {OFFLINE_VARIABLE}, or pull it on a machine with a network and copy its {HOME_VARIABLE}")
    else:
        lines.append(
            "What came so far is kept: the same command goes on from there. Without a network, name a mirror "
            f"({MIRRORS_VARIABLE}, docs/use-the-zoo.md), or copy the {HOME_VARIABLE} of a machine that has the model"
        )
    return "\n".join(lines)


def _check_room(home: Home, file: File, part: Path) -> None:
    there = part.stat().st_size
    free = shutil.disk_usage(part.parent).free
    if file.size - there + _RESERVE > free:
        raise UserError(
            f"no room for {file.name} ({file.size:,} bytes, {there:,} of them there): {free:,} bytes are free in "
            f"{home.folder}. Make room ('foundation zoo list --pulled' shows what is there), or set {HOME_VARIABLE}"
        )


def _no_room(home: Home, error: OSError) -> str:
    return (
        f"no room in {home.folder} ({error.strerror}): what came so far is kept. Make room ('foundation zoo list "
        f"--pulled' shows what is there), or set {HOME_VARIABLE} to another disk"
    )


def _tidy(folder: Path, old: set[str]) -> None:
    """Remove files of an older version of the model, and parts of it. What else lies there is not ours: the folder may
    be a link to one of the user's."""
    for path in folder.iterdir():
        if (path.name in old or path.name.endswith(f".{FREE}.part")) and (path.is_file() or path.is_symlink()):
            path.unlink(missing_ok=True)


@contextmanager
def _progress(name: str, size: int, begin: int, address: str) -> Iterator[Callable[[int], object]]:
    """Shows a download: a bar on a terminal, else a line at its beginning and now and then."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=size, initial=begin, desc=name, unit="B", unit_scale=True, leave=False) as bar:
            yield lambda done: bar.update(done - bar.n)
        return
    begun = said = time.monotonic()
    on = f", {begin:,} of them there" if begin else ""
    to_stderr(f"pulling {name} ({size:,} bytes{on}) from {shown(address)}")

    def tell(done: int) -> None:
        nonlocal said
        if time.monotonic() - said >= _SECONDS:
            said = time.monotonic()
            to_stderr(f"{name}: {done:,} of {size:,} bytes, {duration(said - begun)}")

    yield tell
