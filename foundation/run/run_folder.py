"""The run folder: where everything a run writes has one place."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from foundation.checkpoints import checkpoint
from foundation.errors import PeerError, UserError
from foundation.files import replace_file, temporary_name
from foundation.records import Records, append_line, replace_or_overwrite
from foundation.run import ownership
from foundation.voice import to_stderr

_FOLDERS_OF_A_RUN = ("checkpoints", "export", "probes", "tensorboard", "heartbeat", "stalls")
_FILES_OF_A_RUN = (
    "recipe.yaml", "metrics.jsonl", "status.json", "starts.jsonl", "report.html", "bad-steps.jsonl",
    "bad-samples.jsonl",
)  # fmt: skip


class RunFolder:
    """Paths of a run, the lock that keeps a second process out while one trains, and the records kept there.

    The folder may be renamed or removed while the run is going on: :meth:`follow` notices it, and every path is then
    one in the folder where the run goes on.

    Args:
        path: the folder; made when it does not exist.
        say: gets each line meant for a person.

    Attributes:
        path: where the folder lies now.
        moves: how often that has become another folder or another path.
        records: keeps what must not end a run when it cannot be written.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = to_stderr) -> None:
        self.path, self._say = path, say
        self.records, self.moves = Records(say), 0
        self._lock: int | None = None
        self._anchor: int | None = None  # the folder itself, whatever its name
        self._following = threading.Lock()
        _FOLDERS.add(self)

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def probes(self) -> Path:
        return self.path / "probes"

    def used(self) -> bool:
        """Whether a run has been here; a link that leads nowhere counts as well."""
        return any(os.path.lexists(path) for path in (self.recipe, self.checkpoints, self.metrics))

    def __enter__(self) -> RunFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = ownership.lock(self.path, self._say)
        except OSError as error:
            raise UserError(
                f"cannot write to the run folder {self.path}: {error} ({checkpoint.free_bytes(self.path):,} bytes "
                "free). Make room or see to its rights, or choose another --run"
            ) from error
        self.hold()
        return self

    def superseded(self) -> bool:
        """Whether a later start of the job that this process belongs to has the folder by now; it must not write."""
        return ownership.superseded(self.path)

    def require_ours(self) -> None:
        """Before anything is written that another start would read.

        Raises:
            PeerError: a later start of this job has the folder.
        """
        if self.superseded():
            raise PeerError(ownership.SUPERSEDED.format(path=self.path))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unlock()

    def _unlock(self) -> None:
        for descriptor in (self._lock, self._anchor):
            if descriptor is not None:
                os.close(descriptor)
        self._lock = self._anchor = None

    def hold(self) -> None:
        """From now on :meth:`follow` knows which folder is meant; called by processes that do not hold the lock."""
        if self._anchor is None:
            with contextlib.suppress(OSError):  # not there yet, or not to be seen from this machine
                self._anchor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def follow(self) -> Literal["here", "moved", "lost"]:
        """Notice that the folder has been renamed or removed, and go on where nothing is lost; any thread may ask.

        Returns:
            ``here``: nothing has happened. ``moved``: the folder has another path now, and the run goes on in it.
            ``lost``: it is gone with what it held; the run goes on in a new one, under the same path or, where a
            folder that is not the run's lies there by now, beside it. A process without the lock makes none: it only
            leaves the foreign folder alone.
        """
        with self._following:
            if self._anchor is None or self._is_opened(self.path) is not False:
                return "here"
            path = self._place()
            if path is not None:
                self._tell(
                    f"the run folder {self.path} was moved to {path} while the run was going on: it goes on there"
                )
                self.path, self.moves = path, self.moves + 1
                return "moved"
            if self._lock is not None:
                self._begin_anew()
            return "lost"

    def _is_opened(self, path: Path) -> bool | None:
        """Whether a path is the folder that was opened; None where storage does not say."""
        assert self._anchor is not None
        try:
            return os.path.samestat(os.fstat(self._anchor), os.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return None

    def _place(self) -> Path | None:
        """Where the opened folder lies now, as far as the system tells."""
        try:
            path = Path(os.readlink(f"/proc/self/fd/{self._anchor}"))
        except OSError:
            return None
        return path if self._is_opened(path) else None

    def _begin_anew(self) -> None:
        taken = self.path
        path = taken
        for number in range(1, 100):
            if not os.path.lexists(path):
                break
            path = taken.with_name(f"{taken.name}.continued-{number}")
        foreign = " and another one lies in its place" if path != taken else ""
        old_lock, old_anchor = self._lock, self._anchor
        try:
            path.mkdir(parents=True)
            lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            anchor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self.records.failed("cannot make a new run folder", path, error)
            return
        self.path, self._lock, self._anchor, self.moves = path, lock, anchor, self.moves + 1
        for descriptor in (old_lock, old_anchor):
            if descriptor is not None:
                os.close(descriptor)
        self._tell(
            f"the run folder {taken} was removed while the run was going on{foreign}: the run goes on in {path} and "
            "saves its state there at once; earlier checkpoints and metrics are gone"
        )

    def _tell(self, text: str) -> None:
        if self._lock is not None:
            self._say(f"foundation: {text}")

    def write_recipe(self, text: str, new: bool = False) -> None:
        """Keep the resolved recipe of the run.

        Args:
            text: as YAML.
            new: nothing has been learnt yet: a folder that cannot be written is refused.

        Raises:
            UserError: it cannot be written, and the run is new.
        """
        if not new:
            self.records.keep("cannot write", self.recipe, lambda: replace_file(self.recipe, text.encode()))
            return
        try:
            replace_file(self.recipe, text.encode())
        except OSError as error:
            raise self._refused(error, len(text.encode())) from error

    def require_free_bytes(self, needed: int) -> None:
        """Refuse a folder in which not even a first checkpoint could be written.

        Args:
            needed: bytes of a checkpoint.

        Raises:
            UserError: naming the folder, the bytes needed and those that are free.
        """
        probe = temporary_name(self.path / "room")
        try:
            probe.write_bytes(bytes(4096))
        except OSError as error:
            raise self._refused(error, needed) from error
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
        if checkpoint.free_bytes(self.checkpoints) < needed:  # which may be a link to another disk
            raise self._refused("no room for a checkpoint", needed, self.checkpoints)

    def _refused(self, reason: object, needed: int, path: Path | None = None) -> UserError:
        free = checkpoint.free_bytes(self.path if path is None else path)
        return UserError(
            f"cannot write to the run folder {path or self.path}: {reason} (needs {needed:,} bytes, {free:,} free). "
            "Nothing has been learnt yet: make room or see to its rights, or choose another --run"
        )

    def clear(self) -> None:
        """Remove what a run wrote here, and nothing else. A link goes; what it leads to is another's and stays.

        Raises:
            UserError: something could not be removed, so that a new run would go on from it or mix with it.
        """
        for name in (*_FOLDERS_OF_A_RUN, *_FILES_OF_A_RUN):
            path = self.path / name
            try:
                if path.is_symlink():
                    target = os.readlink(path)
                    path.unlink()
                    self._say(f"foundation: {path} was a link to {target}: the link is removed, {target} is left alone")
                elif path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(
                    f"cannot remove {path} of the run before ({error}): remove it yourself, or choose another --run"
                ) from error

    def append(self, name: str, content: Mapping[str, Any]) -> bool:
        """Add a line of JSON to a file of the folder; whether it could be written.

        Raises:
            PeerError: a later start of this job has the folder.
        """
        self.require_ours()
        path = self.path / name
        return self.records.keep("cannot write", path, lambda: append_line(path, content))

    def write_status(self, state: str, **values: Any) -> None:
        """Say in ``status.json`` how the run stands (``running``, ``done``, ``stopped``, ``failed``), where it can."""
        self.follow()
        if self.superseded():  # the word of another start stands there
            return
        content = {"state": state, "time": time.time(), "pid": os.getpid(), **values}
        text = json.dumps(content, indent=1).encode()
        self.records.keep("cannot write", self.status, lambda: replace_or_overwrite(self.status, text))


_FOLDERS: weakref.WeakSet[RunFolder] = weakref.WeakSet()


def _forget_locks() -> None:
    """A forked loader worker shares the lock; one that outlives its killed run would keep the next one out."""
    for folder in list(_FOLDERS):
        folder._unlock()


os.register_at_fork(after_in_child=_forget_locks)
