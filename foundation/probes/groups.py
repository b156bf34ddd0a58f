"""Which samples belong together: windows of one subject, clips of one recording, views of one object."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from foundation.data.shards import open_shards
from foundation.errors import UserError
from foundation.probes.features import FeatureSet

JSON_FIELD = "json:"
"""Begins a rule that names a field of the samples' json instead of a pattern for their keys."""


def grouped(features: FeatureSet, rule: str, patterns: Sequence[str]) -> tuple[Tensor, int]:
    """Number the groups of samples.

    Args:
        features: the samples, by key and by number in their shards.
        rule: ``json:FIELD``, or a regular expression for keys: its first group, or without one all that it finds.
        patterns: the shards that the features are of.

    Returns:
        [S] int64 from 0, and how many groups there are.

    Raises:
        UserError: for a rule that is no regular expression, and for a sample that it says nothing of.
    """
    names = names_of_groups(features, rule, patterns)
    numbers = {text: index for index, text in enumerate(sorted(set(names)))}
    return torch.tensor([numbers[text] for text in names], dtype=torch.int64), len(numbers)


def names_of_groups(features: FeatureSet, rule: str, patterns: Sequence[str]) -> list[str]:
    """Of each sample the name of its group, by which splits can be compared; arguments and errors as above."""
    name = naming(rule, patterns)
    return [name(key, number) for key, number in zip(features.keys, features.ids.tolist(), strict=True)]


def groups_of_keys(wanted: Collection[str], rule: str, patterns: Sequence[str]) -> dict[str, str]:
    """Names of the groups of samples that are known by their keys alone; samples that the rule says nothing of, and
    keys that the shards do not have, are left out.

    Args:
        wanted: keys.
        rule: as for :func:`grouped`.
        patterns: the shards; of samples with the same key the first counts.
    """
    name, shards = naming(rule, patterns), open_shards(list(patterns))
    keys = (key for shard in range(len(shards.counts)) for key in shards.table(shard).keys)
    found: dict[str, str] = {}
    for number, key in enumerate(keys):
        if key in wanted and key not in found:
            try:
                found[key] = name(key, number)
            except UserError:
                continue
    return found


def naming(rule: str, patterns: Sequence[str]) -> Callable[[str, int], str]:
    """The function from key and number of a sample to the name of its group; arguments and errors as above."""
    return _of_json(rule.removeprefix(JSON_FIELD), patterns) if rule.startswith(JSON_FIELD) else _of_keys(rule)


def _of_keys(rule: str) -> Callable[[str, int], str]:
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise UserError(f"--group {rule!r} is no regular expression: {error}") from None

    def name(key: str, number: int) -> str:
        found = pattern.search(key)
        if found is None or (pattern.groups and found[1] is None):
            raise UserError(f"--group {rule!r} finds nothing in the key {key!r}; it must say a group for every sample")
        return found[1] if pattern.groups else found[0]

    return name


def _of_json(field: str, patterns: Sequence[str]) -> Callable[[str, int], str]:

    shards = open_shards(list(patterns))

    def name(key: str, number: int) -> str:
        try:
            content = json.loads(shards.read(*shards.locate(number))["json"])
            return json.dumps(content[field], sort_keys=True)
        except (KeyError, TypeError, ValueError, RecursionError):
            raise UserError(f"--group {JSON_FIELD}{field}: the sample {key!r} has no such field in its json") from None

    return name
