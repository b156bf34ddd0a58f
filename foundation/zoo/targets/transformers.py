"""A folder that Hugging Face's ``AutoModel.from_pretrained(FOLDER)`` reads, with an image processor."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from foundation.errors import UserError
from foundation.files import write_file
from foundation.zoo.targets import hub_video
from foundation.zoo.targets.base import CARD, Outputs, Reader, Source
from foundation.zoo.targets.hub_layouts import Layout, layout_of

FILES = ("config.json", "model.safetensors", "preprocessor_config.json", CARD)
_BICUBIC = 3


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hugging Face ``transformers``."""

    def build(self) -> Transformers:
        """The target."""
        return Transformers()


class Transformers:
    """``config.json``, ``model.safetensors``, ``preprocessor_config.json`` and our card."""

    packages = ("transformers",)
    tolerance = 1e-5
    ending = ""

    def beside(self, path: Path) -> Sequence[Path]:
        """What is in the folder."""
        return [path / name for name in FILES]

    def refusal(self, source: Source) -> str:
        """What stands against the nearest architecture of the library."""
        return _layout_of(source).refusal(source)

    def write(self, source: Source, path: Path) -> Sequence[str]:
        """Settings, weights and processor."""
        folder = _layout_of(source).folder(source)
        settings = {"architectures": [folder.architecture], "torch_dtype": "float32", **folder.settings}
        write_file(path / FILES[0], json.dumps(settings, indent=1).encode())
        tensors = {name: value.detach().contiguous().clone() for name, value in folder.tensors.items()}
        save_file(tensors, path / FILES[1], metadata={"format": "pt"})
        write_file(path / CARD, json.dumps(source.card(), indent=1).encode())
        notes = [f"as {folder.architecture}", *([folder.note] if folder.note else [])]
        if hub_video.takes(source):
            return [*notes, "no video processor is written: views are made as the card says"]
        write_file(path / FILES[2], json.dumps(processor(source.preprocessing), indent=1).encode())
        if below := source.preprocessing["resize_below"]:
            notes.append(
                f"images whose shorter side has fewer than {below} pixels are not cut by our evaluation; the written "
                "image processor cuts them too"
            )
        return notes

    def read(self, path: Path) -> Reader:
        """By ``AutoModel.from_pretrained``."""
        library: Any = importlib.import_module("transformers")
        with _quiet(library.utils.logging):
            model, told = library.AutoModel.from_pretrained(path, local_files_only=True, output_loading_info=True)
        missing = [name for name in told["missing_keys"] if not name.startswith("predictor.")]  # of V-JEPA 2
        if wrong := [*missing, *told["unexpected_keys"]]:
            raise UserError(
                f"transformers {library.__version__} does not take these weights: {', '.join(sorted(wrong)[:3])} do "
                "not fit; another version may"
            )
        if type(model).__name__ == hub_video.ARCHITECTURE:
            return partial(hub_video.outputs, model.eval())
        registers = int(json.loads((path / FILES[0]).read_text()).get("num_register_tokens", 0))

        @torch.no_grad()
        def run(view: Tensor) -> Outputs:
            tokens: Tensor = model.eval()(view).last_hidden_state
            found = {"cls": tokens[:, 0], "patches": tokens[:, 1 + registers :]}
            return found | ({"registers": tokens[:, 1 : 1 + registers]} if registers else {})

        return run


def _layout_of(source: Source) -> Layout:
    return hub_video.LAYOUT if hub_video.takes(source) else layout_of(source)


@contextmanager
def _quiet(log: Any) -> Iterator[None]:
    """Without the library's bars and reports, which :meth:`Transformers.read` gives in one sentence.

    Args:
        log: ``transformers.utils.logging``.
    """
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def processor(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Settings of an image processor that makes the views of our evaluation: resize, centre crop, normalise.

    Args:
        evaluation: fields of an image's ``EvaluationConfig``.
    """
    size = evaluation["size"]
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(size / evaluation["crop_fraction"])},
        "resample": _BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(evaluation["mean"]),
        "image_std": list(evaluation["std"]),
    }
