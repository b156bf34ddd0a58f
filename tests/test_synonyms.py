"""Names of other training programs lead to the setting of the recipe, as an option and as a setting."""

from __future__ import annotations

import pytest

from foundation import config, paths, synonyms
from foundation.cli import main
from foundation.errors import UserError
from foundation.run.recipe import Recipe

QUICKSTART = paths.recipe("quickstart")


def test_every_setting_that_is_named_can_be_set() -> None:
    values = {"start": "0.002", "end": "0", "device": "cpu", "accumulate": "2", "workers": "7", "seed": "5"}
    for setting in {synonyms.written(name) for name in synonyms.names()}:
        key, _, text = setting.replace("'", "").partition("=")
        value = text.replace("VALUE", values.get(key.rpartition(".")[2], "1"))
        changed = config.load(Recipe, QUICKSTART, [f"{key}={value}"])
        assert changed != config.load(Recipe, QUICKSTART), setting


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("epochs=4", "unknown key 'epochs'; here it is train.length='4 epochs'"),
        ("train.epochs=4", "unknown key 'train.epochs'; here it is train.length='4 epochs'"),
        ("train.max_steps=90", "unknown key 'train.max_steps'; here it is train.length='90 steps'"),
        ("lr=1e-3", "unknown key 'lr'; here it is optimizer.learning_rate.start=1e-3"),
        ("optimizer.lr=1e-3", "unknown key 'optimizer.lr'; here it is optimizer.learning_rate.start=1e-3"),
        ("batch_size=8", "unknown key 'batch_size'; here it is train.batch_size=8"),
        ("epochs='4 or so'", "here it is train.length='VALUE epochs'"),
        ("train.batch_sise=8", "unknown key 'train.batch_sise'; did you mean 'batch_size'?"),
    ],
)
def test_a_setting_of_another_name_is_told_by_ours(given: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        config.load(Recipe, QUICKSTART, [given])
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epochs", "4"], "no option --epochs; it is a setting, written train.length='4 epochs'"),
        (["--lr=1e-3"], "no option --lr; it is a setting, written optimizer.learning_rate.start=1e-3"),
        (["--batch-size", "8"], "no option --batch-size; it is a setting, written train.batch_size=8"),
        (["--fresch"], "did you mean '--fresh'?"),
    ],
)
def test_an_option_of_another_name_is_told_by_our_setting(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "quickstart", *words, "--show-recipe"]) == 2
    assert said in capsys.readouterr().err


def test_a_word_means_nothing_where_there_is_no_recipe() -> None:
    from foundation.masks.block import Config

    with pytest.raises(UserError) as error:
        config.load(Config, "lr: 1\n")
    assert "here it is" not in str(error.value)
