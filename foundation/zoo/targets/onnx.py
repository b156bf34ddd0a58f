"""ONNX: one file for onnxruntime and all that reads the format."""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foundation.zoo.targets.base import Outputs, Reader, Source
from foundation.zoo.targets.torch_export import NAMES, traced

LARGEST = 1_900_000_000
"""Bytes of weights up to which they are kept in the file itself; the format ends at 2 GiB."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """ONNX."""

    opset: int = 18
    """Version of the operators."""
    largest: int = LARGEST
    """Bytes of weights up to which they lie in the file, else in ``NAME.onnx.data`` beside it."""

    def build(self) -> Onnx:
        """The target."""
        return Onnx(self)


class Onnx:
    """Input ``view`` [batch, ...]; outputs ``cls``, ``patches`` and, where there are some, ``registers``. The model's
    metadata have the card (``foundation.card``) and the preprocessing (``foundation.preprocessing``) as JSON.

    Args:
        config: operators and sizes.
    """

    packages = ("onnx", "onnxscript", "onnxruntime")
    tolerance = 1e-4
    ending = ".onnx"

    def __init__(self, config: Config) -> None:
        self.config = config

    def beside(self, path: Path) -> Sequence[Path]:
        """Weights of large models."""
        return [path.with_name(path.name + ".data")]

    def refusal(self, source: Source) -> str:
        """All operators of our encoders can be written."""
        return ""

    def write(self, source: Source, path: Path) -> Sequence[str]:
        """Trace, translate and write."""
        outputs = NAMES[: 2 + ("registers" in source.outputs(source.view[:1]))]
        with _quiet():
            program: Any = torch.onnx.export(
                traced(source),
                dynamo=True,
                opset_version=self.config.opset,
                input_names=["view"],
                output_names=list(outputs),
                dynamic_shapes=({0: "batch"},),  # the name of the axis
                custom_translation_table=_translations(),
                verbose=False,
            )
            card = source.card()
            about = {"card": card, "preprocessing": card["preprocessing"]}
            for name, value in about.items():
                program.model.metadata_props[f"foundation.{name}"] = json.dumps(value)
            size = sum(tensor.numel() * tensor.element_size() for tensor in source.encoder.state_dict().values())
            program.save(path, external_data=size > self.config.largest)
        note = f"operators of opset {self.config.opset}"
        return [note + f"; weights are in {path.name}.data, keep it beside" if size > self.config.largest else note]

    def read(self, path: Path) -> Reader:
        """By onnxruntime on the CPU."""
        runtime: Any = importlib.import_module("onnxruntime")
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        outputs = [one.name for one in session.get_outputs()]

        def run(view: Tensor) -> Outputs:
            found = session.run(outputs, {"view": view.numpy()})
            return {name: torch.from_numpy(value) for name, value in zip(outputs, found, strict=True)}

        return run


def _translations() -> dict[Any, Any]:
    """Operators that torch leaves out: distances of points, in differences, as they are asked for here."""
    opset18: Any = importlib.import_module("onnxscript").opset18

    def distances(x1: Any, x2: Any, p: float = 2.0, compute_mode: Any = None) -> Any:
        """[R, N, d] and [R, P, d] -> [R, N, P]."""
        last = opset18.Constant(value_ints=[-1])
        apart = opset18.Sub(
            opset18.Unsqueeze(x1, opset18.Constant(value_ints=[-2])),
            opset18.Unsqueeze(x2, opset18.Constant(value_ints=[-3])),
        )
        return opset18.Sqrt(opset18.ReduceSum(opset18.Mul(apart, apart), last, keepdims=0))

    return {torch.ops.aten._cdist_forward.default: distances}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the libraries say of their own steps."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
