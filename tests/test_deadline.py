"""An action that hangs keeps nobody waiting; one that ends gives what it would have given."""

from __future__ import annotations

import threading

import pytest

from foundation.deadline import within
from foundation.errors import UserError


def test_result_and_error_arrive_and_an_action_that_hangs_is_left_behind():
    assert within(10.0, lambda: 5) == 5

    def refuse() -> None:
        raise UserError("no such thing")

    with pytest.raises(UserError, match="no such thing"):
        within(10.0, refuse)
    never = threading.Event()
    with pytest.raises(TimeoutError):
        within(0.05, never.wait)
    never.set()
