"""An action that hangs keeps nobody waiting; one that ends gives what it would have given."""

from __future__ import annotations

import signal
import threading

import pytest

from foundation.deadline import OutOfTimeError, waited_for, within
from foundation.errors import UserError


def test_result_and_error_arrive_and_an_action_that_hangs_is_left_behind():
    assert within(10.0, lambda: 5) == 5

    def refuse() -> None:
        raise UserError("no such thing")

    def give_up() -> None:
        raise TimeoutError("of the storage")

    with pytest.raises(TimeoutError, match="of the storage"):
        within(10.0, give_up)
    with pytest.raises(UserError, match="no such thing"):
        within(10.0, refuse)
    never = threading.Event()
    with pytest.raises(OutOfTimeError):
        within(0.05, never.wait)
    never.set()


@pytest.mark.parametrize("end", [OutOfTimeError, KeyboardInterrupt])
def test_an_action_that_is_left_behind_learns_it(end, request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    begun, ended = threading.Event(), threading.Event()

    def long() -> None:
        while waited_for():
            if not begun.is_set() and end is KeyboardInterrupt:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            begun.set()
            ended.wait(0.001)
        ended.set()

    with pytest.raises(end):
        within(0.05 if end is OutOfTimeError else 10.0, long)
    assert begun.is_set() and ended.wait(10.0)
    assert waited_for() and within(10.0, waited_for)  # this thread, and the next action


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError()])
def test_whatever_ends_an_action_arrives(error):
    def end() -> None:
        raise error

    with pytest.raises(type(error)):
        within(10.0, end)
