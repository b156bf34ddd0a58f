"""From one stage to the next: branches go on by name, with the weights that the stage before has left."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from foundation.branches.base import Branch
from foundation.errors import UserError


def take_over(name: str, branch: Branch, previous: Mapping[str, Branch]) -> None:
    """Put the weights of the branch of this name of the stage before into a new one, part by part.

    Trained branches and averages go on; branches that stand still are what their kind says. A part is the encoder, or
    a head; those that were not there before keep their first weights.

    Args:
        name: of the branch.
        branch: as it was built; it may be on the meta device, where only the shapes are compared.
        previous: branches of the stage before.

    Raises:
        UserError: a part of the same name has other parameters or shapes.
    """
    before = previous.get(name)
    if before is None or not (branch.trains or branch.follows is not None):
        return
    own, theirs = _parts(branch), _parts(before)
    for part in own.keys() & theirs.keys():
        _compare(name, part, own[part], theirs[part])
    with torch.no_grad():
        for part in own.keys() & theirs.keys():
            for key, tensor in own[part].items():
                if not tensor.is_meta:
                    tensor.copy_(theirs[part][key])


def _parts(branch: Branch) -> dict[str, dict[str, Tensor]]:
    """State by part: ``encoder``, ``heads.NAME``."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in branch.state_dict().items():
        steps = key.split(".")
        parts.setdefault(".".join(steps[:2]) if steps[0] == "heads" else steps[0], {})[key] = tensor
    return parts


def _compare(name: str, part: str, own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    different = sorted(own.keys() ^ theirs.keys())
    different += [key for key in own if key in theirs and own[key].shape != theirs[key].shape]
    if not different:
        return
    first, more = different[0], f" and {len(different) - 1} more" if len(different) > 1 else ""
    then, now = (f"{list(side[first].shape)}" if first in side else "not there" for side in (theirs, own))
    what = "the encoder" if part == "encoder" else f"head {part.removeprefix('heads.')!r}"
    raise UserError(
        f"branch {name!r} goes on from the stage before, and {what} does not fit: {first}{more} ({then} before, {now} "
        "now). Give it another name, or the settings that it had"
    )
