"""Weights out of a file: ``.pth`` and its kin by torch's reader of tensors alone, ``.safetensors``; no code is run."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.paths import near_path
from foundation.printable import printable
from foundation.weights import header

ENDINGS = (".pth.tar", ".pth", ".pt", ".bin", ".ckpt", ".safetensors")
_CONTAINERS = (
    "teacher", "target_encoder", "ema_encoder", "model_ema", "student", "state_dict", "model", "base_model", "module",
    "backbone", "encoder", "net",
)  # fmt: skip
"""What files wrap weights in; of several the first here is taken: an average before what it is the average of."""
_PREFIXES = ("_orig_mod", "image_encoder", "vit", "dinov2", "dinov2_with_registers", "deit", "vjepa2")
_SLACK = 2**20
_STARTS = (b"PK\x03\x04", b"\x80")
"""Of a zip archive, as torch writes since 1.6, and of a pickle, as it did before."""
_SEEN = 24


@dataclass(frozen=True)
class Level:
    """Tensors under the names that are left when some wrapping is taken off.

    Attributes:
        state: by name.
        path: what was taken off, from outside.
        left_out: what lay beside it, by name, and how much it is.
    """

    state: dict[str, Tensor]
    path: tuple[str, ...]
    left_out: dict[str, str]


def read(path: Path) -> Mapping[str, Any]:
    """What a file holds: tensors, numbers, text and mappings of these.

    Raises:
        UserError: there is no such file, it is damaged, or it holds what may run code when it is opened.
    """
    if not path.is_file():
        raise UserError(
            f"weights {str(path)!r} are {'a folder' if path.is_dir() else 'no regular file'}"
            if path.exists()
            else f"weights {str(path)!r} do not exist{near_path(path)}"
        )
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds no weights by name, but one {type(content).__name__}")
    return content


def _safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors.torch import load_file

    header(path)
    tensors: Mapping[str, Any] = load_file(path)
    return tensors


def _pickled(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(_SEEN)
    if not start.startswith(_STARTS):
        what = f"it begins with {printable(start.decode('utf-8', 'replace'))!r}" if start else "it is empty"
        raise UserError(
            f"{path} is no file of weights: {what} (a page of a web server, or a pointer of Git LFS, is often saved in "
            "the place of the file)"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the protocol of the pickle: what it cannot read it refuses
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except pickle.UnpicklingError as error:
        said = str(error)
        if "Unsupported" not in said and "GLOBAL" not in said:
            raise UserError(f"{path} is damaged or no file of weights: {_first(said)}") from None
        raise UserError(
            f"{path} holds more than tensors ({_wanted(said)}), and to open that is to run code of whoever made it: it "
            'is refused. If you trust it, write the weights alone, once, where it may run: python -c "import torch; '
            f"whole = torch.load('{path.name}', weights_only=False, map_location='cpu'); "
            "torch.save({key: part for key, part in whole.items() if key in ('teacher', 'student', 'model', "
            "'state_dict')}, 'weights.pth')\""
        ) from None
    except Exception as error:  # bytes that somebody else made: torch's reader fails on them in every way
        raise UserError(f"{path} cannot be read, it is damaged or cut off: {_first(error)}") from None
    _check_sizes(content, path)
    return content


def _first(error: object) -> str:
    """First line of what torch says."""
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])[:200]


def _wanted(said: str) -> str:
    """What a pickle asks for beside tensors, out of torch's long message."""
    line = next((line for line in said.splitlines() if "Unsupported" in line or "GLOBAL" in line), said)
    return printable(line.strip())[:160]


def _check_sizes(content: Any, path: Path) -> None:
    """Refuse tensors that claim more numbers than the file has bytes for: they would be written out when copied.

    Raises:
        UserError: naming how much.
    """
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(content))
    if claimed > 2 * path.stat().st_size + _SLACK:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes, and its tensors claim {claimed:,}: it is damaged")


def _tensors(content: Any, depth: int = 0) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, Mapping) and depth < 20:
        for part in content.values():
            yield from _tensors(part, depth + 1)


def levels(content: Mapping[str, Any], branch: str | None = None) -> Iterator[Level]:
    """The tensors as they are, then with one wrapping after the other taken off.

    Args:
        content: see :func:`read`.
        branch: which of several to take, such as ``student``; None: the average, where there is one.
    """
    order = tuple(dict.fromkeys(((branch,) if branch else ()) + _CONTAINERS))
    path: tuple[str, ...] = ()
    left: dict[str, str] = {}
    node: Mapping[str, Any] = content
    while not (state := _dense(node)):
        inner = {str(name): part for name, part in node.items() if isinstance(part, Mapping)}
        chosen = next((name for name in order if name in inner), None)
        if chosen is None:
            return
        left |= {name: "not taken" for name in inner if name != chosen and any(True for _ in _tensors(inner[name]))}
        node, path = inner[chosen], (*path, chosen)
    while True:
        yield Level(state, path, left)
        heads = {name.partition(".")[0] for name in state if "." in name}
        chosen = next((name for name in (*order, *_PREFIXES) if name in heads), None)
        if chosen is None:
            return
        start = f"{chosen}."
        others: dict[str, int] = {}
        for name in state:
            if not name.startswith(start):
                others[name.partition(".")[0]] = others.get(name.partition(".")[0], 0) + 1
        left = left | {f"{name}.": f"not of the {chosen} ({count} tensors)" for name, count in others.items()}
        state = {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
        path = (*path, chosen)


def _dense(node: Mapping[str, Any]) -> dict[str, Tensor]:
    """The plain tensors among the values."""
    return {
        str(name): value.detach()
        for name, value in node.items()
        if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized and not value.is_meta
    }
