"""Whether weights fit an encoder: asked of names, shapes and dtypes, before memory is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from foundation.errors import UserError
from foundation.printable import printable
from foundation.seeded import seeded

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Names that safetensors gives to the dtypes."""
_FLOATS = ("F64", "F32", "F16", "BF16")
_MOST_SHOWN = 3

Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape by name of the tensor."""


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those buffers too that no checkpoint holds."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


def header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What a safetensors file says it holds; no tensor is read.

    Raises:
        UserError: it is no such file, or is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {printable(error)}") from None


def layout_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape by name."""
    return {name: (DTYPES.get(t.dtype, str(t.dtype)), tuple(t.shape)) for name, t in tensors.items()}


def unfilled(encoder_config: Any, tensors: int, source: str) -> nn.Module:
    """The encoder that a card or recipe describes, built without memory: it has the layers and none of the numbers.

    Args:
        encoder_config: ``Config`` of the encoder.
        tensors: that there are to fill it with.
        source: of those, for messages.

    Raises:
        UserError: it needs many more tensors.
    """
    # Parts of other packages need not build without memory; they run only because the user trusts them.
    own = type(encoder_config).__module__.partition(".")[0] == __name__.partition(".")[0]
    with torch.device("meta" if own else "cpu"), _Unfilled(), _few_parameters(tensors, source), seeded(0):
        encoder: nn.Module = encoder_config.build()
    return encoder


def check_fits(encoder_config: Any, layout: Layout, source: str) -> None:
    """Compare tensors with those of the encoder that a card or recipe describes, which is built without memory.

    Args:
        encoder_config: ``Config`` of the encoder.
        layout: of the weights.
        source: of the weights, for messages.

    Raises:
        UserError: naming the first tensors that are missing, unknown, or of another shape or kind of number.
    """
    wanted: dict[str, Tensor] = unfilled(encoder_config, len(layout), source).state_dict()
    missing, unknown = sorted(wanted.keys() - layout.keys()), sorted(layout.keys() - wanted.keys())
    if missing or unknown:
        raise UserError(
            f"{source} does not fit its encoder: missing {missing[:_MOST_SHOWN]}, unknown {unknown[:_MOST_SHOWN]}"
        )
    for name, tensor in wanted.items():
        dtype, shape = layout[name]
        if shape != tuple(tensor.shape):
            raise UserError(
                f"{source} does not fit its encoder: {name!r} has the shape {list(shape)}, the encoder needs "
                f"{list(tensor.shape)}"
            )
        if not (dtype in _FLOATS if tensor.dtype.is_floating_point else dtype == DTYPES.get(tensor.dtype)):
            raise UserError(
                f"{source} does not fit its encoder: {name!r} is of {dtype}, the encoder needs "
                f"{DTYPES.get(tensor.dtype, tensor.dtype)}"
            )


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills tensors that have no memory: on the first such call torch would import for a second."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        tensor = args[0] if args else kwargs.get("tensor")
        fills = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if fills and isinstance(tensor, Tensor) and tensor.is_meta:
            return tensor
        return function(*args, **kwargs)


@contextmanager
def _few_parameters(tensors: int, source: str) -> Iterator[None]:
    """A million layers take no memory for their weights, but for themselves: more than the file can fill end it."""
    left = 4 * tensors + 64

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        left -= parameter is not None
        if left < 0:
            raise UserError(f"{source} does not fit its encoder: it has {tensors} tensors, the encoder needs many more")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def memory_of_machine() -> int:
    """Bytes of physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def fitting_memory() -> Iterator[None]:
    """Networks that are built here fit this machine: what is too large is refused before it is filled.

    Raises:
        UserError: they have more parameters than this machine has memory.
    """
    whole, taken = memory_of_machine(), 0

    def refuse(wanted: str) -> UserError:
        return UserError(
            f"the networks of this recipe need {wanted} for their parameters alone, and this machine has "
            f"{whole / 2**30:,.1f} GiB of memory. 'foundation pretrain RECIPE --dry-run' estimates what a recipe needs"
        )

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal taken
        if parameter is not None and not parameter.is_meta:
            taken += parameter.nbytes
        if taken > whole:
            raise refuse(f"{taken / 2**30:,.1f} GiB and more")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    except RuntimeError as error:  # the system refuses so much at once, or a limit for this process does
        if "allocate memory" not in str(error):
            raise
        raise refuse("more than the system gives") from error
    finally:
        handle.remove()


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights with NaN or infinity.

    Raises:
        UserError: naming the first such tensor and how many of its numbers are affected.
    """
    for name, tensor in tensors.items():
        if tensor.dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise UserError(f"{source}: {bad:,} of the {tensor.numel():,} numbers of {name!r} are NaN or infinite")
