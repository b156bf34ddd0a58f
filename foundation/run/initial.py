"""Weights that a run starts from, in place of random ones: an encoder of the same kind, or of another modality."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from foundation.encoders import vit
from foundation.encoders.positions import LearnedPositions
from foundation.errors import UserError
from foundation.ranges import Range
from foundation.schedules import Duration
from foundation.voice import plural
from foundation.zoo.heads import names_of
from foundation.zoo.load import LoadedEncoder, load_encoder
from foundation.zoo.shown import encoder_section

_UNSEEN = ("norm_eps", "zero_key_bias", "position", "tokenizer", "ffn")
"""Settings of an encoder that change what it computes and not the shapes of its weights, or not all of them."""
_OF_POSITIONS = ("base", "min_period", "max_period", "normalise", "frequencies", "offset", "antialias", "fit",
                 "every_block", "kind")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the student's encoder gets its first weights, and its heads if ``heads`` says so."""

    weights: str
    """A run folder, a checkpoint folder, an exported ``.safetensors``, or weights that others have published: their
    file (``dinov2_vits14.pth``, where needed with its source, ``FILE,as=dino``; of the hub of Hugging Face
    ``hf://OWNER/REPO/FILE``), or ``timm:NAME`` for those of a timm model (``timm:NAME,weights=FILE.safetensors`` from a
    file), or likewise the image tower of an open_clip model (``open_clip:NAME,pretrained=TAG``). They must fit, shape
    by shape, but may lack the encoder's registers, which then start at random; positions of another grid are resized;
    weights of another modality are adapted where there is a way (clips take those of images)."""
    branch: str | None = None
    """Which encoder of a run folder or checkpoint, such as ``student``; None: the one that it was measured by."""
    how: str | None = None
    """How weights of another modality are adapted, where there are several ways; None: the modality's default."""
    heads: bool = False
    """Take the heads of the same names, too, where the weights are of a run or an export that has them; others start at
    random."""
    warm_up_heads: Annotated[Duration, Range(0, 1e9, above=True)] | None = None
    """First train all but the student's encoder, for so long: a stage of its own in front, with the encoder as it was
    loaded, and at a constant learning rate. Heads that start at random would spoil the encoder otherwise."""

    def apply(self, encoder: Any, heads: Mapping[str, nn.Module] | None = None) -> tuple[str, ...]:
        """Load the weights in place; into each tower of an encoder that has ``towers``.

        Args:
            encoder: the student's; it may be on the meta device, where only the shapes are compared.
            heads: the student's, by name.

        Returns:
            What was taken, changed and left at random, a sentence each.

        Raises:
            UserError: the weights cannot be read, do not fit, or belong to a modality that nothing leads from.
        """
        planned = any(weight.is_meta for weight in encoder.parameters())
        with torch.device("cpu"):  # a dry run builds on the meta device: what does not fit is refused there as well
            loaded = load_encoder(self.weights, branch=self.branch, fetch=not planned)
        towers = encoder.towers.values() if encoder.capabilities.towers else [encoder]
        said = [f"the encoder begins with {loaded.description}"]
        for part in towers:
            said += self._fill(part, loaded)
        return (*dict.fromkeys(said), *self._heads(heads or {}, loaded))

    def _fill(self, encoder: Any, loaded: LoadedEncoder) -> list[str]:
        modality = encoder.modality
        if modality != loaded.modality:
            self._adapt(encoder, modality, loaded)
            return [f"weights of {loaded.modality} are adapted to {modality}"]
        found: dict[str, Tensor] = loaded.encoder.state_dict()
        there, wanted = encoder.adopted(found), encoder.state_dict()
        said = [f"{name} start at random" for name in sorted(there.keys() - found.keys())]
        theirs = loaded.encoder
        if isinstance(encoder, vit.Encoder) and isinstance(theirs, vit.Encoder):
            said += _differences(encoder.config, theirs.config, self.weights)
            own, old = encoder.positions, theirs.positions
            if isinstance(own, LearnedPositions) and isinstance(old, LearnedPositions) and _resizable(own, old):
                there |= {f"positions.{name}": table for name, table in old.at(own.grid).items()}
                said.append(f"positions of a grid of {_grid(old.grid)} tokens are resized to {_grid(own.grid)}")
        problems = sorted(there.keys() ^ wanted.keys())
        problems += [name for name in wanted if name in there and there[name].shape != wanted[name].shape]
        if problems:
            more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise UserError(
                f"initial.weights {self.weights} do not fit the encoder; different are {', '.join(problems[:5])}{more}"
                f". They are of this one: {encoder_section(loaded.config)}"
            )
        if not any(weight.is_meta for weight in encoder.parameters()):
            encoder.load_state_dict(there)
        return said

    def _adapt(self, encoder: nn.Module, modality: str, loaded: LoadedEncoder) -> None:
        name = f"foundation.modalities.{modality}.inflate"
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise UserError(
                f"initial.weights {self.weights} are of {loaded.modality}, the encoder is of {modality}, and there is "
                "no way from one to the other"
            ) from error
        if any(weight.is_meta for weight in encoder.parameters()):
            return
        module.inflate(encoder, loaded.encoder, **({} if self.how is None else {"how": self.how}))

    def _heads(self, heads: Mapping[str, nn.Module], loaded: LoadedEncoder) -> list[str]:
        names = [*heads]
        if not names:
            return []
        if not self.heads:
            return [f"{_listed(names)} at random"]
        found = {} if loaded.heads is None else loaded.heads()
        if not found:
            raise UserError(
                f"initial.heads: {self.weights} has no heads (exports of older versions and weights of others have "
                "none): leave initial.heads out"
            )
        taken, problems = [name for name in names if name in names_of(found)], []
        for name in taken:
            wanted, start = heads[name].state_dict(), f"{name}."
            there = {key.removeprefix(start): tensor for key, tensor in found.items() if key.startswith(start)}
            problems += [f"{name}.{key}" for key in sorted(there.keys() ^ wanted.keys())]
            problems += [f"{name}.{key}" for key in wanted if key in there and there[key].shape != wanted[key].shape]
            if not problems and not any(tensor.is_meta for tensor in wanted.values()):
                heads[name].load_state_dict(there)
        if problems:
            raise UserError(
                f"initial.heads: heads of {self.weights} do not fit those of the recipe; different are "
                f"{', '.join(problems[:5])}: give such a head another name, or leave initial.heads out"
            )
        new = [name for name in names if name not in taken]
        said = [f"{_listed(taken)} with the weights that were trained with the encoder"] if taken else []
        return said + ([f"{_listed(new)} at random"] if new else [])


def _listed(names: list[str]) -> str:
    return f"{plural(len(names), 'head')} ({', '.join(names)}) " + ("begins" if len(names) == 1 else "begin")


def _grid(grid: tuple[int, ...]) -> str:
    return " x ".join(map(str, grid))


def _resizable(own: LearnedPositions, old: LearnedPositions) -> bool:
    """Whether tables differ in nothing but the grid."""
    return own.grid != old.grid and len(own.grid) == len(old.grid) and own.split == old.split


def _differences(own: vit.Config, theirs: vit.Config, weights: str) -> Iterator[str]:
    """Settings that the weights were trained with in another way; a sentence each.

    Raises:
        UserError: they were trained with another number of heads, with which they mean nothing.
    """
    if own.shape.heads != theirs.shape.heads and own.shape.width == theirs.shape.width:
        raise UserError(
            f"encoder.heads is {own.shape.heads}, and initial.weights {weights} were trained with "
            f"{theirs.shape.heads}: the shapes are the same, and the features would be nonsense"
        )
    for name in _UNSEEN:
        mine, other = getattr(own, name), getattr(theirs, name)
        if name == "ffn":
            mine, other = own.shape.ffn, theirs.shape.ffn
        if name == "position":
            for key in _OF_POSITIONS:
                if getattr(mine, key) != getattr(other, key):
                    yield _other(f"encoder.position.{key}", getattr(mine, key), getattr(other, key))
        elif mine != other:
            yield _other(f"encoder.{name}", mine, other)


def _other(key: str, mine: Any, other: Any) -> str:
    return f"{key} is {mine}, and the weights were trained with {other}"
