"""The strict recipe reader: right types, every mistake at once and in its place, overrides, round trips."""

from __future__ import annotations

import ast
import dataclasses
import re
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from foundation import config, paths
from foundation.errors import UserError
from foundation.plugins import Plugin
from foundation.schedules import Duration, Schedule

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    learning_rate: float | Schedule = 1e-3
    momentum: Schedule = Schedule(start=0.9, shape="constant")
    steps: int = 10
    clip: float | None = 3.0
    fused: bool = True
    kind: Literal["adamw", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: Duration = Duration(5, "%")

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class Toy:
    name: str
    optimizer: Optimizer
    shards: tuple[str, ...] = ()
    pairs: tuple[tuple[float, float], ...] | None = None
    folder: Path | None = None
    heads: dict[str, Optimizer] = field(default_factory=dict)
    objectives: tuple[Annotated[Any, Plugin("foundation.objectives.{name}")], ...] = ()
    free: Any = None


def mistakes(text: str, *overrides: str, cls: type = Toy) -> list[str]:
    with pytest.raises(UserError) as caught:
        config.load(cls, text, overrides)
    lines = str(caught.value).splitlines()
    count = re.match(r"(\d+) problem", lines[0])
    assert count is not None and int(count[1]) == len(lines) - 1, lines
    return [line.strip() for line in lines[1:]]


def problem(setting: str) -> str:
    """The one problem of a setting of the optimizer."""
    (line,) = mistakes(f"name: x\noptimizer: {{{setting}}}\n")
    return line


def value(setting: str) -> Any:
    read = config.load(Toy, f"name: x\noptimizer: {{{setting}}}\n")
    return getattr(read.optimizer, setting.split(":")[0])


def test_scalars_are_read_by_their_declared_type():
    assert value("learning_rate: 1e-3") == 1e-3  # plain YAML would say that this is text
    assert value("clip: 5") == 5.0 and isinstance(value("clip: 5"), float)
    assert value("clip: .inf") == float("inf")
    assert value("clip: null") is None
    assert value("steps: 1_000") == 1000
    assert value("fused: false") is False
    assert value("warmup: 10 epochs") == Duration(10, "epochs")
    assert value("warmup: 7") == Duration(7, "steps")
    assert value("betas: [0.5, 1]") == (0.5, 1.0)
    read = config.load(
        Toy, "name: no\noptimizer: {}\nfolder: ~/x\nshards: [1, 0001]\nfree: {a: [1, 1e-3, yes, null]}\n"
    )
    assert read.name == "no" and read.shards == ("1", "0001")
    assert read.folder == Path("~/x").expanduser()
    assert read.free == {"a": [1, 1e-3, "yes", None]}


def test_one_entry_of_a_list_of_text_needs_no_brackets():
    read = config.load(Toy, "name: x\noptimizer: {}\n", ["shards=data/train-{000..003}.tar"])
    assert read.shards == ("data/train-{000..003}.tar",)


def test_a_schedule_is_a_number_or_a_mapping():
    assert value("momentum: 0.5") == Schedule(start=0.5, shape="constant")
    assert value("momentum: {start: 1, end: 0}") == Schedule(start=1.0, end=0.0)  # cosine: not the default's shape
    assert value("learning_rate: {start: 1, warmup: 5%}") == Schedule(start=1.0, warmup=Duration(5.0, "%"))
    assert "'optimizer.momentum.strat'; did you mean 'start'?" in problem("momentum: {strat: 1}")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("steps: 1.5", "'optimizer.steps' must be a whole number, found '1.5'"),
        ("steps: 1e3", "found '1e3'"),
        ("steps: '5'", "must be a whole number"),
        ("steps: 010", "must be a whole number"),
        ("steps: ", "found nothing (null)"),
        ("steps: [1]", "found a list"),
        ("fused: yes", "must be true or false, found 'yes'; write true"),
        ("fused: off", "write false"),
        ("fused: 1", "must be true or false, found '1'"),
        ("clip: None", "must be a number or null, found 'None'; write null"),
        ("clip: .nan", "must be a number"),
        ("clip: fast", "must be a number, found 'fast'"),
        ("kind: adam", "'optimizer.kind' is 'adam'; did you mean 'adamw'? (possible: adamw, sgd)"),
        ("betas: [1]", "must have 2 entries, found 1"),
        ("betas: [1, x]", "'optimizer.betas.1' must be a number, found 'x'"),
        ("warmup: 3 weeks", "expected a duration such as '500 steps', '10 epochs' or '5%', got '3 weeks'"),
        ("learning_rate: fast", "'optimizer.learning_rate' must be a number or a mapping"),
        ("steps: 0", "optimizer: steps must be at least 1, got 0"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_found(setting: str, words: str):
    line = problem(setting)
    assert line.startswith("recipe:2: ") and words in line


def test_all_mistakes_come_at_once_in_the_order_of_their_lines(tmp_path: Path):
    file = tmp_path / "bad.yaml"
    file.write_text(
        "name: x\n"
        "optimizer:\n"
        "  learning_rat: 1e-3\n"
        "  steps: many\n"
        "heads:\n"
        "  a: {steps: 3}\n"
        "  b:\n"
        "    kind: adamw\n"
        "    steps: 0\n"
        "objectives:\n"
        "  - {name: dinoo}\n"
        "  - {name: koleo, wieght: 1}\n"
        "  - {weight: 1}\n"
        "extra: 1\n"
    )
    with pytest.raises(UserError) as caught:
        config.load(Toy, file)
    head, *lines = str(caught.value).splitlines()
    assert head == f"7 problems in {file}"
    found = [line.strip().removeprefix(f"{file}:") for line in lines]
    assert found[0] == "3: unknown key 'optimizer.learning_rat'; did you mean 'learning_rate'?"
    assert found[1] == "4: 'optimizer.steps' must be a whole number, found 'many'"
    assert found[2] == "9: heads.b: steps must be at least 1, got 0"
    assert found[3].startswith("11: 'objectives.0': no objective called 'dinoo'; did you mean 'dino'?")
    assert found[4] == "12: unknown key 'objectives.1.wieght'; did you mean 'weight'?"
    assert found[5] == "13: missing required key 'objectives.2.name': which objective?"
    assert found[6].startswith("14: unknown key 'extra' (known here: name, optimizer,")
    assert len(found) == 7


def test_missing_keys_are_named_once():
    assert mistakes("") == ["recipe:1: missing required key 'name'", "recipe:1: missing required key 'optimizer'"]
    assert mistakes("nmae: x\noptimizer: {}") == ["recipe:1: unknown key 'nmae'; did you mean 'name'?"]


def test_duplicate_keys_are_refused():
    (line,) = mistakes("name: x\noptimizer: {}\nname: y\n")
    assert line == "recipe:3: key 'name' is given twice (first at recipe:1)"


@pytest.mark.parametrize("text", ["- a\n- b", "just words", "3"])
def test_a_text_that_is_no_mapping_is_refused(text: str):
    assert "the whole text must be a mapping" in mistakes(text)[0]


def test_python_objects_are_never_made(tmp_path: Path):
    trace = tmp_path / "trace"
    call = f"!!python/object/apply:os.system ['touch {trace}']"
    assert "tags are not supported" in mistakes(f"name: {call}\noptimizer: {{}}")[0]
    assert "tags are not supported" in mistakes(f"name: x\noptimizer: {{}}\nfree: {{a: {call}}}")[0]
    assert "tags are not supported" in mistakes("name: x\noptimizer: !mine {}")[0]
    assert not trace.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x [1]\nb: *x", "recipe:2: aliases"),
        ("a: [1", "recipe:1: "),
        ("a: 1\n\tb: 2", "recipe:2: "),
        ("name: x\n---\nname: y", "recipe:2: but found another document"),
        ("[" * 5000, "recipe: nested too deeply"),
        ("name: \x00", "special characters are not allowed"),
    ],
)
def test_text_that_is_no_plain_yaml_is_refused_with_its_line(text: str, words: str):
    with pytest.raises(UserError, match=re.escape(words)):
        config.load(Toy, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot read .*none\.yaml"):
        config.load(Toy, tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(UserError, match=r"cannot read .*bytes\.yaml"):
        config.load(Toy, tmp_path / "bytes.yaml")


def test_overrides_change_any_key():
    text = "name: x\noptimizer: {steps: 3, learning_rate: 1.0}\nobjectives:\n  - {name: koleo}\n"
    read = config.load(
        Toy,
        text,
        [
            "optimizer.steps=4",
            "optimizer.learning_rate={start: 1, end: 0}",
            "optimizer.momentum.start=0.5",
            "objectives.0.weight=2",
            "heads.new.clip=null",
            "shards=[a, b]",
            "shards.1=c",
            "name=",
            "name=y",
        ],
    )
    assert read.optimizer.steps == 4 and read.optimizer.momentum == Schedule(start=0.5)
    assert read.optimizer.learning_rate == Schedule(start=1.0, end=0.0)
    assert read.objectives[0].weight == 2.0 and read.heads["new"].clip is None
    assert read.shards == ("a", "c") and read.name == "y"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.stepps=4", "override optimizer.stepps=4: unknown key 'optimizer.stepps'; did you mean 'steps'?"),
        ("optimizer.steps=x", "override optimizer.steps=x: 'optimizer.steps' must be a whole number"),
        ("optimizer.steps.x=1", "'optimizer.steps' is a plain value, not a mapping; override it whole"),
        ("objectives.1.weight=1", "no entry 'objectives.1': 'objectives' is a list of 1, counted from 0 (0 koleo)"),
        ("objectives.koleo.weight=1", "for 'koleo' write objectives.0.weight"),
        ("objectives.kolo.weight=1", "counted from 0 (0 koleo); did you mean 'koleo'?"),
        ("shards.x=1", "no entry 'shards.x': 'shards' is a list of 2, counted from 0"),
        ("steps", "override steps: write it as key.sub=value"),
        ("=1", "write it as key.sub=value, without spaces beside the ="),
        ("momentum=1", "unknown key 'momentum'; did you mean 'optimizer.momentum'?"),
        ("optimizer.steps=0", "steps must be at least 1, got 0"),
    ],
)
def test_a_wrong_override_is_quoted(override: str, words: str):
    assert any(
        words in line
        for line in mistakes("name: x\nshards: [a, b]\noptimizer: {steps: 1}\nobjectives: [{name: koleo}]", override)
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optimizer.steps", "=", "4"], "beside the =: optimizer.steps=4"),
        (["name=y", "optimizer.steps=", "4"], "beside the =: optimizer.steps=4"),
        (["optimizer.steps", "=4", "name=y"], "beside the =: optimizer.steps=4"),
        (["name=y", "shards", "=", "[a]"], "beside the =: 'shards=[a]'"),
    ],
)
def test_an_override_that_the_shell_has_split_is_put_together(words: list[str], said: str):
    with pytest.raises(UserError) as caught:
        config.load(Toy, "name: x\noptimizer: {steps: 1}", words)
    assert said in str(caught.value) and "problem" not in str(caught.value)


def test_an_override_with_nothing_behind_it_is_null():
    read = config.load(Toy, "name: x\noptimizer: {steps: 1}", ["optimizer.clip=", "shards=[b]"])
    assert read.optimizer.clip is None and read.shards == ("b",)


def test_an_override_with_braces_says_that_text_is_quoted():
    with pytest.raises(UserError, match="text with brackets, braces or commas stands in double quotes"):
        config.load(Toy, "name: x", ["shards=[http://host/train-{000..003}.tar]"])
    read = config.load(Toy, "name: x\noptimizer: {steps: 1}", ['shards=["http://host/train-{000..003}.tar"]'])
    assert read.shards == ("http://host/train-{000..003}.tar",)


def test_dump_loads_back_equal():
    text = (
        "name: '1'\n"
        "optimizer: {learning_rate: {start: 1, end: 1e-6, warmup: 1234567 steps}, clip: null, momentum: 0.3}\n"
        "heads: {a: {betas: [0.1, 0.123456789012345]}}\nobjectives: [{name: koleo, weight: 0.5}]\nfolder: a/b\n"
        "pairs: [[1, 2], [3, 1e-300]]\nshards: [no, '5', 'a: b', '']\n"
    )
    read = config.load(Toy, text)
    written = config.dump(read)
    assert config.load(Toy, written) == read
    assert config.from_plain(Toy, config.to_plain(read)) == read
    assert "name: koleo" in written and "momentum: 0.3" in written and "1234567 steps" in written


def test_every_shipped_recipe_loads_and_survives_a_round_trip():
    from foundation.run.recipe import Recipe

    assert paths.recipes(), "no recipes are shipped"
    for file in paths.recipes().values():
        recipe = config.load(Recipe, file)
        assert config.load(Recipe, config.dump(recipe)) == recipe, file


def test_a_recipe_is_found_by_name_or_path(tmp_path: Path):
    name, file = next(iter(paths.recipes().items()))
    assert paths.recipe(name) == file
    mine = tmp_path / "mine.yaml"
    mine.write_text("")
    assert paths.recipe(mine) == mine
    with pytest.raises(UserError, match=rf"no recipe called '{name}x'; did you mean '{name}'"):
        paths.recipe(name + "x")
    with pytest.raises(UserError, match=r"no file 'none/mine\.yaml'"):
        paths.recipe("none/mine.yaml")
    with pytest.raises(UserError, match=r"no file '.*mien\.yaml'; did you mean '.*mine\.yaml'"):
        paths.recipe(tmp_path / "mien.yaml")
    with pytest.raises(UserError, match="is a folder"):
        paths.recipe(tmp_path)


def config_classes() -> dict[str, list[str]]:
    """Fields of each configuration dataclass in the sources, by file and class."""
    found = {}
    for file in sorted((ROOT / "foundation").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            is_config = isinstance(node, ast.ClassDef) and (node.name.endswith("Config") or file == ROOT / "foundation/run/recipe.py")
            if is_config:
                names = [
                    s.target.id for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)
                ]
                found[f"{file.relative_to(ROOT)}:{node.name}"] = names
    return found


def test_no_setting_is_dead():
    """Each field of a configuration is read somewhere in what is installed, outside its own checks."""
    read: set[str] = set()
    for file in chain((ROOT / "foundation").rglob("*.py"), (ROOT / "launchers").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        checks = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "__post_init__"]
        inside = {id(n) for check in checks for n in ast.walk(check)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in inside:
                read.add(node.attr)
    dead = {owner: sorted(set(names) - read) for owner, names in config_classes().items() if set(names) - read}
    assert not dead, f"settings that nothing reads: {dead}"


def test_every_setting_is_explained():
    """The recipe reference is made of the strings under the fields."""
    missing = {}
    for file in sorted((ROOT / "foundation").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.ClassDef) and (node.name.endswith("Config") or file == ROOT / "foundation/run/recipe.py")):
                continue
            for statement, after in zip(node.body, [*node.body[1:], None], strict=True):
                explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                if isinstance(statement, ast.AnnAssign) and not explained:
                    missing[f"{file.relative_to(ROOT)}:{statement.lineno}"] = ast.unparse(statement.target)
    assert not missing, f"settings without a line of explanation: {missing}"


def test_frozen_configurations():
    assert dataclasses.is_dataclass(Optimizer)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Optimizer().steps = 3  # type: ignore[misc]
