"""The YAML nodes of a recipe, with the places where they stand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from foundation.errors import UserError
from foundation.plugins import near

_SPACED = re.compile(r"(?P<key>[^\s=]+)(?: +=| *= +)(?: *)(?P<value>[^\s=]+)(?![^\s=]*=)")
TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Composes nodes with their places; refuses aliases, so a small file can never unfold into a huge one."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            text = "aliases (*name) are not supported: repeat the value, or quote text that begins with *"
            raise yaml.MarkedYAMLError(problem=text, problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def compose(text: str, name: str) -> Node | None:
    """The tree of a YAML text, None for an empty one; ``name`` stands in messages before the line."""
    try:
        loader = _Loader(text)
        loader.name = name
        node: Node | None = loader.get_single_node()
        return node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        location = name if mark is None else location_of(mark)
        raise UserError(f"{location}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{name}: nested too deeply") from None


def node_of(plain: Any, name: str) -> Node:
    """The tree of plain values, as :func:`compose` would make it of their YAML, without the way over a text.

    Args:
        plain: mappings, lists and scalars.
        name: what messages call it; all nodes stand at its beginning.

    Raises:
        UserError: it has other values, or is nested too deeply.
    """
    try:
        node: Node = _Representer(sort_keys=False).represent_data(plain)
    except yaml.YAMLError as error:
        raise UserError(f"{name}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{name}: nested too deeply") from None
    mark, left = start_of(name), [node]
    while left:
        here = left.pop()
        here.start_mark = here.end_mark = mark
        if isinstance(here, MappingNode):
            left += [part for pair in here.value for part in pair]
        elif isinstance(here, SequenceNode):
            left += here.value
        elif isinstance(here, ScalarNode) and here.tag == TAG + "str":
            here.style = "'"  # text, whatever it looks like
    return node


class _Representer(yaml.representer.SafeRepresenter):
    """Nodes of plain values; one that occurs twice is written out twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def start_of(name: str) -> yaml.Mark:
    """The first place of a text."""
    return yaml.Mark(name, 0, 0, 0, None, 0)


def mapping_at(mark: yaml.Mark) -> MappingNode:
    """An empty mapping that stands somewhere."""
    return MappingNode(TAG + "map", [], mark, mark)


def location_of(mark: yaml.Mark) -> str:
    """File and line of a mark, or the override that it is of."""
    return mark.name if mark.name.startswith("override ") else f"{mark.name}:{mark.line + 1}"


def is_null(node: Node) -> bool:
    """Whether nothing stands there, or null."""
    return isinstance(node, ScalarNode) and node.tag == TAG + "null"


def found_in(node: Node) -> str:
    """A node in the words of a message."""
    if isinstance(node, ScalarNode):
        return "nothing (null)" if is_null(node) else repr(node.value)
    return "a mapping" if isinstance(node, MappingNode) else "a list"


def find(node: MappingNode, key: str) -> Node | None:
    """The value of a key, None where the mapping does not have it."""
    return next((value for k, value in node.value if k.value == key), None)


def written_at(root: Node, key: str) -> Node:
    """The node whose mark is where a dotted key is written, or the deepest section around it that is written.

    In a mapping that is the key itself: the value of a section begins a line below.
    """
    location, here = root, root
    for part in key.split("."):
        if isinstance(here, MappingNode):
            pair = next(((name, value) for name, value in here.value if name.value == part), None)
            if pair is None:
                break
            location, here = pair
        elif isinstance(here, SequenceNode) and part.isdigit() and int(part) < len(here.value):
            location = here = here.value[int(part)]
        else:
            break
    return location


def no_entry(entries: SequenceNode, parts: list[str], index: int) -> str:
    """What to say of an override that names no entry of a list; entries with a name are called by it."""
    above, rest = ".".join(parts[:index]), ".".join(parts[index + 1 :])
    names = [find(entry, "name") if isinstance(entry, MappingNode) else None for entry in entries.value]
    known = [name.value if isinstance(name, ScalarNode) else "" for name in names]
    keys = [".".join(filter(None, (above, str(number), rest))) for number in range(len(known))]
    counted = f"{above!r} is a list of {len(known)}, counted from 0"
    if parts[index] in known:
        meant = " or ".join(key for key, name in zip(keys, known, strict=True) if name == parts[index])
        return f"{counted}: for {parts[index]!r} write {meant}"
    if any(known):
        listed = ", ".join(f"{number} {name}" for number, name in enumerate(known) if name)
        return (
            f"no entry {'.'.join(parts[: index + 1])!r}: {counted} ({listed}){near(parts[index], filter(None, known))}"
        )
    return f"no entry {'.'.join(parts[: index + 1])!r}: {counted}"


def refuse_spaces(overrides: Sequence[str]) -> None:
    """Refuse ``key = value``, of which a shell makes several words.

    Raises:
        UserError: with the word to write.
    """
    if all("=" in word[1:] for word in overrides):
        return
    found = _SPACED.search(" ".join(overrides))
    if found:
        key, value = found["key"], found["value"]
        word = f"'{key}={value}'" if set(value) & set(" {}[]*") else f"{key}={value}"
        raise UserError(f"settings are written without spaces beside the =: {word}")
