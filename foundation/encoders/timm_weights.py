"""Where the weights of a timm model come from: fetched once without long waits, or read from a file of the user's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from foundation.encoders.pictures import weights_file
from foundation.errors import UserError
from foundation.hub_access import OFFLINE_VARIABLE, is_of_network, is_offline, one_attempt


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
    with one_attempt() if published.hf_hub_id else nullcontext(_silent(published.url)) as silence:
        try:
            if silence and not published.hf_hub_id:  # what fetches from an address of its own knows no such word
                raise OSError(silence)
            yield
        except Exception as error:
            if not is_of_network(error):
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


def _silent(url: str) -> str:
    """Why an address may not be asked; empty where it may, or need not because an earlier download is there."""
    import torch

    kept = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    return f"{OFFLINE_VARIABLE} is set" if is_offline() and not kept.is_file() else ""


class _Missing(logging.Handler):
    """Hears timm say which parameters a file did not fill: it goes on with random ones."""

    said = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("Missing keys"):
            self.said = text[:200] + ("..." if len(text) > 200 else "")


def _random(model: str) -> str:
    return f"timm:{model},random (in a recipe encoder.pretrained=false)"
