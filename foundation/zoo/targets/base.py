"""What every target is: a form in which an encoder can be used without this package, and how it is read back.

A target is one file ``foundation/zoo/targets/NAME.py`` with a dataclass ``Config`` whose ``build()`` gives a
:class:`Target`. What is common to all (checking, replacing, refusing) knows targets by this contract alone.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from foundation import config
from foundation.encoders import towers, vit
from foundation.errors import UserError
from foundation.plugins import Plugin, available, near, resolve
from foundation.version import VERSION
from foundation.zoo.export import without_download
from foundation.zoo.load import LoadedEncoder

PATTERN = "foundation.zoo.targets.{name}"
"""Where targets are found, see :class:`foundation.plugins.Plugin`."""
CARD = "foundation_card.json"
"""Name of the card in targets that are folders."""
VIEWS = 3
"""Rows of the random view that an encoder and its target are compared on."""

Outputs: TypeAlias = dict[str, Tensor]
"""``cls`` [batch, width], ``patches`` [batch, tokens, width] and, where the encoder has them, ``registers``."""
Reader: TypeAlias = Callable[[Tensor], Outputs]
"""From a view to what was written, run by the library that it was written for."""


@dataclass(frozen=True)
class _Encoder:
    encoder: Annotated[Any, Plugin("foundation.encoders.{name}")]


@dataclass(frozen=True)
class Source:
    """An encoder that is to be written, on the CPU in float32 and evaluation mode.

    Attributes:
        loaded: where it comes from.
        encoder: the network; of several towers, the one that is looked at. Attention is torch's plain kernel, every
            view by itself.
        modality: of the view.
        evaluation: the modality's ``EvaluationConfig``: how a view is made of a sample.
        view: [batch, ...] that the target is checked with.
        real: the view comes from samples; else it is random.
    """

    loaded: LoadedEncoder
    encoder: Any
    modality: str
    evaluation: Any
    view: Tensor
    real: bool

    @torch.no_grad()
    def outputs(self, view: Tensor) -> Outputs:
        """What the encoder says of a view."""
        return outputs_of(self.encoder, view)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How a view is made: the fields of ``evaluation`` as plain values."""
        found: dict[str, Any] = config.to_plain(self.evaluation)
        return found

    def card(self) -> dict[str, Any]:
        """What a reader should know of the encoder, as plain values. Names no path of this machine."""
        loaded, encoder = self.loaded, without_download(self.encoder.config)
        return {
            "name": loaded.name,
            "modality": self.modality,
            "view": list(self.view.shape[1:]),
            "preprocessing": self.preprocessing,
            "encoder": config.to_plain(_Encoder(encoder))["encoder"],
            "parameters": sum(parameter.numel() for parameter in self.encoder.parameters()),
            "step": loaded.step,
            "branch": loaded.branch,
            "weights_sha256": loaded.sha256,
            "recipe": loaded.recipe,
            "foundation_version": VERSION,
        }


class Target(Protocol):
    """A form in which encoders are written."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Imported by :meth:`write` or :meth:`read`, beyond what this package always needs."""

    @property
    def tolerance(self) -> float:
        """Largest deviation of what is read back from the encoder, as a share of the largest value."""

    @property
    def ending(self) -> str:
        """Of the file's name, such as ``.onnx``; empty for a folder."""

    def beside(self, path: Path) -> Sequence[Path]:
        """Files that belong to a file of this target; of a folder, those that may lie in it."""

    def refusal(self, source: Source) -> str:
        """Why this encoder has no equal there, one sentence that names the trait; empty where it has."""

    def write(self, source: Source, path: Path) -> Sequence[str]:
        """Write it.

        Args:
            source: that is not refused.
            path: of the file, or of a folder that is there and empty. Its last part is the final name.

        Returns:
            what a user should know, a sentence each.
        """

    def read(self, path: Path) -> Reader:
        """What was written, as its users run it."""


def names() -> list[str]:
    """Targets, as the user names them: ``onnx``, ``torch-export``."""
    return [name.replace("_", "-") for name in available(PATTERN)]


def find(name: str) -> Target:
    """The target of a name.

    Raises:
        UserError: there is none; names the nearest and all.
    """
    inner = name.replace("-", "_")
    if inner not in available(PATTERN):
        raise UserError(f"no target called {name!r}{near(name, names())} (there are: {', '.join(names())})")
    target: Target = resolve(PATTERN, inner).Config().build()
    return target


def require(name: str, packages: Sequence[str]) -> None:
    """Refuse where packages are missing.

    Args:
        name: of the target, for the message.
        packages: that it imports.

    Raises:
        UserError: names them and the extra.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"export --to {name} needs the package{'s' * (len(missing) > 1)} {', '.join(missing)}: "
            "pip install 'foundation-pretrain[convert]'"
        )


def outputs_of(encoder: Any, view: Tensor) -> Outputs:
    """Features of one view by the names of a target's outputs."""
    features = encoder([view])[0]
    found = {"cls": features.cls, "patches": features.patches}
    return found | ({"registers": features.registers} if features.registers.shape[1] else {})


class Plain(nn.Module):
    """An encoder as a function of one view: ``view [batch, ...] -> (cls, patches[, registers])``, to be traced.

    Args:
        encoder: any of ours.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, view: Tensor) -> tuple[Tensor, ...]:
        """Class token [batch, width], patch tokens [batch, tokens, width], registers where there are some."""
        return tuple(outputs_of(self.encoder, view).values())


def traceable(encoder: Any, modality: str) -> Any:
    """The encoder of one modality with plain attention, as :class:`Source` has it.

    Args:
        encoder: any of ours, which stays as it is; weights that are in float32 on the CPU are shared with it.
        modality: of the views.
    """
    if isinstance(encoder, towers.Towers):
        encoder = encoder.encoders[encoder.config.tower_of(0, modality)]
    if any(weight.dtype != torch.float32 or weight.device.type != "cpu" for weight in encoder.parameters()):
        encoder = copy.deepcopy(encoder).to("cpu", torch.float32)
    if isinstance(encoder, vit.Encoder):
        weights = encoder.state_dict()
        with torch.device("meta"):
            encoder = replace(encoder.config, attention="sdpa", packing="never").build()
        encoder.load_state_dict(weights, assign=True)
    return encoder.eval().requires_grad_(False)


def deviation(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """Largest difference of two results, as a share of the largest value in the first; infinite where they differ in
    names or shapes, or are not finite."""
    if wanted.keys() != found.keys():
        return float("inf")
    worst = 0.0
    for name, value in wanted.items():
        other = found[name]
        if value.shape != other.shape:
            return float("inf")
        if not value.numel():
            continue
        share = float((value - other).abs().max() / value.abs().max().clamp(min=1e-12))
        worst = max(worst, share if share == share else float("inf"))
    return worst
