"""Where the weights of a timm model come from: fetched once without long waits, or read from a file of the user's."""

from __future__ import annotations

import importlib
import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any

from foundation.encoders.pictures import weights_file
from foundation.errors import UserError

_SECONDS = 5.0
"""For the first word of the server that has the weights."""
CLIENTS = ("httpx", "httpx2", "requests", "urllib3", "huggingface_hub")  # whose errors are not all of the system's


@contextmanager
def fetching(model: str, published: Any) -> Iterator[None]:
    """Around what makes timm fetch published weights: one attempt, and what goes wrong in one sentence.

    Where the server does not answer, the copies that earlier downloads left on this machine are taken.

    Args:
        model: its name in timm.
        published: timm's ``PretrainedCfg`` of the model, None where it has none.

    Raises:
        UserError: there are no such weights, or they are neither here nor to be had.
    """
    if published is None or not published.has_weights:
        raise UserError(f"timm publishes no weights for {model!r}; random ones: {_random(model)}")
    source = published.hf_hub_id or published.url
    with one_attempt(bool(published.hf_hub_id)) as silence:
        try:
            yield
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in CLIENTS:
                raise
            reason = silence or (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"the published weights of timm's {model!r} are not on this machine and cannot be fetched from "
                f"{source} ({reason}): download its model.safetensors elsewhere and name it, "
                f"timm:{model},weights=FILE.safetensors (in a recipe encoder.weights=FILE.safetensors), or take random "
                f"weights, {_random(model)}"
            ) from error


@contextmanager
def reading(model: str, path: str) -> Iterator[None]:
    """Around what makes timm read weights from a file, which must be safetensors and fill the whole model.

    Raises:
        UserError: the file cannot be read, is of another form, or does not fit.
    """
    weights_file(path, "timm", model)
    missing = _Missing()
    log = logging.getLogger("timm.models._builder")
    level = log.level
    log.addHandler(missing)
    log.setLevel(logging.INFO)
    try:
        yield
    except (RuntimeError, KeyError) as error:
        detail = " ".join(str(error).split())[:300]
        raise UserError(f"{path} does not fit timm's {model!r}: {detail}") from error
    finally:
        log.removeHandler(missing)
        log.setLevel(level)
    if missing.said:
        raise UserError(f"{path} does not fit timm's {model!r}: {missing.said}")


class _Missing(logging.Handler):
    """Hears timm say which parameters a file did not fill: it goes on with random ones."""

    said = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("Missing keys"):
            self.said = text[:200] + ("..." if len(text) > 200 else "")


def _random(model: str) -> str:
    return f"timm:{model},random (in a recipe encoder.pretrained=false)"


@contextmanager
def one_attempt(from_hub: bool) -> Iterator[str]:
    """Ask the server once, before the hub's client asks it for a minute; yields what was wrong, or nothing."""
    if not from_hub:
        yield ""
        return
    hub: Any = importlib.import_module("huggingface_hub.constants")
    if hub.HF_HUB_OFFLINE:
        yield "HF_HUB_OFFLINE is set"
        return
    silence = _unreachable(hub.ENDPOINT)
    hub.HF_HUB_OFFLINE = bool(silence)
    try:
        yield silence
    finally:
        hub.HF_HUB_OFFLINE = False


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
