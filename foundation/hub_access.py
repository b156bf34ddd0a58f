"""The hub of Hugging Face, asked once and without long waits, and not at all where that is forbidden."""

from __future__ import annotations

import importlib
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any

OFFLINE_VARIABLE = "FOUNDATION_OFFLINE"
HUB_OFFLINE_VARIABLE = "HF_HUB_OFFLINE"
CLIENTS = ("httpx", "httpx2", "requests", "urllib3", "huggingface_hub")  # whose errors are not all of the system's
_YES = ("1", "true", "yes", "on")
_SECONDS = 5.0
"""For the first word of the server that has the weights."""


def is_offline(variable: str = OFFLINE_VARIABLE) -> bool:
    """Whether a variable says that nothing is to be asked: of the network, or of the hub alone."""
    return os.environ.get(variable, "").lower() in _YES


def forbidden() -> str:
    """Name of the variable that forbids to ask the hub; empty where none does."""
    return next((name for name in (OFFLINE_VARIABLE, HUB_OFFLINE_VARIABLE) if is_offline(name)), "")


def is_of_network(error: Exception) -> bool:
    """Whether an error of a library's fetching is the network's or the system's, and no mistake in a program."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in CLIENTS


@contextmanager
def one_attempt() -> Iterator[str]:
    """Ask the server once, before the hub's client asks it for a minute; yields what was wrong, or nothing. Where it
    may not be asked, or does not answer, the client takes what earlier downloads have left on this machine."""
    hub: Any = importlib.import_module("huggingface_hub.constants")
    variable, before = forbidden(), hub.HF_HUB_OFFLINE
    variable = variable or (HUB_OFFLINE_VARIABLE if before else "")
    silence = f"{variable} is set" if variable else _unreachable(hub.ENDPOINT)
    hub.HF_HUB_OFFLINE = bool(silence)
    try:
        yield silence
    finally:
        hub.HF_HUB_OFFLINE = before


def _unreachable(address: str) -> str:
    """Why a server does not answer; empty where it does, whatever it says."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_SECONDS):
            return ""
    except urllib.error.HTTPError:
        return ""
    except (OSError, HTTPException, ValueError) as error:  # no answer, one that is no HTTP, no address
        reason = getattr(error, "reason", None) or error
        said = " ".join(str(reason).split())[:200] or type(reason).__name__
        return "" if isinstance(reason, ssl.SSLError) else f"{address}: {said}"
