"""Whether processes that should hold the same numbers do: a checkpoint keeps one copy, and the others must lose nothing
by it. Of a sharded tensor there is a copy of each block where it is replicated (HSDP), and none elsewhere (FSDP2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from foundation.errors import DisagreementError
from foundation.parallel import collective
from foundation.parallel.blocks import first_holders
from foundation.parallel.shards import local

# Numbers handled at a time: on a CPU they should stay in cache, on a GPU temporaries should stay small (128 MiB).
_CHUNK = {"cpu": 2**16}
_CHUNK_ELSEWHERE = 2**23


@torch.no_grad()
def checksum(tensor: Tensor) -> Tensor:
    """[] int64 on the tensor's device: sum of its bits, as integers, times odd numbers that count the places.

    One integer that differs changes it for certain, and almost anything else does, numbers in another order included.
    """
    flat = tensor.detach().contiguous().flatten()
    if not flat.numel():  # a shard may be empty, and has no stride then
        return torch.zeros((), dtype=torch.int64, device=flat.device)
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
        DisagreementError: in all processes alike, naming the first tensor that differs and who differs from whom.
    """
    if collective.world_size() == 1:
        return
    own = {f"{file} {name!r}": tensor for file, group in tensors.items() for name, tensor in group.items()}
    if not own:
        return
    sums = torch.stack([checksum(local(tensor)).cpu() for tensor in own.values()])
    everyone = collective.gather_rows(sums[None])  # [processes, tensors]
    first = torch.stack([first_holders(tensor) for tensor in own.values()], dim=1)  # [processes, tensors]
    differs = everyone != everyone.gather(0, first)
    if not bool(differs.any()):
        return
    wrong = differs.any(dim=0).nonzero().flatten().tolist()
    others = differs[:, wrong[0]].nonzero().flatten().tolist()
    firsts = sorted({int(first[other, wrong[0]]) for other in others})
    more = f" and {len(wrong) - 1} more tensors differ" if len(wrong) > 1 else " differs"
    raise DisagreementError(
        f"step {step:,}: the processes do not hold the same state, so that it was not saved: {list(own)[wrong[0]]}"
        f"{more} between {_processes(firsts)} and {_processes(others)}. Something "
        "changes it by what one process alone sees: an objective or encoder of your own must reduce such state over "
        "all of them (foundation.parallel.collective). If all parts are foundation's, please report it. "
        "The checkpoints before this step are whole"
    )


def _processes(numbers: Sequence[int]) -> str:
    return f"process{'es' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
