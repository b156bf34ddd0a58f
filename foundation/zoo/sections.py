"""What the zoo reads of the recipe that stands, as text, beside weights: enough to build encoder and views again.

The other sections say how training went. They are not read here, so that weights stay usable when those change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from foundation import config
from foundation.plugins import Plugin

_ELASTIC, _TRAINED = "elastic", "trained"


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
        UserError: it is no YAML, or one of the sections cannot be understood.
    """
    plain = _of_stage(config.plain_of(recipe, source), stage)
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
        UserError: it is no YAML.
    """
    plain = _of_stage(config.plain_of(recipe, source), stage)
    named = plain.get("branches", plain.get("teachers"))
    return ("teacher",) if named is None else tuple(named)


def elastic_branches(recipe: str, source: str, stage: int = 0, branch: str = "student") -> list[Any]:
    """Configs of the branches that train sub-networks of the encoder of a branch; empty where none does.

    Args:
        recipe: its text; empty: not known.
        source: of it, for messages.
        stage: number of the stage, from 0.
        branch: whose encoder; one that follows another has that one's.

    Raises:
        UserError: one of them cannot be understood.
    """
    plain = _of_stage(config.plain_of(recipe, source), stage)
    named: dict[str, Any] = plain.get("branches") or {}
    elastic = {
        name: facts for name, facts in named.items() if isinstance(facts, dict) and facts.get("name") == _ELASTIC
    }
    own = [facts for name, facts in elastic.items() if _root(named, name) == _root(named, branch)]
    return [config.from_plain(_Branch, {"branch": facts}, name=source).branch for facts in own]


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


def _of_stage(plain: dict[str, Any], stage: int) -> dict[str, Any]:
    stages = plain.get("stages") or []
    own = stages[stage] if stage < len(stages) else {}
    return plain | {key: own[key] for key in ("views", "encoder", "branches") if key in own}


def _encoder_of(plain: dict[str, Any], branch: str) -> dict[str, Any] | None:
    """The encoder of a branch that has one of its own, or follows one that has; None: it is the recipe's."""
    named, seen = plain.get("branches") or {}, set()
    while branch in named and branch not in seen:
        seen.add(branch)
        facts = named[branch]
        if isinstance(facts.get("encoder"), dict):
            return dict(facts["encoder"])
        if not isinstance(facts.get("of"), str):
            return None
        branch = facts["of"]
    return None
