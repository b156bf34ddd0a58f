"""What must not keep anybody waiting: an action in a thread of its own, with an end to the patience."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")


class OutOfTimeError(Exception):
    """Nobody waits any longer. No ``TimeoutError``: that is what storage raises that gave up by itself."""


class _Thread(threading.local):
    """Of each thread: set once nobody waits for its action any longer."""

    def __init__(self) -> None:
        self.given_up = threading.Event()


_THREAD = _Thread()


def waited_for() -> bool:
    """Whether somebody still waits for this action of :func:`within`; True in any other thread.

    A long action asks now and then: left behind, it would take processor and storage from what goes on without it.
    """
    return not _THREAD.given_up.is_set()


def within(seconds: float, action: Callable[[], T]) -> T:
    """The result of ``action``, or its exception; the thread that is too slow is left behind and holds nobody back.

    Args:
        seconds: to wait for.
        action: reads only: it may go on after this has returned, until it asks :func:`waited_for`.

    Raises:
        OutOfTimeError: the action has not ended in time.
    """
    outcome: Future[T] = Future()
    given_up = threading.Event()

    def work() -> None:
        _THREAD.given_up = given_up
        try:
            outcome.set_result(action())
        except BaseException as error:
            outcome.set_exception(error)

    try:
        threading.Thread(target=work, name="within", daemon=True).start()
        late = wait([outcome], timeout=seconds).not_done
    finally:
        given_up.set()  # Ctrl-C comes this way too
    if late:
        raise OutOfTimeError(f"not done in {seconds:g} seconds")
    return outcome.result()
