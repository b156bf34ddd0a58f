"""What the zoo reads of the recipe that stands, as text, beside weights: enough to build encoder and views again.

The other sections say how training went. They are not read here, so that weights stay usable when those change; of the
objectives only the branches that they train, where it is asked which sizes of an encoder were trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from foundation import config
from foundation.errors import UserError
from foundation.plugins import Plugin

_ELASTIC, _TRAINED, _STUDENT = "elastic", "trained", "student"


@dataclass(frozen=True, kw_only=True)
class _Branch:
    branch: Annotated[Any, Plugin("foundation.branches.{name}")]


@dataclass(frozen=True, kw_only=True)
class Sections:
    """Sections of a recipe; see the recipe's own for what they mean."""

    name: str
    """Of the run."""
    views: Annotated[Any, Plugin("foundation.modalities.{name}.views")]
    """Views of a sample; ``name`` is the modality."""
    encoder: Annotated[Any, Plugin("foundation.encoders.{name}")]
    """The student's encoder."""


def sections(recipe: str, source: str, stage: int = 0, branch: str = "student") -> Sections:
    """Read them, as they stand for one branch in one stage.

    Args:
        recipe: its text.
        source: of it, for messages.
        stage: number of the stage, from 0; what it does not replace is the recipe's.
        branch: whose encoder; one that follows another has that one's.

    Raises:
        UserError: it is no YAML, one of the sections cannot be understood, or there is no such stage.
    """
    plain = _of_stage(config.plain_of(recipe, source), stage, source)
    encoder = _encoder_of(plain, branch)
    wanted = {item.name: plain[item.name] for item in dataclasses.fields(Sections) if item.name in plain}
    found = config.from_plain(Sections, wanted | ({} if encoder is None else {"encoder": encoder}), name=source)
    members = getattr(found.views, "members", {})
    own = [name for name, member in members.items() if member.modality == found.encoder.modality]
    if not own or encoder is None:
        return found
    return dataclasses.replace(found, views=dataclasses.replace(found.views, evaluate=own[0]))


def branches(recipe: str, source: str, stage: int = 0) -> tuple[str, ...]:
    """Names of a recipe's branches beside the student; older recipes call them teachers.

    Raises:
        UserError: it is no YAML, its branches have no names, or there is no such stage.
    """
    plain = _of_stage(config.plain_of(recipe, source), stage, source)
    named = plain.get("branches", plain.get("teachers"))
    if not isinstance(named, (dict, list, type(None))):
        raise UserError(f"{source}: teachers of the recipe must be names")
    return ("teacher",) if named is None else tuple(map(str, named))


@dataclass(frozen=True)
class Trained:
    """Which sizes of an encoder a recipe trains.

    Attributes:
        elastic: Configs of the branches that are slices of it and that an objective trains.
        whole: an objective trains the whole.
    """

    elastic: tuple[Any, ...]
    whole: bool


def trained_sizes(recipe: str, source: str, stage: int = 0, branch: str = "student") -> Trained:
    """What a recipe says of the sizes of the encoder of a branch.

    Args:
        recipe: its text; empty: not known.
        source: of it, for messages.
        stage: number of the stage, from 0.
        branch: whose encoder; one that follows another has that one's.

    Raises:
        UserError: one of them cannot be understood, or there is no such stage.
    """
    plain = _of_stage(config.plain_of(recipe, source), stage, source)
    named: dict[str, Any] = plain.get("branches") or {}
    root = _root(named, branch)
    students = _students(plain.get("objectives"))
    own = [name for name, facts in named.items() if facts.get("name") == _ELASTIC and _root(named, name) == root]
    elastic = [
        config.from_plain(_Branch, {"branch": named[name]}, name=source).branch for name in own if name in students
    ]
    return Trained(tuple(elastic), root in students)


def _students(objectives: Any) -> set[str]:
    """Names of the branches that objectives train; one whose weight is always 0 trains nothing."""
    listed = objectives if isinstance(objectives, list) else []
    facts = [one for one in listed if isinstance(one, dict) and one.get("weight", 1.0) != 0]
    return {str(one.get("student", _STUDENT)) for one in facts}


def _root(named: Mapping[str, Any], branch: str) -> str:
    """The branch that one follows, or follows by others."""
    seen: set[str] = set()
    while branch in named and branch not in seen:
        seen.add(branch)
        facts = named[branch]
        if isinstance(facts.get("encoder"), dict) or facts.get("name") == _TRAINED:
            return branch
        branch = str(facts.get("of", "student"))
    return branch


def _of_stage(plain: dict[str, Any], stage: int, source: str) -> dict[str, Any]:
    """The recipe as it stands in a stage, its branches by name.

    Raises:
        UserError: there is no such stage, or branches or stages are not what they must be.
    """
    stages = plain.get("stages") or []
    if not isinstance(stages, list) or not all(isinstance(own, dict) for own in stages):
        raise UserError(f"{source}: stages of the recipe must be a list of mappings")
    if not 0 <= stage < max(1, len(stages)):
        there = f"the stages 0 to {len(stages) - 1}" if len(stages) > 1 else "stage 0 alone"
        raise UserError(f"{source}: stage is {stage}, but the recipe has {there}")
    own = stages[stage] if stages else {}
    found = plain | {key: own[key] for key in ("views", "encoder", "branches", "objectives") if key in own}
    named = found.get("branches") or {}
    if not isinstance(named, dict) or not all(isinstance(facts, dict) for facts in named.values()):
        raise UserError(
            f"{source}: branches of the recipe must map names to settings, as in 'branches: {{teacher: {{name: ema}}}}'"
        )
    return found


def _encoder_of(plain: dict[str, Any], branch: str) -> dict[str, Any] | None:
    """The encoder of a branch that has one of its own, or follows one that has; None: it is the recipe's."""
    named: dict[str, Any] = plain.get("branches") or {}
    seen: set[str] = set()
    while branch in named and branch not in seen:
        seen.add(branch)
        facts = named[branch]
        if isinstance(facts.get("encoder"), dict):
            return dict(facts["encoder"])
        if not isinstance(facts.get("of"), str):
            return None
        branch = facts["of"]
    return None
