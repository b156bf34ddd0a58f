"""From one stage to the next: branches go on by name, with the weights that the stage before has left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from foundation.branches.base import Branch, EncoderBranch

ENCODER = "encoder"


def take_over(name: str, branch: Branch, previous: Mapping[str, Branch]) -> list[str]:
    """Put the weights of the branch of this name of the stage before into a new one, part by part.

    Trained branches and averages go on; branches that stand still are what their kind says. A part is the encoder, or
    a head; those that were not there before keep their first weights, as registers do that an encoder is given.

    Args:
        name: of the branch.
        branch: as it was built; it may be on the meta device, where only the shapes are compared.
        previous: branches of the stage before.

    Returns:
        What is wrong with each part that has other parameters or shapes than before; nothing is taken over then.
    """
    before = previous.get(name)
    if before is None or not (branch.trains or branch.follows is not None):
        return []
    own, theirs = _parts(branch), _parts(before)
    if isinstance(branch, EncoderBranch) and ENCODER in theirs:
        there = {key.removeprefix(f"{ENCODER}."): tensor for key, tensor in theirs[ENCODER].items()}
        theirs[ENCODER] = {f"{ENCODER}.{key}": tensor for key, tensor in branch.encoder.adopted(there).items()}
    both = [part for part in own if part in theirs]
    problems = [text for part in both for text in _different(name, part, own[part], theirs[part])]
    with torch.no_grad():
        for part in both if not problems else ():
            for key, tensor in own[part].items():
                if not tensor.is_meta:
                    tensor.copy_(theirs[part][key])
    return problems


def _parts(branch: Branch) -> dict[str, dict[str, Tensor]]:
    """State by part: ``encoder``, ``heads.NAME``."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in branch.state_dict().items():
        steps = key.split(".")
        parts.setdefault(".".join(steps[:2]) if steps[0] == "heads" else steps[0], {})[key] = tensor
    return parts


def _different(name: str, part: str, own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Iterator[str]:
    different = sorted(own.keys() ^ theirs.keys())
    different += [key for key in own if key in theirs and own[key].shape != theirs[key].shape]
    if not different:
        return
    first, more = different[0], f" and {len(different) - 1} more" if len(different) > 1 else ""
    then, now = (f"{list(side[first].shape)}" if first in side else "not there" for side in (theirs, own))
    what = "the encoder" if part == ENCODER else f"head {part.removeprefix('heads.')!r}"
    yield (
        f"branch {name!r} goes on from the stage before, and {what} does not fit: {first}{more} ({then} before, {now} "
        "now). Give it another name, or the settings that it had"
    )
