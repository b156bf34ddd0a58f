"""Every number in a recipe has a range, and no number, however odd, is answered by anything but yes or a clear no."""

from __future__ import annotations

import argparse
import dataclasses
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import numpy as np
import pytest

import foundation
from foundation import cli, config, counter
from foundation.cli import main
from foundation.config_reader import fields_of, members_of, plugin_of
from foundation.data import build, mixture
from foundation.errors import UserError
from foundation.paths import bundled
from foundation.plugins import available, resolve
from foundation.ranges import Count, Length, Range, Rising, Share, check, hints_of, marks_of
from foundation.run.plan import plan
from foundation.run.recipe import Recipe
from foundation.schedules import Clock, Duration, Schedule

SCRIPTS = {verb: entry[0].split("/") for verb, entry in cli.VERBS.items() if entry[0].endswith(".py")}
RECIPES = Path(foundation.__file__).parent / "recipes"
ONE_OF_EACH = (
    "shapes16-dino-ibot-nano",
    "fsdd-atst-frame-nano",
    "hapt-dino-ibot-nano",
    "point-dino-ibot",
    "utd-depth-discovr-nano",
    "utd-paired-dino-nano",
)
"""A recipe of every modality, and the most different objectives."""

ODD = (
    *(".nan", ".inf", "-.inf", "0", "-1", "1", "3", "0.5", "1.5", "65536", "100000", "2147483647", "2147483648"),
    *("9223372036854775808", "1e30", "1e-30", "1e400", "1" + "0" * 30, "-1" + "0" * 30, "1" + "0" * 400),
    *("''", "words", "true", "null", "[]", "{}", "nan%", "inf epochs", "1e30 epochs", "-5%", "1e300 %", "1e9 steps"),
    *("[1, 2]", "[2, 1]", "[0, 0]", "[.nan, .nan]", "[.inf, .inf]", "[1e30, 1e30]", "[1e-30, 1e-30]", "[-1, -1]"),
    *("[2147483648, 2147483648]", "[65536, 65536]", "[0, 0, 0]", "[.inf, .inf, .inf]", "[65536, 65536, 65536]"),
    *("{start: .nan}", "{start: 1, end: .inf}", "{start: 1, warmup: .inf epochs}", "{start: 0.1, warmup: 1e6 epochs}"),
)
SECONDS = 20
MEMORY = 2**20  # KiB that one answer may take


def classes() -> list[type]:
    """All dataclasses that the keys of a recipe lead to, those of all built-in plug-ins and modalities included."""
    found: dict[type, None] = {}
    waiting: list[type] = [Recipe]
    for name in available("foundation.modalities.{name}.views"):
        waiting.append(resolve("foundation.modalities.{name}.views", name).EvaluationConfig)
    while waiting:
        cls = waiting.pop()
        if cls in found:
            continue
        found[cls] = None
        for hint in hints_of(cls).values():
            waiting += below(hint)
    return list(found)


def below(hint: Any) -> Iterator[type]:
    if (plugin := plugin_of(hint)) is not None:
        yield from (resolve(plugin.pattern, name).Config for name in available(plugin.pattern))
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
    else:
        for inner in get_args(hint):
            yield from below(inner)


def bounded(hint: Any) -> bool:
    """Whether every number that a type can hold has a range, and every list of numbers a length."""
    inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    marks = marks_of(hint)
    mark = any(isinstance(m, Range) for m in marks)
    if inner in (int, float, Schedule):
        return mark
    if inner is not Duration and len(members_of(inner)) > 1:
        return all(bounded(member) for member in members_of(inner))
    if get_origin(inner) in (tuple, list):
        sized = Ellipsis not in get_args(inner) or any(isinstance(m, Length) for m in marks) or not numeric(inner)
        return sized and all(bounded(entry) for entry in get_args(inner) if entry is not Ellipsis)
    return all(bounded(entry) for entry in get_args(inner)) if get_origin(inner) is dict else True


def numeric(hint: Any) -> bool:
    """Whether a number can stand there."""
    inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return inner in (int, float, Duration, Schedule) or any(map(numeric, get_args(inner)))


def test_every_number_in_a_recipe_has_a_range():
    found = classes()
    assert len(found) > 50
    without = [
        f"{cls.__module__}.{cls.__qualname__}.{name}: {hint}"
        for cls in found
        if cls is not Duration
        for name, hint in hints_of(cls).items()
        if name in {field.name for field in fields_of(cls)} and not bounded(hint)
    ]
    assert not without, "give these a range (foundation/ranges.py):\n" + "\n".join(without)


def test_a_number_without_a_range_is_found():
    assert not bounded(int) and not bounded(float | None) and not bounded(Schedule) and not bounded(dict[str, float])
    assert not bounded(tuple[Share, ...]) and not bounded(tuple[Share, float])
    assert bounded(Share | None) and bounded(Annotated[tuple[Share, ...], Length(1, 3)]) and bounded(tuple[str, ...])


def test_the_default_of_every_number_lies_in_its_range():
    for cls in classes():
        if all(f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
               for f in dataclasses.fields(cls)):  # fmt: skip
            try:
                made = cls()
            except UserError:  # the two empty towers of a paired recipe have no default that works
                continue
            check(made)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    share: Share = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    count: Count | None = None
    hue: Annotated[float, Range(0, 0.5)] = 0.1
    open: Annotated[float, Range(0, 1, above=True, below=True)] = 0.5
    pair: Annotated[tuple[Share, Share], Rising()] = (0.0, 1.0)
    shares: Annotated[tuple[Share, ...], Length(1, 3)] = (1.0,)
    rate: Annotated[Schedule, Range(0, 10)] = Schedule(start=1.0)
    either: Annotated[float, Range(0, 10)] | Annotated[Schedule, Range(0, 10)] = 1.0
    free: Schedule = Schedule(start=1.0)
    length: Annotated[Duration, Range(0, 1e9, above=True)] | None = None
    by_name: dict[str, Share] = dataclasses.field(default_factory=dict)
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("count: 0", "count is 0; it must be from 1 to 2147483647"),
        ("count: 1000000000000000000000000000000", "count is 1000000000000000000000000000000; it must be from 1"),
        ("hue: .inf", "hue is inf; it must be from 0 to 0.5"),
        ("hue: 1e999", "hue is inf; it must be from 0 to 0.5"),
        ("hue: -0.1", "hue is -0.1; it must be from 0 to 0.5"),
        ("open: 0", "open is 0; it must be above 0 and below 1"),
        ("open: 1", "open is 1; it must be above 0 and below 1"),
        ("pair: [0.1, 2]", "pair.1 is 2; it must be from 0 to 1"),
        ("pair: [0.7, 0.2]", "pair is [0.7, 0.2]; it must be the smallest first, then the largest"),
        ("shares: []", "shares is []; it must be a list of 1 to 3 entries"),
        ("shares: [1, 1, 1, 1]", "shares is [1, 1, 1, 1]; it must be a list of 1 to 3 entries"),
        ("rate: 11", "rate is 11; it must be from 0 to 10"),
        ("rate: {start: 1, end: 11}", "rate is a schedule through 1, 11; it must be from 0 to 10"),
        ("rate: {start: 1, warmup: 5%, warmup_from: -1}", "rate is a schedule through -1, 1; it must be from 0"),
        ("either: -1", "either is -1; it must be from 0 to 10"),
        ("either: {start: -1}", "either is a schedule through -1; it must be from 0 to 10"),
        ("free: .inf", "free is inf; it must be from -1e+09 to 1e+09"),
        ("free: {start: 1, end: .inf}", "free.end is inf; it must be from -1e+09 to 1e+09"),
        ("length: 0 steps", "length is 0 steps; it must be above 0"),
        ("length: 1e30 epochs", "a duration is at most 1000000 epochs"),
        ("by_name: {a: 2}", "by_name.a is 2; it must be from 0 to 1"),
        ("inner: {share: 2}", "inner.share is 2; it must be from 0 to 1"),
    ],
)
def test_a_number_outside_its_range_is_named_with_place_and_range(tmp_path, text, answer):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"# a comment\n{text}\n")
    with pytest.raises(UserError) as caught:
        config.load(Example, path)
    assert f"recipe.yaml:2: {answer}" in str(caught.value) or f"recipe.yaml:2: 'length': {answer}" in str(caught.value)
    with pytest.raises(UserError, match="1 problem"):
        config.load(Example, "{}\n", [text.replace(": ", "=", 1)])


@pytest.mark.parametrize("text", ["pair: [0.5, 0.5]", "either: {start: 2}", "rate: 10", "count: null", "hue: 0.5"])
def test_the_ends_of_a_range_belong_to_it(text):
    config.load(Example, text + "\n")


def test_a_config_made_in_python_is_checked_where_it_asks_for_it():
    check(Example(), "views")
    with pytest.raises(UserError, match=r"^views\.pair\.1 is 1\.5; it must be from 0 to 1$"):
        check(Example(pair=(0.5, 1.5)), "views")
    with pytest.raises(UserError, match=r"^hue is 'red'; it must be from 0 to 0\.5$"):
        check(Example(hue="red"))


def keys(value: Any, path: str = "") -> Iterator[str]:
    """Every key below a dataclass that a number can stand at."""
    for field in fields_of(type(value)):
        here, own = f"{path}.{field.name}" if path else field.name, getattr(value, field.name)
        if numeric(hints_of(type(value))[field.name]):
            yield here
        entries = {"": own} if dataclasses.is_dataclass(own) else {}
        if isinstance(own, dict):
            entries = {f".{name}": entry for name, entry in own.items()}
        elif isinstance(own, tuple):
            entries = {f".{index}": entry for index, entry in enumerate(own)}
        for name, entry in entries.items():
            if isinstance(entry, (int, float)):
                yield here + name
            elif dataclasses.is_dataclass(entry) and not isinstance(entry, Duration):
                yield from keys(entry, here + name)


def too_late(*_: object) -> None:
    raise TimeoutError


def answers(name: str, count: int, seed: int) -> dict[str, int]:
    """Give a recipe odd numbers, one at a time; how many were taken and how many refused.

    Raises:
        AssertionError: something else happened, such as another exception, no answer in time, a lot of memory.
    """
    recipe = config.load(Recipe, RECIPES / f"{name}.yaml", ["data.samples_per_epoch=10000"])
    text = config.dump(recipe)
    pairs = [(key, odd) for key in keys(recipe) for odd in ODD]
    found = {"taken": 0, "refused": 0}
    signal.signal(signal.SIGALRM, too_late)
    try:
        for place in counter.permutation(seed, 0, 0, name, len(pairs))[:count]:
            override = "=".join(pairs[place])
            before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
            signal.alarm(SECONDS)
            try:
                plan(config.load(Recipe, text, [override]))
                found["taken"] += 1
            except UserError as error:
                assert str(error), override
                found["refused"] += 1
            except TimeoutError:
                raise AssertionError(f"{name} {override}: no answer in {SECONDS} s") from None
            except Exception as error:
                raise AssertionError(f"{name} {override}: {error!r}") from error
            finally:
                signal.alarm(0)
            took = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert took < MEMORY, f"{name} {override}: took {took} KiB in {time.monotonic() - began:.1f} s"
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return found


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.fault(43, "odd numbers at the keys of a recipe: nan, inf, 10^400, negative, empty lists")
def test_every_odd_number_is_taken_or_refused_in_words(name, happened):
    found = answers(name, 25, seed=7)
    assert found["refused"] > found["taken"]
    happened("each is refused with file, line, key and range, or planned; no other exception, no hang")


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_thousands_of_odd_numbers_are_taken_or_refused_in_words(name):
    """Drawn from ten thousand pairs of key and number; most keys stand in all recipes, each of which draws anew."""
    answers(name, 800, seed=8)


def test_a_run_of_more_steps_than_anything_can_count_is_refused():
    text = config.dump(config.load(Recipe, RECIPES / "shapes16-dino-ibot-nano.yaml"))
    recipe = config.load(Recipe, text, ["train.length=1e6 epochs", "train.steps_per_epoch=2147483647"])
    with pytest.raises(UserError, match=r"train\.length 1000000 epochs is 2,147,483,647,000,000 steps, more than"):
        recipe.clock()
    both = {name: mixture.Config(shards=("x.tar",), weight=Schedule(start=1.0, end=0.0)) for name in "ab"}
    with pytest.raises(UserError, match=r"10,000,000,000 steps of 2 sources"):
        mixture.shares(both, {"a": 1, "b": 1}, Clock(10**10, 1.0))


def test_the_reference_of_recipes_tells_the_ranges(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1]))
    from tools.recipe_reference import reference

    page = reference()
    assert "| `cache_gib` | number from 0 to 1000000 |" in page
    assert "| `ratio` | list: number from 0 to 1, number from 0 to 1, the smallest first, then the largest |" in page


def test_of_numbers_in_an_array_the_range_holds_too():
    assert Range(0, 1).holds(np.float32(0.5)) and not Range(0, 1).holds(np.float64("nan"))


def options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from options(below)
        else:
            yield action


def test_every_number_on_the_command_line_has_a_range():
    scripts = {verb: cli._load(bundled(folder) / name) for verb, (folder, name) in SCRIPTS.items()}
    scripts |= {f"bench {path.stem}": cli._load(path) for path in sorted(bundled("tools").glob("bench/[a-z]*.py"))}
    scripts |= {f"data build {name}": build.load(name).module for name in build.available()}
    assert len(scripts) > 20
    for name, script in scripts.items():
        parser = argparse.ArgumentParser()
        script.add_arguments(parser)
        plain = [action.option_strings for action in options(parser) if action.type in (int, float)]
        assert not plain, f"{name}: give these type=argument(...) of foundation/ranges.py: {plain}"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pretrain", "quickstart", "--processes", "0"], "argument --processes: 0 given; it must be from 1 to 1024"),
        (["knn", "RUN", "--limit", "-1"], "argument --limit: -1 given; it must be from 1"),
        (["knn", "RUN", "--k", "5", "1e9"], "argument --k: '1e9' is no whole number"),
        (["knn", "RUN", "--temperature", "nan"], "argument --temperature: nan given; it must be from 1e-06"),
        (
            ["data", "build", "folder", "OUT", "--test-fraction", "inf"],
            "argument --test-fraction: inf given; it must be",
        ),
        (
            ["data", "build", "folder", "OUT", "--samples-per-shard", "0"],
            "argument --samples-per-shard: 0 given; it must",
        ),
    ],
)
def test_a_number_on_the_command_line_that_cannot_be_is_one_line_and_exit_code_2(words, told, capsys):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
