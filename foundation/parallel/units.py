"""The repeated blocks of a network: what is gathered, computed anew, or compiled as one piece."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def unit_lists(module: nn.Module) -> list[list[nn.Module]]:
    """Blocks of a network, each list in the order of the forward pass, inner lists first.

    Blocks are the members of lists and sequences of equal parts that have layers of their own: blocks of a transformer,
    stages of a hierarchical network; not the linear layers of a perceptron.

    Args:
        module: an encoder, a head.
    """
    found: list[list[nn.Module]] = []
    for container in reversed([*module.modules()]):
        if not isinstance(container, nn.ModuleList | nn.Sequential) or len(container) < 2:
            continue
        members = [*container]
        alike = all(type(one) is type(other) for one, other in pairwise(members))
        if alike and all(any(True for _ in one.children()) and has_parameters(one) for one in members):
            found.append(members)
    return found


def units(module: nn.Module) -> list[nn.Module]:
    """All blocks of a network once, inner ones first; see :func:`unit_lists`."""
    return list(dict.fromkeys(block for blocks in unit_lists(module) for block in blocks))


def innermost(module: nn.Module) -> list[nn.Module]:
    """Blocks that hold no further blocks; see :func:`unit_lists`."""
    every = units(module)
    known = set(every)
    return [block for block in every if not any(part in known for part in block.modules() if part is not block)]


def has_parameters(module: nn.Module) -> bool:
    """Whether a module, or a part of it, has parameters."""
    return any(True for _ in module.parameters())
