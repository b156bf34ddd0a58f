"""Whether all processes hold the same state: a checkpoint keeps process 0's, and the others must lose nothing by it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from foundation.errors import DisagreementError
from foundation.parallel import collective

_CHUNK = 2**20  # numbers handled at a time: temporaries of 8 MiB


@torch.no_grad()
def checksum(tensor: Tensor) -> Tensor:
    """[] int64 on the tensor's device: sum of its bits, as integers, times odd numbers that count the places.

    One number that differs changes it for certain, and so does almost anything else, numbers in another order included.
    """
    size = tensor.element_size()
    kind = torch.int32 if size % 4 == 0 else torch.int16 if size == 2 else torch.uint8
    bits = tensor.detach().contiguous().flatten().view(kind)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, len(bits), _CHUNK):
        part = bits[start : start + _CHUNK]
        places = torch.arange(2 * start + 1, 2 * (start + len(part)) + 1, 2, device=part.device)
        total += places.mul_(part).sum()  # overflow wraps around, alike everywhere
    return total


def check_agreement(tensors: Mapping[str, Mapping[str, Tensor]], step: int) -> None:
    """Compare the state of all processes bit for bit; all call this at the same step. Free in a single process.

    The state is read once where it lies, and one number for each tensor travels.

    Args:
        tensors: by checkpoint file and name, as from :func:`foundation.engine.state.capture`.
        step: optimiser steps done, for the message.

    Raises:
        DisagreementError: in all processes alike, naming the first tensor that differs and who differs from process 0.
    """
    if collective.world_size() == 1:
        return
    own = {f"{file} {name!r}": checksum(tensor) for file, group in tensors.items() for name, tensor in group.items()}
    sums = torch.stack([total.cpu() for total in own.values()] or [torch.zeros((), dtype=torch.int64)])
    everyone = collective.gather_rows(sums[None])  # [processes, tensors]
    differs = everyone != everyone[0]
    if not bool(differs.any()):
        return
    names = [name for name, wrong in zip(own, differs.any(dim=0).tolist(), strict=True) if wrong]
    others = differs[:, list(own).index(names[0])].nonzero().flatten().tolist()
    more = f" and {len(names) - 1} more tensors differ" if len(names) > 1 else " differs"
    raise DisagreementError(
        f"step {step:,}: the processes do not hold the same state, so that it was not saved: {names[0]}{more} "
        f"between process 0 and process{'es' if len(others) > 1 else ''} {', '.join(map(str, others))}. Something "
        "changes it by what one process alone sees: an objective or encoder of your own must reduce such state over "
        "all of them (foundation.parallel.collective). If all parts are foundation's, please report it. "
        "The checkpoints before this step are whole"
    )
