"""Which parameters a stage trains: patterns over their names, and short words for the parts of an encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from foundation.branches.base import Branch, EncoderBranch
from foundation.engine.learner import Learner
from foundation.errors import RecipeError
from foundation.plugins import near

KEY = "train.only"
"""Key of the flat recipe that has the patterns."""
TOKENS = {
    "registers": ("register_tokens", "reg_token"),
    "positions": ("positions", "pos_embed", "positional_embedding"),
    "class_token": ("cls_token", "class_embedding"),
}
"""Short words for parameters that an encoder adds to its tokens, and what encoders call them."""
_SHOWN = 40  # names in a message


def choose(learner: Learner, patterns: Sequence[str] | None) -> None:
    """Freeze all that no pattern means: it gets no gradient and is in no group of the optimizer.

    A pattern is one of :data:`TOKENS`, ``patch_embed``, ``blocks.3`` (``blocks.-1``: the last), or stands for names as
    in ``student.encoder.trunk.*``, ``student.heads.cls``, ``objectives.dino``, also without the branch
    (``heads.cls``); a name that is meant means all below it. With ``!`` in front it takes away what it means from those
    in front of it, or from all where it is the first (``!student.encoder``).

    Args:
        learner: of a stage.
        patterns: None: all that its branches and objectives train.

    Raises:
        RecipeError: a pattern means nothing (with the names there are), or nothing is trained.
    """
    named = dict(_named(learner))
    if patterns is None:
        return
    words = _words(learner)
    there = _there(named, words)
    problems: list[tuple[str, str]] = []
    chosen: set[str] = set()
    for number, pattern in enumerate(patterns):
        away, pattern = pattern.startswith("!"), pattern.removeprefix("!")
        found = {name for name in named if _means(pattern, name, words)}
        if not found:
            text = f"no parameter is meant by {pattern!r}{near(pattern, there)}; there are: {_listed(there)}"
            problems.append((f"{KEY}.{number}", text))
        if away:
            chosen = ({*named} if number == 0 else chosen) - found
        else:
            chosen |= found
    if not problems and patterns and not chosen:
        problems.append(
            (KEY, f"nothing is trained: {', '.join(patterns)} leaves no parameter; there are: {_listed(there)}")
        )
    if not patterns:
        problems.append((KEY, f"nothing is trained: name a pattern; there are: {_listed(there)}"))
    if problems:
        raise RecipeError(problems)
    for name, parameter in named.items():
        parameter.requires_grad_(name in chosen)
    for module in [part for _, branch in _trained(learner) for part in branch.modules()]:
        scales = [*module.parameters(recurse=False)]
        if isinstance(module, _BatchNorm) and scales and not any(scale.requires_grad for scale in scales):
            module.eval()  # frozen with the statistics that it has gathered


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


def _words(learner: Learner) -> dict[str, set[str]]:
    """Short words that mean each parameter of an encoder."""
    words: dict[str, set[str]] = {}
    for branch_name, branch in _trained(learner):
        if not isinstance(branch, EncoderBranch):
            continue
        encoder = branch.encoder
        for name, _ in encoder.named_parameters():
            parts, block, depth = {*name.split(".")}, encoder.layer_of(name) - 1, encoder.depth
            meant = {word for word, called in TOKENS.items() if not parts.isdisjoint(called)}
            if encoder.is_patch_embed(name):
                meant.add("patch_embed")
            if 0 <= block < depth:
                meant |= {f"blocks.{block}", f"blocks.{block - depth}"}
            words[f"{branch_name}.encoder.{name}"] = meant
    return words


def _means(pattern: str, name: str, words: Mapping[str, set[str]]) -> bool:
    if pattern in words.get(name, ()):
        return True
    rest = name.partition(".")[2]
    return any(fnmatchcase(text, form) for text in (name, rest) for form in (pattern, f"{pattern}.*"))


def _there(named: Iterable[str], words: Mapping[str, set[str]]) -> list[str]:
    """What patterns can name: short words and the coarse parts."""
    short = dict.fromkeys(word for name in named for word in sorted(words.get(name, ())) if "-" not in word)
    return [*short, *dict.fromkeys(".".join(name.split(".")[:3]) for name in named)]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
