"""Recipes that would run code, grow without end, or mean something else."""

from __future__ import annotations

import pytest

from foundation import config
from foundation.errors import UserError
from foundation.run.recipe import Recipe


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.mkdir ['{folder}']",
        "!!python/object/new:os.mkdir ['{folder}']",
        "!!python/name:os.system ''",
        "!!python/module:os ''",
    ],
)
@pytest.mark.fault(43, "YAML that starts a program: !!python/object/apply, /new, /name, /module")
def test_yaml_objects_are_refused(tiny_recipe_file, foundation, happened, tmp_path, tag):
    harm = tmp_path / "harm"
    text = tiny_recipe_file.read_text().replace("name: tiny", "name: " + tag.format(folder=harm), 1)
    tiny_recipe_file.write_text(text)
    with pytest.raises(UserError) as caught:
        config.load(Recipe, tiny_recipe_file)
    assert caught.value.exit_code == 2 and tiny_recipe_file.name in str(caught.value) and "python" in str(caught.value)
    if "apply" in tag:
        result = foundation("pretrain", tiny_recipe_file, "--run", tmp_path / "run")
        assert result.returncode == 2 and "Traceback" not in result.stderr and "tiny.yaml" in result.stderr
        override = f"name={tag.format(folder=harm)}"
        with pytest.raises(UserError):
            config.load(Recipe, tiny_recipe_file, [override])
    assert not harm.exists() and not (tmp_path / "run").exists()
    happened("refused with file and line, exit 2; nothing ran")


@pytest.mark.slow
@pytest.mark.fault(43, "YAML that names itself a billion times")
def test_yaml_that_grows_is_refused(tmp_path, foundation, happened):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join([*lines, "name: *a11"]))
    prefix = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (20, 20))"
    result = foundation("pretrain", path, "--dry-run", prefix=prefix)
    assert result.returncode == 2 and "bomb.yaml" in result.stderr and len(result.stderr) < 20_000, result.stderr[-500:]
    happened("refused, exit 2, in seconds and with a short message")


@pytest.mark.fault(43, "1e-3, which plain YAML reads as text")
def test_numbers_are_numbers(tiny_recipe, tiny_recipe_file, happened):
    assert tiny_recipe("optimizer.learning_rate=1e-3").optimizer.learning_rate.start == 1e-3
    assert tiny_recipe("optimizer.clip=1e1").optimizer.clip == 10.0
    tiny_recipe_file.write_text(tiny_recipe_file.read_text().replace("1e-3", "'one thousandth'"))
    with pytest.raises(UserError, match=r"learning_rate.*one thousandth"):
        config.load(Recipe, tiny_recipe_file)
    happened("read as a number; text where a number belongs is refused with file and line")
