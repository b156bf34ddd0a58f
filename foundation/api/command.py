"""The verbs of the command line, called from Python: errors are raised, where a command prints them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from foundation.cli import main
from foundation.ctrl_c import INTERRUPTED
from foundation.errors import FoundationError, RequeueRequest, StopRequest


def command(*words: str) -> None:
    """Run ``foundation WORDS`` in this process.

    Raises:
        FoundationError: what ended it, as the command line says it.
        KeyboardInterrupt: Ctrl-C, or the stop button of a notebook; what could be saved is.
    """
    told: list[FoundationError] = []
    with _threads():
        code = main(words, tell=told.append)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if told and isinstance(told[0], StopRequest):
        raise KeyboardInterrupt(str(told[0])) from told[0]
    if told:
        raise told[0]
    if code == RequeueRequest.exit_code:
        raise RequeueRequest("saved; the same call goes on from there")
    if code:
        raise FoundationError(f"foundation {words[0]} ended with exit code {code}; its message is above")


class _threads:
    """torch's number of threads is put back: a run leaves one processor to its loader."""

    def __enter__(self) -> None:
        import torch

        self.before = torch.get_num_threads()

    def __exit__(self, *exception: object) -> None:
        import torch

        torch.set_num_threads(self.before)


def settings(given: Mapping[str, Any] | None, named: Mapping[str, Any]) -> list[str]:
    """Changes of a recipe as the command line takes them.

    Args:
        given: by their keys: ``{"optimizer.learning_rate.start": 1e-3}``.
        named: by their keys with two underscores for each dot: ``train__batch_size=32``.
    """
    changes = {**(given or {}), **{key.replace("__", "."): value for key, value in named.items()}}
    return [f"{key}={json.dumps(_plain(value))}" for key, value in changes.items()]


def _plain(value: Any) -> Any:
    """A value as JSON has it, which is YAML: paths as text, NumPy's numbers as Python's."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, str):
        return value
    if isinstance(value, Iterable):
        return [_plain(one) for one in value]
    return value.item() if hasattr(value, "item") else value
