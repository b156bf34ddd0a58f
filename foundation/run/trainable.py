"""Which parameters a stage trains: patterns over their names, and short words for the parts of an encoder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from foundation.branches.base import Branch, EncoderBranch
from foundation.engine.learner import Learner
from foundation.errors import RecipeError
from foundation.plugins import near

KEY = "train.only"
"""Key of the flat recipe that has the patterns."""
WORDS = {
    "registers": ("register_tokens", "reg_token"),
    "positions": ("positions", "pos_embed"),
    "patch_embed": ("tokenizer", "patch_embed"),
    "class_token": ("cls_token",),
}
"""Short words, and the parts of an encoder that they mean."""
_BLOCKS = re.compile(r"blocks\.(-?\d+)")
_SHOWN = 12  # names in a message


def choose(learner: Learner, patterns: Sequence[str] | None) -> None:
    """Freeze all that no pattern means: it gets no gradient and is in no group of the optimizer.

    A pattern is one of :data:`WORDS`, ``blocks.3`` (``blocks.-1``: the last), or stands for names as in
    ``student.encoder.trunk.*``, ``student.heads.cls``, ``objectives.dino``, also without the branch (``heads.cls``); a
    name that is meant means all below it.

    Args:
        learner: of a stage.
        patterns: None: all that its branches and objectives train.

    Raises:
        RecipeError: a pattern means nothing (with the names there are), or nothing is trained.
    """
    named = dict(_named(learner))
    if patterns is None:
        return
    blocks = dict(_blocks(learner))
    problems: list[tuple[str, str]] = []
    chosen: set[str] = set()
    for number, pattern in enumerate(patterns):
        found = {name for name in named if _means(pattern, name, blocks)}
        if not found:
            there = _there(named, blocks)
            text = f"no parameter is meant by {pattern!r}{near(pattern, there)}; there are: {_listed(there)}"
            problems.append((f"{KEY}.{number}", text))
        chosen |= found
    if not patterns:
        there = _listed(_there(named, blocks))
        problems.append((KEY, f"nothing is trained: name a pattern; there are: {there}"))
    if problems:
        raise RecipeError(problems)
    for name, parameter in named.items():
        parameter.requires_grad_(name in chosen)


def _trained(learner: Learner) -> Iterator[tuple[str, Branch]]:
    return ((name, branch) for name, branch in learner.named_branches.items() if branch.trains)


def _named(learner: Learner) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that can be trained, by ``BRANCH.encoder.…``, ``BRANCH.heads.…`` or ``objectives.…``."""
    for name, branch in _trained(learner):
        for key, parameter in branch.named_parameters():
            if parameter.requires_grad:
                yield f"{name}.{key}", parameter
    for key, parameter in learner.objectives.named_parameters():
        if parameter.requires_grad:
            yield f"objectives.{key}", parameter


def _blocks(learner: Learner) -> Iterator[tuple[str, tuple[int, int]]]:
    """Block of each parameter that belongs to one, and how many there are."""
    for name, branch in _trained(learner):
        if isinstance(branch, EncoderBranch):
            encoder = branch.encoder
            depth = int(encoder.depth)
            for key, _ in encoder.named_parameters():
                if 0 < (layer := int(encoder.layer_of(key))) <= depth:
                    yield f"{name}.encoder.{key}", (layer - 1, depth)


def _means(pattern: str, name: str, blocks: dict[str, tuple[int, int]]) -> bool:
    branch, _, rest = name.partition(".")
    part, _, inside = rest.partition(".")
    in_encoder = branch != "objectives" and part == "encoder"
    if pattern in WORDS:
        return in_encoder and not {*inside.split(".")}.isdisjoint(WORDS[pattern])
    if number := _BLOCKS.fullmatch(pattern):
        if name not in blocks:
            return False
        block, depth = blocks[name]
        wanted = int(number[1])
        return block == (wanted if wanted >= 0 else depth + wanted)
    return any(fnmatchcase(text, form) for text in (name, rest) for form in (pattern, f"{pattern}.*"))


def _there(named: dict[str, nn.Parameter], blocks: dict[str, tuple[int, int]]) -> list[str]:
    """What patterns can name, the coarse parts only."""
    parts = dict.fromkeys(".".join(name.split(".")[:3]) for name in named)
    words = [word for word in WORDS if any(_means(word, name, blocks) for name in named)]
    depth = max((depth for _, depth in blocks.values()), default=0)
    return [*words, *([f"blocks.0 to blocks.{depth - 1}"] if depth else []), *parts]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
