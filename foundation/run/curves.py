"""Curves for TensorBoard: event files written through an open file, so that a full disk or a renamed folder is no end.

TensorBoard's own writer opens its file anew by its path for every write, in a thread that prints a traceback and dies.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

_NUMBERS = itertools.count()


class Curves:
    """Appends to an event file of its own in a folder.

    Args:
        folder: made when it does not exist.
        purge_step: what earlier files say of this step and later ones no longer counts; None: nothing is taken back.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}"
        self._descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        first = [Event(wall_time=now, file_version="brain.Event:2")]
        if purge_step is not None:
            first.append(Event(wall_time=now, step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self._append([event.SerializeToString() for event in first])

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each of some curves.

        Raises:
            OSError: there is no room; the file is then as it was.
        """
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        entries = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        events = [Event(wall_time=time.time(), step=step, summary=Summary(value=[entry])) for entry in entries]
        self._append([event.SerializeToString() for event in events])

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)

    def _append(self, records: list[bytes]) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        buffer = io.BytesIO()
        writer = RecordWriter(buffer)
        for record in records:
            writer.write(record)
        content = buffer.getvalue()
        before = os.fstat(self._descriptor).st_size
        written = os.write(self._descriptor, content)
        if written < len(content):  # half of a record would hide all that follow
            os.ftruncate(self._descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
