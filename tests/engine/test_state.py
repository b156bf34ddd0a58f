"""The training state: complete, closed under randomness, and refused by name when any item is missing."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foundation.checkpoints import checkpoint
from foundation.engine import state
from foundation.engine.learner import Learner
from foundation.engine.optimizer import Optimizer
from foundation.errors import UserError
from foundation.run import build
from foundation.schedules import Clock

CLOCK = Clock(8, 5.0)
STEM = "encoder.tokenizer={name: image, patch_size: 4, stem: conv}"  # has buffers: BatchNorm's statistics


def pair(recipe: Any) -> tuple[Learner, Optimizer]:
    learner = build.learner(recipe, CLOCK).train()
    return learner, recipe.optimizer.build(build.trainable(learner), CLOCK, recipe.train.batch_size)


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Any]) -> Any:
    return tiny_recipe(STEM, "objectives=[{name: dino, target: centering}, {name: ibot, target: sinkhorn}]")


@pytest.fixture
def trained(recipe: Any) -> tuple[Learner, Optimizer]:
    """Two updates from made-up gradients; one parameter has never had any."""
    torch.manual_seed(0)
    learner, optimizer = pair(recipe)
    for step in range(2):
        optimizer.apply_schedule(step)
        for parameter in list(optimizer.parameters())[1:]:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    with torch.no_grad():
        for buffer in learner.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer))
    return learner, optimizer


def saved(trained: tuple[Learner, Optimizer], ranks: int = 1) -> dict[str, dict[str, Tensor]]:
    groups = state.capture(*trained, [state.random_state() for _ in range(ranks)])
    return {name: {key: t.detach().clone() for key, t in group.items()} for name, group in groups.items()}


def numbers(world_size: int = 1) -> dict[str, Any]:
    return state.numbers(state.Progress(2, 16, {"decode": 1}), 8, world_size, recipe="name: tiny", data={"shards": "x"})


def equal(a: dict[str, dict[str, Tensor]], b: dict[str, dict[str, Tensor]]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].keys() == b[n].keys() and all(torch.equal(a[n][k], b[n][k]) for k in a[n]) for n in a
    )


def test_a_restored_state_is_the_saved_one_bit_for_bit(recipe, trained, tmp_path):
    folder = checkpoint.write(tmp_path, 2, state.capture(*trained), numbers())
    before = saved(trained)
    torch.manual_seed(7)
    fresh = pair(recipe)
    assert not equal(saved(fresh), before)
    tensors, items = checkpoint.read(folder)
    state.validate(checkpoint.manifest_of(folder)["tensors"], *fresh)
    state.restore(*fresh, tensors, items)
    assert equal(saved(fresh), before)
    assert state.progress_of(items) == state.Progress(2, 16, {"decode": 1})


def test_the_state_names_everything_that_the_contract_lists(trained):
    groups = state.capture(*trained)
    assert set(groups) == {"student", "teacher", "objectives", "optimizer", "random"}
    assert any("running_mean" in key for key in groups["teacher"]), "EMA with buffers"
    assert any("cent" in key for key in groups["objectives"]), "centres"
    for name in trained[1].names:
        assert {f"{name}/exp_avg", f"{name}/exp_avg_sq", f"{name}/step"} <= groups["optimizer"].keys()
    items = numbers(world_size=2)
    assert items.keys() == state.NUMBERS.keys()
    assert items["code"]["version"] and items["world_size"] == 2 and items["data"] == {"shards": "x"}


def test_capturing_copies_nothing(trained):
    learner, optimizer = trained
    groups = state.capture(learner, optimizer)
    for name, parameter in learner.branch("student").named_parameters():
        assert groups["student"][name].data_ptr() == parameter.data_ptr()
    never = groups["optimizer"][f"{next(iter(optimizer.names))}/exp_avg"]
    assert never.untyped_storage().nbytes() == 4 and not never.any()


KINDS: dict[str, Callable[[str, str], bool]] = {
    "a parameter of the student": lambda f, k: f == "student" and k.endswith("qkv.weight"),
    "a buffer of the student": lambda f, k: f == "student" and k.endswith("running_var"),
    "a parameter of the teacher": lambda f, k: f == "teacher" and k.endswith("qkv.weight"),
    "a buffer of the teacher": lambda f, k: f == "teacher" and k.endswith("running_var"),
    "a buffer of an objective": lambda f, k: f == "objectives",
    "a first moment": lambda f, k: f == "optimizer" and k.endswith("/exp_avg"),
    "a second moment": lambda f, k: f == "optimizer" and k.endswith("/exp_avg_sq"),
    "a parameter's step": lambda f, k: f == "optimizer" and k.endswith("/step"),
    "torch's generator": lambda f, k: k == "rank0.torch",
    "NumPy's generator": lambda f, k: k == "rank0.numpy.keys",
    "NumPy's place": lambda f, k: k == "rank0.numpy.rest",
    "Python's generator": lambda f, k: k == "rank0.python.internal",
    "Python's gauss": lambda f, k: k == "rank0.python.rest",
    "CUDA's generator": lambda f, k: k == "rank0.cuda",
    "the other process's generator": lambda f, k: k == "rank1.torch",
}


def refused(recipe: Any, tensors: dict[str, dict[str, Tensor]], world_size: int = 2) -> str:
    """What the resume says, before anything of the new process has changed."""
    fresh = pair(recipe)
    before = saved(fresh, world_size)
    with pytest.raises(UserError) as caught:
        state.validate(state.layout_of(tensors), *fresh, ranks=world_size)
    with pytest.raises(UserError, match=r"checkpoint") as again:
        state.restore(*fresh, tensors, numbers(world_size), rank=0, world_size=world_size)
    assert str(caught.value) == str(again.value)
    assert equal(saved(fresh, world_size), before)
    return str(caught.value)


@pytest.mark.fault(6, "one tensor of each kind, or one whole file, removed from a checkpoint that is whole otherwise")
@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_tensor_is_named(recipe, trained, kind, happened):
    tensors = saved(trained, ranks=2)
    name, key = next((f, k) for f, group in tensors.items() for k in group if KINDS[kind](f, k))
    del tensors[name][key]
    said = refused(recipe, tensors)
    assert f"{name} lacks {key!r}" in said and "cannot be resumed" in said
    happened("the resume is refused: `FILE lacks ITEM`; nothing is changed")


@pytest.mark.parametrize("name", ["student", "teacher", "objectives", "optimizer", "random"])
def test_a_missing_file_is_named(recipe, trained, name):
    tensors = saved(trained, ranks=2)
    del tensors[name]
    assert f"lacks {name}:" in refused(recipe, tensors)


def test_every_single_tensor_is_missed(recipe, trained):
    layout = state.layout_of(saved(trained))
    for name, group in layout.items():
        for key in group:
            rest = {k: v for k, v in group.items() if k != key}
            with pytest.raises(UserError) as caught:
                state.validate(layout | {name: rest}, *trained)
            assert f"{name} lacks {key!r}" in str(caught.value)


@pytest.mark.fault(6, "one number of the state removed")
@pytest.mark.parametrize("name", state.NUMBERS)
def test_a_missing_number_is_named(recipe, name, happened):
    items = numbers()
    del items[name]
    with pytest.raises(UserError, match=f"lacks '{name}'"):
        state.progress_of(items)
    with pytest.raises(UserError, match=f"lacks '{name}'"):
        state.restore(*pair(recipe), {}, items)
    with pytest.raises(UserError, match=f"has '{name}' as None"):
        state.progress_of(items | {name: None})
    happened("the resume is refused: `the checkpoint's state lacks ITEM`")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "CUDA" not in kind])
def test_another_shape_or_dtype_is_named_before_anything_is_loaded(recipe, trained, kind):
    tensors = saved(trained, ranks=2)
    name, key = next((f, k) for f, group in tensors.items() for k in group if KINDS[kind](f, k))
    good = tensors[name][key]
    tensors[name][key] = torch.zeros(*good.shape, 2, dtype=good.dtype)
    assert repr(key) in refused(recipe, tensors)
    tensors[name][key] = good.to(torch.float16)
    said = refused(recipe, tensors)
    assert repr(key) in said and "float16" in said


def test_an_item_too_many_is_named(recipe, trained):
    tensors = saved(trained, ranks=2)
    tensors["student"]["encoder.more"] = torch.zeros(3)
    assert "student has 'encoder.more'" in refused(recipe, tensors)


def draws() -> tuple[Any, ...]:
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random(), random.gauss(0, 1)]


@pytest.mark.fault(5, "all generators used between saving and restoring")
def test_every_generator_goes_on_where_it_was(recipe, trained, happened):
    random.gauss(0, 1)  # leaves a second value behind, which is part of the state
    np.random.standard_normal()
    tensors = saved(trained)
    expected = draws()
    torch.manual_seed(99), np.random.seed(99), random.seed(99)
    fresh = pair(recipe)
    state.restore(*fresh, tensors, numbers())
    restored = state.random_state()
    assert all(torch.equal(tensors["random"][f"rank0.{key}"], t) for key, t in restored.items())
    assert draws() == expected
    happened("torch, NumPy and Python draw the numbers that they would have drawn")


@pytest.mark.slow
@pytest.mark.fault(5, "loaders with workers built once, or three times with restarts between")
def test_building_loaders_draws_nothing_from_the_generators(train, tiny_recipe, tmp_path, happened):
    """The generators' digests in the last checkpoint do not depend on how many loaders were built before it."""
    digests = []
    for name, stops in (("once", [8]), ("thrice", [2, 5, 8])):
        for stop in stops:
            train(tiny_recipe("data.workers=1", f"train.stop_after={stop} steps"), tmp_path / name)
        newest, _ = checkpoint.newest(tmp_path / name / "checkpoints")
        assert newest is not None and newest.name == "step-00000008"
        digests.append(checkpoint.sha256(newest / "random.safetensors"))
    assert digests[0] == digests[1]
    happened("the generators end in the same state, hash for hash")


def test_other_numbers_of_processes_take_what_is_theirs_and_seed_the_rest(recipe, trained):
    tensors = saved(trained, ranks=1)
    tensors["random"] |= {f"rank1.{key}": t for key, t in state.random_state().items()}
    torch.manual_seed(5)
    other = torch.get_rng_state()
    tensors["random"]["rank1.torch"] = other

    def digest(rank: int, world_size: int, seed: int = 0) -> list[int]:
        torch.manual_seed(1000 + rank)
        np.random.seed(rank)
        state.restore(*pair(recipe), tensors, numbers(2), rank=rank, world_size=world_size, seed=seed)
        return torch.get_rng_state().tolist()

    assert digest(1, 2) == other.tolist() == digest(1, 3)
    seeded = [digest(2, 3), digest(3, 4), digest(2, 3, seed=1)]
    assert digest(2, 3) == seeded[0] and digest(2, 5) == seeded[0]
    assert len({tuple(s) for s in seeded}) == 3
    fewer = {**tensors, "random": {k: t for k, t in tensors["random"].items() if k.startswith("rank0.")}}
    with pytest.raises(UserError, match=r"lacks 'rank1\.torch'"):
        state.restore(*pair(recipe), fewer, numbers(2), rank=0, world_size=2)
    state.restore(*pair(recipe), fewer, numbers(2), rank=0, world_size=1)


def test_a_parameter_without_a_gradient_so_far_resumes_without_state(recipe, trained):
    fresh = pair(recipe)
    state.restore(*fresh, saved(trained), numbers())
    first = next(fresh[1].parameters())
    assert first not in fresh[1].adamw.state and len(fresh[1].adamw.state) == len(fresh[1].names) - 1


def test_the_code_is_named_by_version_and_commit():
    code = state.code_version()
    assert code["version"]
    if "commit" in code:
        assert len(code["commit"]) == 40 and isinstance(code["dirty"], bool)
