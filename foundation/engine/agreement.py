"""Whether all processes hold the same state: a checkpoint keeps process 0's, and the others must lose nothing by it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from foundation.errors import DisagreementError
from foundation.parallel import collective

# Numbers handled at a time: on a CPU they should stay in cache, on a GPU temporaries should stay small (128 MiB).
_CHUNK = {"cpu": 2**16}
_CHUNK_ELSEWHERE = 2**23


@torch.no_grad()
def checksum(tensor: Tensor) -> Tensor:
    """[] int64 on the tensor's device: sum of its bits, as integers, times odd numbers that count the places.

    One integer that differs changes it for certain, and almost anything else does, numbers in another order included.
    """
    flat = tensor.detach().contiguous().flatten()
    kinds = ((8, torch.int64), (4, torch.int32), (2, torch.int16), (1, torch.uint8))
    width, kind = next((width, kind) for width, kind in kinds if flat.nbytes % width == 0)
    if flat.storage_offset() * flat.element_size() % width:
        flat = flat.clone()  # a view of wider numbers must begin at one
    bits = flat.view(kind)
    step = _CHUNK.get(bits.device.type, _CHUNK_ELSEWHERE)
    odd = torch.arange(1, 2 * min(step, len(bits)) + 1, 2, device=bits.device)
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for start in range(0, len(bits), step):
        part = bits[start : start + step]
        # Overflow wraps around, alike everywhere.
        total += (odd[: len(part)] * part).sum() + 2 * start * part.sum(dtype=torch.int64)
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
