"""How one YAML node becomes a value of a declared type, and what is said when it cannot."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from foundation import ranges, synonyms
from foundation.config_nodes import TAG, compose, find, found_in, is_null, location_of, mapping_at, no_entry, start_of
from foundation.errors import UserError
from foundation.plugins import Plugin, near, resolve
from foundation.ranges import hints_of

_STANDARD_TAGS = {TAG + t for t in ("str", "int", "float", "bool", "null", "map", "seq", "timestamp", "value", "merge")}
_WORDS_FOR_BOOL = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
_BAD: Any = object()  # stands for a value that has been reported already


# Types


def fields_of(cls: type) -> list[dataclasses.Field[Any]]:
    """Fields that a recipe can give."""
    return [f for f in dataclasses.fields(cls) if f.init]


def members_of(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a type; a plain type is its own only one."""
    hint = ranges.bare(hint)
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def plugin_of(hint: Any) -> Plugin | None:
    """The mark of a plug-in field, None for other fields."""
    marks = (m for member in members_of(hint) for m in getattr(member, "__metadata__", ()))
    return next((m for m in marks if isinstance(m, Plugin)), None)


def _describe(hint: Any) -> str:
    """A type in words that a reader of the recipe knows."""
    if (plugin := plugin_of(hint)) is not None:
        return f"a mapping with the key {plugin.key!r} (a {plugin.kind})"
    if get_origin(hint) is Annotated:
        marks = [str(mark) for mark in ranges.marks_of(hint) if isinstance(mark, ranges.Range)]
        return " ".join([_describe(get_args(hint)[0]), *marks])
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(str(option) for option in get_args(hint))
    if len(members_of(hint)) > 1:
        return " or ".join(_describe(member) for member in members_of(hint))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    names |= {type(None): "null", tuple: "a list", list: "a list", dict: "a mapping"}
    found = names.get(get_origin(hint) or hint)
    return found or f"a mapping ({hint.__name__})" if isinstance(hint, type) or found else str(hint)


def _fits(hint: Any, node: Node) -> bool:
    """Whether a type can be written in the shape of this node (mapping, list or scalar)."""
    hint = ranges.bare(hint)
    origin = get_origin(hint) or hint
    if origin in (Any, object):
        return True
    if isinstance(node, MappingNode):
        return plugin_of(hint) is not None or dataclasses.is_dataclass(origin) or origin in (dict, Mapping)
    if isinstance(node, SequenceNode):
        return origin in (tuple, list)
    return origin in _SCALARS or origin is Literal or _of_words(hint) or hasattr(origin, "from_yaml")


def _of_words(hint: Any) -> bool:
    """Lists of text or paths: one entry may be written without brackets (``data.shards=train-{000..099}.tar``)."""
    arguments = get_args(hint)
    return bool(arguments) and arguments[0] in (str, Path) and (get_origin(hint) is list or Ellipsis in arguments)


# Scalars: each takes the text and whether it was quoted, and raises ValueError with a hint or nothing


def _read_bool(text: str, quoted: bool) -> bool:
    if text.lower() in _WORDS_FOR_BOOL and not quoted:
        raise ValueError(f"write {_WORDS_FOR_BOOL[text.lower()]}")
    if quoted or text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


def _read_int(text: str, quoted: bool) -> int:
    if quoted or not re.fullmatch(r"[-+]?(0|[1-9][0-9_]*)", text):
        raise ValueError
    return int(text)


def _read_float(text: str, quoted: bool) -> float:
    if quoted or "nan" in text.lower():
        raise ValueError
    return float(re.sub(r"^([-+]?)\.inf$", r"\1inf", text, flags=re.IGNORECASE))


def _read_any(text: str, quoted: bool) -> Any:
    for read in (_read_bool, _read_int, _read_float):
        try:
            return read(text, quoted)
        except ValueError:
            continue
    return text


_SCALARS: dict[Any, Callable[[str, bool], Any]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: lambda text, _: text,
    Path: lambda text, _: Path(text).expanduser(),
}


class Reader:
    """Turns nodes into values and keeps the problems it meets.

    Args:
        own: the text is the user's own word, so that a plug-in may be a dotted module; see ``foundation/plugins.py``.
    """

    def __init__(self, own: bool = False) -> None:
        self.own = own
        self.problems: list[tuple[int, str]] = []
        self._sections: frozenset[str] = frozenset()
        self._overrides: set[str] = set()  # names of their marks: the user's own word, whatever they change
        self.out_of_range = False

    def problem(self, where: Node, text: str) -> Any:
        mark = where.start_mark
        line = 10**9 if mark.name.startswith("override ") else mark.line
        self.problems.append((line, f"{location_of(mark)}: {text}"))
        return _BAD

    def override(self, root: Node, text: str) -> None:
        """Put ``key.sub=value`` into the tree."""
        key, equals, value = text.partition("=")
        start = start_of(f"override {text}")
        self._overrides.add(start.name)
        try:
            node = compose(value, start.name) or ScalarNode(TAG + "null", "", start, start)
        except UserError as error:
            raise UserError(f"{error}; text with brackets, braces or commas stands in double quotes") from None
        parts, here = key.strip().split("."), root
        if not equals or not all(parts):
            self.problem(ScalarNode("", "", start), "write it as key.sub=value, without spaces beside the =")
            return
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            if isinstance(here, SequenceNode):
                if not part.isdigit() or int(part) >= len(here.value):
                    self.problem(node, no_entry(here, parts, index))
                    return
                if last:
                    here.value[int(part)] = node
                here = here.value[int(part)]
            elif isinstance(here, MappingNode):
                below = find(here, part)
                if last or below is None or is_null(below):
                    new = node if last else mapping_at(node.start_mark)
                    kept = [(k, v) for k, v in here.value if k.value != part]
                    here.value = [*kept, (ScalarNode(TAG + "str", part, node.start_mark, node.end_mark), new)]
                    below = new
                here = below
            else:
                above = ".".join(parts[:index])
                self.problem(node, f"{above!r} is a plain value, not a mapping; override it whole: {above}={{...}}")
                return

    def read(self, hint: Any, node: Node, key: str, default: Any = None, nullable: bool = False) -> Any:
        """The value of ``node`` as the type ``hint``.

        A mapping replaces the default of its field whole; ``default`` only tells the kind of a plug-in without a name,
        ``nullable`` that a message may name null as a way out.
        """
        if node.tag not in _STANDARD_TAGS:
            return self.problem(node, f"{key!r} has the tag {node.tag.replace(TAG, '!!')!r}; tags are not supported")
        value = self.read_type(ranges.bare(hint), node, key, default)
        if value is _BAD:
            return _BAD
        text = ranges.refusal(hint, value, nullable)
        if isinstance(node, ScalarNode) and ranges.is_compound(value) and not ranges.marks_of(hint):
            # A number that stands for a whole schedule has no fields whose ranges would have been looked at.
            text = next((text for _, text in ranges.of_fields(value)), None)
        return value if text is None else self.refuse(node, key, text)

    def refuse(self, node: Node, key: str, text: str) -> Any:
        """Report a number outside its range."""
        self.out_of_range = True
        return self.problem(node, f"{key} {text}")

    def read_type(self, hint: Any, node: Node, key: str, default: Any) -> Any:
        """:meth:`read` but for the ranges."""
        if len(members_of(hint)) > 1:
            return self.read_union(hint, node, key, default)
        plugin = plugin_of(hint)
        if get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
        origin = get_origin(hint) or hint
        if plugin is not None and isinstance(node, MappingNode):
            return self.read_plugin(plugin, node, key, default)
        if plugin is None and hint in (Any, object):
            return self.read_any(node, key)
        if isinstance(origin, type) and hasattr(origin, "from_yaml") and not is_null(node):
            try:
                value = origin.from_yaml(self.read_any(node, key))
            except UserError as error:
                return self.problem(node, f"{key!r}: {error}")
            if value is not None:
                return value
        if dataclasses.is_dataclass(origin) and isinstance(node, MappingNode):
            return self.read_dataclass(typing.cast(type, origin), node, key)
        if origin in (tuple, list) and isinstance(node, SequenceNode):
            return self.read_sequence(hint, node, key)
        if origin in (tuple, list) and isinstance(node, ScalarNode) and not is_null(node) and _of_words(hint):
            return self.read_sequence(hint, SequenceNode(TAG + "seq", [node], node.start_mark, node.end_mark), key)
        if origin in (dict, Mapping) and isinstance(node, MappingNode):
            return self.read_mapping(hint, node, key)
        if origin is Literal and isinstance(node, ScalarNode):
            options = {str(option): option for option in get_args(hint)}
            if node.value in options:
                return options[node.value]
            known = ", ".join(options)
            return self.problem(node, f"{key!r} is {node.value!r}{near(node.value, options)} (possible: {known})")
        help_text = ""
        if origin in (type(None), None) and is_null(node):
            return None
        if origin in _SCALARS and isinstance(node, ScalarNode) and not is_null(node):
            try:
                return _SCALARS[origin](node.value, node.style is not None)
            except ValueError as error:
                help_text = f"; {error}" if str(error).startswith("write ") else ""
        wanted = _describe(hint if plugin is None else Annotated[Any, plugin])
        what = repr(key) if key else "the whole text"
        return self.problem(node, f"{what} must be {wanted}, found {found_in(node)}{help_text}")

    def read_union(self, hint: Any, node: Node, key: str, default: Any) -> Any:
        members = members_of(hint)
        if is_null(node) and type(None) in members:
            return None
        nullable = type(None) in members
        # Where one member alone has the shape of the node, it explains its own problems best.
        members = tuple(m for m in members if m is not type(None) and _fits(m, node)) or members
        spelt_none = isinstance(node, ScalarNode) and node.value == "None" and type(None) in get_args(hint)
        if len(members) == 1 and not spelt_none:
            return self.read(members[0], node, key, default, nullable)
        outside: Reader | None = None
        for member in members:
            attempt = Reader(self.own)
            attempt._overrides, attempt._sections = self._overrides, self._sections
            value = attempt.read(member, node, key, default, nullable)
            if not attempt.problems:
                return value
            if attempt.out_of_range:
                outside = outside or attempt
        if outside is not None:
            self.out_of_range = True
            self.problems += outside.problems
            return _BAD
        found = found_in(node) + ("; write null" if spelt_none else "")
        return self.problem(node, f"{key!r} must be {_describe(hint)}, found {found}")

    def read_plugin(self, plugin: Plugin, node: MappingNode, key: str, default: Any) -> Any:
        name_node = find(node, plugin.key)
        if name_node is None and plugin.usual is not None:
            return self.read_dataclass(resolve(plugin.pattern, plugin.usual).Config, node, key)
        if name_node is None and not dataclasses.is_dataclass(default):
            return self.problem(node, f"missing required key {_join(key, plugin.key)!r}: which {plugin.kind}?")
        if name_node is None:
            return self.read_dataclass(type(default), node, key)
        if not isinstance(name_node, ScalarNode):
            return self.problem(name_node, f"{_join(key, plugin.key)!r} must be text, found {found_in(name_node)}")
        try:
            own = self.own or name_node.start_mark.name in self._overrides
            cls = resolve(plugin.pattern, name_node.value, own=own).Config
        except UserError as error:
            return self.problem(name_node, f"{key!r}: {error}")
        return self.read_dataclass(cls, node, key, skip=plugin.key)

    def read_dataclass(self, cls: type, node: MappingNode, key: str, skip: str = "") -> Any:
        fields, hints = {f.name: f for f in fields_of(cls)}, hints_of(cls)
        if not key:
            self._sections = frozenset(fields)
        values: dict[str, Any] = {}
        unknown: list[str] = []
        places: dict[str, Node] = {}
        for name, key_node, value_node in self.entries(node, key):
            if name == skip:
                continue
            full = _join(key, name)
            if name not in fields:
                hint = self._synonym(name, value_node) or near(name, fields) or _below(name, hints)
                hint = hint or f" (known here: {', '.join(fields) or 'none'})"
                self.problem(key_node, f"unknown key {full!r}{hint}")
                unknown.append(name)
                continue
            places[name] = key_node
            values[name] = self.read(hints[name], value_node, full, _default(fields[name]))
        for name, field in fields.items():
            if name in values:
                continue
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                values[name] = _BAD
                if not near(name, unknown):  # the misspelled key has been reported, with this one as the right spelling
                    self.problem(node, f"missing required key {_join(key, name)!r}")
        if unknown or any(value is _BAD for value in values.values()):
            return _BAD
        try:
            return cls(**values)
        except UserError as error:
            named = (place for name, place in places.items() if re.search(rf"\b{re.escape(name)}\b", str(error)))
            return self.problem(next(named, node), _said_of(key, str(error)))

    def read_sequence(self, hint: Any, node: SequenceNode, key: str) -> Any:
        arguments = get_args(hint) or (Any, ...)
        fixed = get_origin(hint) is tuple and Ellipsis not in arguments
        if fixed and len(arguments) != len(node.value):
            return self.problem(node, f"{key!r} must have {len(arguments)} entries, found {len(node.value)}")
        kinds = arguments if fixed else [arguments[0]] * len(node.value)
        values = [
            self.read(kind, n, _join(key, str(i))) for i, (kind, n) in enumerate(zip(kinds, node.value, strict=True))
        ]
        if any(value is _BAD for value in values):
            return _BAD
        return values if (get_origin(hint) or hint) is list else tuple(values)

    def read_mapping(self, hint: Any, node: MappingNode, key: str) -> Any:
        key_type, value_type = get_args(hint) or (str, Any)
        pairs = [
            (self.read(key_type, key_node, _join(key, name)), self.read(value_type, value_node, _join(key, name)))
            for name, key_node, value_node in self.entries(node, key)
        ]
        return _BAD if any(k is _BAD or v is _BAD for k, v in pairs) else dict(pairs)

    def _synonym(self, name: str, value: Node) -> str:
        """How a setting that has another name elsewhere is written, where what is read has such a section."""
        name = name.replace("-", "_")
        text = value.value if isinstance(value, ScalarNode) else None
        known = synonyms.section_of(name) in self._sections
        return f"; here it is {synonyms.written(name, text)}" if known else ""

    def read_any(self, node: Node, key: str) -> Any:
        if isinstance(node, MappingNode):
            return self.read_mapping(dict[str, Any], node, key)
        if isinstance(node, SequenceNode):
            return self.read_sequence(list[Any], node, key)
        assert isinstance(node, ScalarNode)
        return None if is_null(node) else _read_any(node.value, node.style is not None)

    def entries(self, node: MappingNode, key: str) -> list[tuple[str, Node, Node]]:
        """Name, key node and value node of each entry; reports what cannot be a key and what is there twice."""
        seen: dict[str, tuple[str, Node, Node]] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self.problem(key_node, f"a key must be plain text, found {found_in(key_node)}")
            elif key_node.value in seen:
                first = location_of(seen[key_node.value][1].start_mark)
                self.problem(key_node, f"key {_join(key, key_node.value)!r} is given twice (first at {first})")
            else:
                seen[key_node.value] = (key_node.value, key_node, value_node)
        return list(seen.values())


def _said_of(key: str, text: str) -> str:
    """The sentence of a check with the key that it is about; many name the section themselves (``views.jitter is``)."""
    section = key.partition(".")[0]
    if not key or text.startswith(f"{section}."):
        return text
    return f"{key}: {text.removeprefix(f'{section}: ')}"


def _below(name: str, hints: Mapping[str, Any]) -> str:
    """A question whether a key of a section was meant, where one has this very key."""
    for section, hint in hints.items():
        kinds = [ranges.bare(member) for member in members_of(hint)]
        if any(dataclasses.is_dataclass(k) and name in hints_of(typing.cast(type, k)) for k in kinds):
            return f"; did you mean {_join(section, name)!r}?"
    return ""


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default
