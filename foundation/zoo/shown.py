"""An encoder's settings as the section of a recipe that a person can copy."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any

import yaml

from foundation import config
from foundation.plugins import Plugin


@dataclass(frozen=True, kw_only=True)
class EncoderSection:
    """A recipe's ``encoder`` alone."""

    encoder: Annotated[Any, Plugin("foundation.encoders.{name}")]


def plain_encoder(encoder: Any) -> dict[str, Any]:
    """All settings of an encoder's ``Config``, as a card holds them."""
    return dict(config.to_plain(EncoderSection(encoder=encoder))["encoder"])


def encoder_lines(encoder: Any) -> list[str]:
    """The section ``encoder`` of a recipe, with what differs from the defaults, in several lines."""
    text: str = yaml.safe_dump(
        {"encoder": _unusual(plain_encoder(encoder), encoder)}, default_flow_style=None, sort_keys=False, width=110
    )
    return [f"  {line}" for line in text.splitlines()]


def encoder_section(encoder: Any) -> str:
    """The same in one line: ``encoder: {name: vit, width: 384, ...}``."""
    kept = _unusual(plain_encoder(encoder), encoder)
    text: str = yaml.safe_dump({"encoder": kept}, default_flow_style=True, sort_keys=False, width=10**6)
    return text.strip()[1:-1]


def _unusual(plain: dict[str, Any], settings: Any) -> dict[str, Any]:
    """Fields that are not at their defaults, those of sections inside too; ``name`` stays."""
    found: dict[str, Any] = {"name": plain["name"]} if "name" in plain else {}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        usual: Any = item.default
        if item.default_factory is not dataclasses.MISSING:
            usual = item.default_factory()
        if item.name not in plain or value == usual:
            continue
        inner = dataclasses.is_dataclass(value) and isinstance(plain[item.name], dict)
        found[item.name] = _unusual(plain[item.name], value) if inner else json.loads(json.dumps(plain[item.name]))
    return found
