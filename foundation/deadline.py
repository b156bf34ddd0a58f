"""What must not keep anybody waiting: an action in a thread of its own, with an end to the patience."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, action: Callable[[], T]) -> T:
    """The result of ``action``, or its exception; the thread that is too slow is left behind and holds nobody back.

    Args:
        seconds: to wait for.
        action: reads only: it may go on after this has returned.

    Raises:
        TimeoutError: the action has not ended in time.
    """
    outcome: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcome.put((action(), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=work, name="within", daemon=True).start()
    try:
        result, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"not done in {seconds:g} seconds") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
