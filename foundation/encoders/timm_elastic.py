"""Which part of a timm backbone is a smaller one: Swin and ResNet as in POA (Zhang et al. 2024).

Everywhere the leading entries are kept, and a layer that is fed by fewer of them has its weight (never its bias)
multiplied by alpha = inputs of the whole / inputs that are left, so that its output stays as large as it was.

*Swin*: width is that of the first stage, in whole heads of every stage; each stage may lose blocks (in the paper the
third does). q, k and v are sliced each by itself, and so are the four parts that patch merging puts side by side; alpha
is on qkv, proj, fc1, fc2 and, as in POA's code, on the reduction of patch merging. In two things that code is not
followed, so that what is cut out is a plain Swin: the norm behind the patch embedding takes its statistics over the
channels that are left (there: over all of them), and every second block that is left shifts its windows (there: a block
keeps its own shift, and neighbours without one between them occur).

*ResNet*: the middle channels of the bottlenecks alone, so that stem, shortcuts and features stay as they are; width is
their number in the first stage (64, 96 and 128 in the paper), alpha is on the second and the third convolution. The
first block of a stage always stays: it strides. GroupNorm has as many groups in every size, as timm and POA's code have
it. BatchNorm uses the leading running statistics of the whole network: a smaller one's own are never taken, which is
why the paper has GroupNorm.
"""

from __future__ import annotations

import dataclasses
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from foundation.encoders.elastic import Index, Leading, Piece, Slice, SubNetwork, kept_blocks
from foundation.errors import UserError

ALL = slice(None)
Part = tuple[str, str, tuple[Index, ...], float]
"""Name in the smaller network, name in the whole one, index of each axis, factor."""


@dataclass(frozen=True)
class Family(ABC):
    """How one family of timm models is made smaller.

    Attributes:
        config: of the encoder, :class:`foundation.encoders.timm.Config`.
        model: of timm.
        full: the whole network.
        step: smallest difference between two widths.
    """

    config: Any
    model: Any
    full: SubNetwork
    step: int

    def check_width(self, width: int) -> None:
        """Refuse widths that are none of ``step``, 2 ``step``, ..., the full width.

        Raises:
            UserError: says which there are.
        """
        if not 0 < width <= self.full.width or width % self.step:
            most = self.full.width
            there = f"{self.step} to {most} in steps of {self.step}" if self.step < most else f"{most} alone"
            raise UserError(f"width {width} is none of timm {self.config.model!r}: there is {there} ({self.unit})")

    @property
    @abstractmethod
    def unit(self) -> str:
        """What a step of the width is, for a person."""

    def check(self, size: SubNetwork) -> None:
        """Refuse what is no part of this network.

        Raises:
            UserError: says which widths and depths there are.
        """
        self.check_width(size.width)
        most = self.full.depths
        fits = len(size.depths) == len(most)
        if not fits or not all(1 <= depth <= whole for depth, whole in zip(size.depths, most, strict=True)):
            spans = ", ".join(f"1 to {whole}" if whole > 1 else "1" for whole in most)
            raise UserError(
                f"depths {' '.join(map(str, size.depths))} are none of timm {self.config.model!r} as it is built here: "
                f"it has {len(most)} stages of {spans} blocks, so write {len(most)} numbers, at most "
                f"{' '.join(map(str, most))}"
            )

    def slice_of(self, size: SubNetwork) -> Slice:
        """What a smaller network takes from the whole one.

        Raises:
            UserError: it is none of its parts.
        """
        self.check(size)
        pieces: dict[str, Piece] = {}
        there = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        for name, source, index, scale in self.parts(size):
            if source in there:  # biases and statistics that this model does without
                pieces[f"model.{name}"] = Piece(f"model.{source}", index, scale)
        config = dataclasses.replace(
            self.config, pretrained=False, weights=None, arguments={**self.config.arguments, **self.arguments(size)}
        )
        rates = [(name, _rate(self.model.get_submodule(source))) for name, source in self.residuals(size)]

        def prepare(twin: Any) -> None:
            for name, rate in rates:
                _set_rate(twin.model.get_submodule(name), rate)

        return Slice(config, pieces, prepare)

    @abstractmethod
    def arguments(self, size: SubNetwork) -> dict[str, Any]:
        """Arguments by which timm builds it."""

    @abstractmethod
    def parts(self, size: SubNetwork) -> Iterator[Part]:
        """Every parameter and buffer of it, and some that there may not be."""

    @abstractmethod
    def residuals(self, size: SubNetwork) -> Iterator[tuple[str, str]]:
        """Modules that drop paths in it, and those that they stand for."""


@dataclass(frozen=True)
class Swin(Family):
    """Swin Transformer (Liu et al. 2021)."""

    @classmethod
    def of(cls, config: Any, model: Any) -> Swin | None:
        """The family of a model; None where it is of another, or of a kind that cannot be sliced."""
        kind = importlib.import_module("timm.models.swin_transformer").SwinTransformer
        if type(model) is not kind or not isinstance(model.embed_dim, int):
            return None
        blocks = [block for stage in model.layers for block in stage.blocks]
        if not all(block.dynamic_mask for block in blocks):
            return None  # masks that stand in the model follow its shifts, not those of what is left of it
        full = SubNetwork(model.embed_dim, tuple(len(stage.blocks) for stage in model.layers))
        heads = [stage.blocks[0].attn.num_heads for stage in model.layers]
        # The width of a head stays, so each stage's share of its heads must be whole.
        steps = [width for width in range(1, full.width + 1) if all(n * width % full.width == 0 for n in heads)]
        return cls(config, model, full, steps[0])

    @property
    def unit(self) -> str:
        return "whole heads of every stage"

    def arguments(self, size: SubNetwork) -> dict[str, Any]:
        heads = [stage.blocks[0].attn.num_heads * size.width // self.full.width for stage in self.model.layers]
        return {"embed_dim": size.width, "depths": size.depths, "num_heads": tuple(heads)}

    def parts(self, size: SubNetwork) -> Iterator[Part]:
        alpha = self.full.width / size.width
        first = Leading(size.width)
        for name in ("proj.weight", "proj.bias", "norm.weight", "norm.bias"):
            yield f"patch_embed.{name}", f"patch_embed.{name}", (first,), 1.0
        for stage, blocks in enumerate(self._blocks(size)):
            whole, left = self.full.width << stage, size.width << stage
            wide = Leading(left)
            if stage:
                merged, down = Leading(left // 2, 4), f"layers.{stage}.downsample"
                for name in ("norm.weight", "norm.bias"):
                    yield f"{down}.{name}", f"{down}.{name}", (merged,), 1.0
                yield f"{down}.reduction.weight", f"{down}.reduction.weight", (wide, merged), alpha
            for name, source in blocks:
                yield from self._block(name, source, whole, left, alpha)
        last = Leading(size.width << stage)
        for name in ("norm.weight", "norm.bias"):
            yield name, name, (last,), 1.0

    def _block(self, name: str, source: str, whole: int, left: int, alpha: float) -> Iterator[Part]:
        block = self.model.get_submodule(source)
        wide = Leading(left)
        attention = block.attn.proj.in_features  # heads of a width of their own, where the model is built so
        inner = attention * left // whole
        hidden = block.mlp.fc1.out_features
        fewer = int(left * block.mlp_ratio)
        of_heads = Leading(block.attn.num_heads * left // whole)
        thirds, values = Leading(inner, 3), Leading(inner)
        middle = Leading(fewer)
        for part, index, scale in (
            ("norm1.weight", (wide,), 1.0),
            ("norm1.bias", (wide,), 1.0),
            ("attn.relative_position_bias_table", (ALL, of_heads), 1.0),
            ("attn.relative_position_index", (), 1.0),
            ("attn.qkv.weight", (thirds, wide), alpha),
            ("attn.qkv.bias", (thirds,), 1.0),
            ("attn.proj.weight", (wide, values), attention / inner),
            ("attn.proj.bias", (wide,), 1.0),
            ("norm2.weight", (wide,), 1.0),
            ("norm2.bias", (wide,), 1.0),
            ("mlp.fc1.weight", (middle, wide), alpha),
            ("mlp.fc1.bias", (middle,), 1.0),
            ("mlp.fc2.weight", (wide, middle), hidden / fewer),
            ("mlp.fc2.bias", (wide,), 1.0),
        ):
            yield f"{name}.{part}", f"{source}.{part}", index, scale

    def residuals(self, size: SubNetwork) -> Iterator[tuple[str, str]]:
        for blocks in self._blocks(size):
            for name, source in blocks:
                for part in ("drop_path1", "drop_path2"):
                    yield f"{name}.{part}", f"{source}.{part}"

    def _blocks(self, size: SubNetwork) -> Iterator[list[tuple[str, str]]]:
        """For each stage the blocks that it has, each with the one that it is."""
        for stage, (whole, left) in enumerate(zip(self.full.depths, size.depths, strict=True)):
            kept = kept_blocks(left, whole)
            yield [(f"layers.{stage}.blocks.{i}", f"layers.{stage}.blocks.{j}") for i, j in enumerate(kept)]


@dataclass(frozen=True)
class ResNet(Family):
    """Residual networks of bottlenecks (He et al. 2016)."""

    channels: int = 0
    """Of the first stage, for ``base_width`` 64."""

    @classmethod
    def of(cls, config: Any, model: Any) -> ResNet | None:
        """The family of a model; None where it is of another, or of a kind that cannot be sliced."""
        library = importlib.import_module("timm.models.resnet")
        if type(model) is not library.ResNet:
            return None
        stages = list(_stages(model))
        blocks = [block for stage in stages for block in stage]
        plain = all(type(block) is library.Bottleneck and _is_plain(block) for block in blocks)
        if not plain:
            return None
        channels = stages[0][0].conv3.out_channels // library.Bottleneck.expansion
        full = SubNetwork(stages[0][0].conv2.out_channels, tuple(len(stage) for stage in stages))
        groups = max(_groups(block.bn1) for block in blocks)
        middle = [stage[0].conv2.out_channels for stage in stages]

        def fits(width: int) -> bool:  # ``base_width`` is a whole number, and so are channels and those of a group
            whole = width * 64 % channels == 0 and all(count * width % full.width == 0 for count in middle)
            return whole and all(count * width // full.width % groups == 0 for count in middle)

        step = next((width for width in range(1, full.width) if fits(width)), full.width)
        return cls(config, model, full, step if full.width % step == 0 else full.width, channels)

    @property
    def unit(self) -> str:
        return "middle channels of the first stage, the same number in every group of a norm"

    def arguments(self, size: SubNetwork) -> dict[str, Any]:
        return {"layers": size.depths, "base_width": size.width * 64 // self.channels}

    def parts(self, size: SubNetwork) -> Iterator[Part]:
        named = [name for name, _ in (*self.model.named_parameters(), *self.model.named_buffers())]
        for name in named:
            if not name.startswith("layer"):
                yield name, name, (), 1.0
        alpha = self.full.width / size.width
        for name, source in self._blocks(size):
            block = self.model.get_submodule(source)
            middle = Leading(block.conv2.out_channels * size.width // self.full.width)
            sliced: dict[str, tuple[tuple[Index, ...], float]] = {
                "conv1.weight": ((middle,), 1.0),
                "conv2.weight": ((middle, middle), alpha),
                "conv3.weight": ((ALL, middle), alpha),
            }
            for norm in ("bn1", "bn2"):
                for part in ("weight", "bias", "running_mean", "running_var"):
                    sliced[f"{norm}.{part}"] = ((middle,), 1.0)
            for part in (full.removeprefix(f"{source}.") for full in named if full.startswith(f"{source}.")):
                index, scale = sliced.get(part, ((), 1.0))
                yield f"{name}.{part}", f"{source}.{part}", index, scale

    def residuals(self, size: SubNetwork) -> Iterator[tuple[str, str]]:
        for name, source in self._blocks(size):
            if self.model.get_submodule(source).drop_path is not None:
                yield f"{name}.drop_path", f"{source}.drop_path"

    def _blocks(self, size: SubNetwork) -> Iterator[tuple[str, str]]:
        for stage, (whole, left) in enumerate(zip(self.full.depths, size.depths, strict=True), start=1):
            for i, j in enumerate(kept_blocks(left, whole)):
                yield f"layer{stage}.{i}", f"layer{stage}.{j}"


def family_of(config: Any, model: Any) -> Family | None:
    """How a model of timm is made smaller; None where it cannot be."""
    return Swin.of(config, model) or ResNet.of(config, model)


def _stages(model: Any) -> Iterator[Sequence[Any]]:
    number = 1
    while isinstance(stage := getattr(model, f"layer{number}", None), nn.Sequential):
        yield list(stage)
        number += 1


def _is_plain(block: Any) -> bool:
    """Whether only its convolutions and norms have channels."""
    same = block.conv1.out_channels == block.conv2.in_channels == block.conv2.out_channels and block.conv2.groups == 1
    return bool(same and block.se is None and isinstance(block.aa, nn.Identity) and _groups(block.bn1) > 0)


def _groups(norm: nn.Module) -> int:
    """Groups of channels that a norm takes together; 1 where each channel stands for itself, 0 for other norms."""
    if isinstance(norm, nn.GroupNorm):
        return norm.num_groups
    return int(isinstance(norm, nn.modules.batchnorm._BatchNorm))


def _rate(module: nn.Module) -> float:
    rate = getattr(module, "drop_prob", 0.0)  # nothing is dropped in the first block: no such module
    return float(rate)


def _set_rate(module: Any, rate: float) -> None:
    if isinstance(module, importlib.import_module("timm.layers").DropPath):
        module.drop_prob = rate
