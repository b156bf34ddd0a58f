"""Signals that ask a run to stop: they set a flag, and the trainer saves at the step's boundary."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from types import FrameType, TracebackType

from foundation.parallel.collective import any_rank, rank

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


_PRESSES = 3
_SAVING = b"\nfoundation: saving after this step (Ctrl-C twice more ends without)\n"
_ONE_PRESS = 0.1  # seconds: a terminal signals every process of the run, and the launcher passes the signal on


class StopFlag:
    """While entered, INT, TERM and USR2 set :attr:`name` instead of ending the process.

    The handlers stay for the whole ``with`` block, so that a second signal cannot cut the save short. The third INT is
    a person who does not want to wait for it: it raises KeyboardInterrupt, once.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[signal.Signals, object] = {}
        self._since: float | None = None
        self._presses, self._last_press = 0, -_ONE_PRESS
        self._process = os.getpid()

    def _set(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker that was forked a moment ago, and has no handlers of its own yet
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        self.name = signal.Signals(number).name
        now = time.monotonic()
        if number != signal.SIGINT or now - self._last_press < _ONE_PRESS:
            return
        self._presses, self._last_press = self._presses + 1, now
        if self._presses == 1 and rank() == 0:
            with contextlib.suppress(OSError):  # print() may be what the signal has interrupted
                os.write(2, _SAVING)
        if self._presses == _PRESSES:
            raise KeyboardInterrupt

    def since(self) -> float | None:
        """``time.monotonic()`` when the first signal was seen; None before.

        For another thread: it learns of a signal while the main thread hangs in C, where :attr:`name` is not set.
        """
        if self._since is None:
            with contextlib.suppress(BlockingIOError, OSError):
                if set(self._ear.recv(64)) & set(SIGNALS):
                    self._since = time.monotonic()
        return self._since

    def __enter__(self) -> StopFlag:
        self._ear, self._mouth = socket.socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._set)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._wakeup)
        self._ear.close()
        self._mouth.close()

    def agreed(self) -> bool:
        """Whether any process was asked to stop; every process gets the same answer in the same step."""
        return any_rank(self.name is not None)
