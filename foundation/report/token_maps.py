"""Pictures of tokens: principal components of patch tokens as colours, attention by head and by token that attends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.modalities.drawing import foreground, pca_colours
from foundation.probes.features import depth_of
from foundation.probes.results import progress
from foundation.report.looked_at import Looked, Painter
from foundation.report.picture_table import Cell, Line, PictureTable
from foundation.zoo.load import LoadedEncoder


@dataclass(frozen=True)
class Attention:
    """How the tokens of one block attend to the patch tokens of one view.

    Attributes:
        weights: by the name of the token that attends, [heads, N] softmax weights. Of each token they sum to 1 only
            together with those on class and register tokens, which are left out.
        block: number of the block, from 0.
    """

    weights: dict[str, Tensor]
    block: int


def attention_of(encoder: Any, view: Tensor, block: int | None = None) -> Attention:
    """Attention of the class token and of each register token; of all patch tokens together where there are neither.

    Args:
        encoder: in evaluation mode.
        view: [...] one evaluation view, on the encoder's device.
        block: from 0; negative from the end; None: the last.

    Raises:
        UserError: the encoder has no such block, or does not tell what its attention sees.
    """
    depth = depth_of(encoder)
    number = depth - 1 if block is None else block + depth if block < 0 else block
    if not 0 <= number < depth:
        raise UserError(f"--block {block}: this encoder has blocks 0 to {depth - 1}")
    tap = f"attention_map.{number}"
    if tap not in encoder.tap_names():
        raise UserError(
            f"this encoder ({type(encoder).__module__.rpartition('.')[2]}) does not tell what its attention sees: "
            "pictures of it need a transformer of this framework (encoder 'vit')"
        )
    with torch.inference_mode():
        features = encoder([view[None]], taps=(tap,))[0]
    weights = features.taps[tap][0].float().cpu()  # [heads, queries, keys]
    return Attention(by_token(weights, features.registers.shape[1], features.patches.shape[1]), number)


def by_token(weights: Tensor, registers: int, patches: int) -> dict[str, Tensor]:
    """Rows of an attention map by the name of the token that attends.

    Args:
        weights: [heads, tokens, tokens] softmax weights: class token where there is one, registers, patches.
        registers: their number.
        patches: N.

    Returns:
        [heads, N] each.
    """
    front = weights.shape[-1] - patches
    first = front - registers
    rows = {"class token": weights[:, 0, front:]} if first else {}
    rows |= {f"register {number + 1}": weights[:, first + number, front:] for number in range(registers)}
    return rows or {"mean of patches": weights[:, front:, front:].mean(dim=1)}


def patch_tokens(loaded: LoadedEncoder, seen: Sequence[Looked], device: Any) -> list[Tensor]:
    """Patch tokens [N, D] float32 of each sample, on the CPU.

    Raises:
        UserError: the encoder has none for the places of its grid.
    """
    painter, found = Painter(loaded), []
    with torch.inference_mode():
        for one in progress(seen, len(seen), "patch tokens", "sample"):
            features: Any = loaded.encoder([one.view[None].to(device)])[0]
            painter.check(one.view, features.patches.shape[1])
            found.append(features.patches[0].float().cpu())
    return found


def pca_table(
    loaded: LoadedEncoder,
    seen: Sequence[Looked],
    device: Any = "cpu",
    *,
    only_foreground: bool = False,
    own_basis: bool = False,
    centred: bool = False,
    across: int | None = None,
) -> PictureTable:
    """Samples, and the first three principal components of their patch tokens as red, green and blue.

    Args:
        loaded: the model.
        seen: samples.
        device: of the encoder.
        only_foreground: split off the background of each sample by its own first component, see
            :func:`foundation.modalities.drawing.foreground`; it is black.
        own_basis: components of each sample by itself; else of all together, so that colours can be compared.
        centred: take the mean over all samples off the tokens of each place first: what is the same in all of them,
            such as their positions.
        across: samples side by side; None: as many as fit.

    Raises:
        UserError: the encoder has no patch tokens on a grid.
    """
    painter = Painter(loaded)
    tokens = patch_tokens(loaded, seen, device)
    if not own_basis and len({len(one) for one in tokens}) > 1:
        raise UserError("samples of several sizes have no common map: add --own-basis, or leave --size out")
    if centred:
        if painter.free or len(seen) < 3 or len({len(one) for one in tokens}) > 1:
            raise UserError("--centred needs at least 3 samples of one size, with their tokens on a grid")
        mean = torch.stack(tokens).mean(dim=0)
        tokens = [one - mean for one in tokens]
    groups = [[number] for number in range(len(seen))] if own_basis else [list(range(len(seen)))]
    colours: list[Any] = [None] * len(seen)
    for group in groups:
        patches = torch.stack([tokens[number] for number in group])
        shown = None
        if only_foreground:
            shown = torch.cat([foreground(tokens[n][None], painter.edge(seen[n].view)) for n in group])
        for number, drawn in zip(group, pca_colours(patches, shown), strict=True):
            colours[number] = drawn
    cells = []
    for one, drawn in zip(seen, colours, strict=True):
        pair = [Cell(painter.sample(one.view), one.label)] * (not painter.with_sample)
        map_ = Cell(painter.colours(one.view, drawn), one.label if painter.with_sample else "", sharp=painter.sharp)
        cells.append((*pair, map_))
    cell = _cell(cells[0][0].picture.shape)
    if across is None:
        across = min(max(1, 1000 // (len(cells[0]) * cell[0])), -(-len(cells) // 2))
    lines = [Line(tuple(c for pair in cells[n : n + across] for c in pair)) for n in range(0, len(cells), across)]
    grid = " x ".join(map(str, painter.grid(seen[0].view)))
    basis = "each sample by itself" if own_basis else "one basis for all samples: like colours mean like features"
    about = [
        f"The first three principal components of {grid} patch tokens as red, green and blue, {basis}. "
        "1st to 99th percentile of each component."
    ]
    if centred:
        about.append("The mean over all samples is taken off at each place: what all have in common is not shown.")
    if only_foreground:
        about.append("Black: the background, split off by the first component of each sample.")
    about.append(painter.legend)
    return PictureTable(
        "Principal components of patch tokens",
        (f"By {loaded.description}.", *filter(None, about)),
        (("PCA",) if painter.with_sample else ("sample", "PCA")) * min(across, len(cells)),
        tuple(lines),
        most=cell,
    )


def attention_table(
    loaded: LoadedEncoder,
    seen: Sequence[Looked],
    device: Any = "cpu",
    *,
    block: int | None = None,
    heads: int | None = None,
) -> PictureTable:
    """Samples, and what the class token and each register attends to, by head.

    Args:
        loaded: the model.
        seen: samples.
        device: of the encoder.
        block: from 0; negative from the end; None: the last.
        heads: draw so many single ones; None: all.

    Raises:
        UserError: see :func:`attention_of`.
    """
    painter, lines = Painter(loaded), []
    number, count = 0, 0
    for one in progress(seen, len(seen), "attention", "sample"):
        found = attention_of(loaded.encoder, one.view.to(device), block)
        number = found.block
        for place, (token, weights) in enumerate(found.weights.items()):
            painter.check(one.view, weights.shape[1])
            maps = [weights.mean(dim=0), *(weights[:heads] if heads else weights)]
            count = max(count, len(maps) - 1)
            first = Cell(painter.sample(one.view)) if place == 0 else None
            sharp = painter.sharp and not painter.smooth
            drawn = tuple(Cell(painter.heat(one.view, values.numpy()), sharp=sharp) for values in maps)
            name = ", ".join(filter(None, (one.key, one.label))) if place == 0 else ""
            lines.append(Line((first, *drawn), name, token))
    several = len(lines) > len(seen)
    about = (
        f"Attention to the patch tokens in block {number} (blocks count from 0), each map on a scale of its own: "
        "bright is much." + (" One row for each token that attends." if several else ""),
        painter.legend,
    )
    first = lines[0].cells[0]
    assert first is not None
    wide, tall = _cell(first.picture.shape)
    return PictureTable(
        "Attention by head",
        (f"By {loaded.description}.", *filter(None, about)),
        ("sample", "mean of heads", *(f"head {head + 1}" for head in range(count))),
        tuple(lines),
        most=(wide * 4 // 5, tall * 4 // 5),
    )


def _cell(shape: tuple[int, ...]) -> tuple[int, int]:
    """Width and height that pictures of a shape are drawn in: of about one area, whatever their proportions."""
    height, width = shape[:2]
    side = 150.0
    stretch = min(max((width / height) ** 0.5, 0.75), 1.8)
    return round(side * stretch), round(side / stretch * (1.0 if stretch < 1.8 else 1.3))
