"""The model of many GPUs: collectives by hand, what must rise and what must fall, and figures that others published."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from foundation import config, paths
from foundation.cli import main
from foundation.parallel.config import Config
from foundation.run.collectives import Group
from foundation.run.gpus import CARDS, card
from foundation.run.plan import plan
from foundation.run.predict import alternatives, predict, sensitivity
from foundation.run.recipe import Recipe
from foundation.run.scaling import Layout, estimate, work

H100 = CARDS["h100"]
BARE = replace(
    H100,
    wire_share=1.0,
    link_microseconds=1e-9,
    network_microseconds=1e-9,
    collective_microseconds=1e-9,
    unevenness=0.0,
)
"""Wires without any latency."""


def load(name, *overrides):
    return config.load(Recipe, paths.recipe(name), ["data.samples_per_epoch=10000", "data.shards=[]", *overrides])


@pytest.fixture(scope="module")
def followed():
    recipe = load("cifar10-dino-ibot-nano", "train.batch_size=64")
    return work(recipe, plan(recipe).learner, 64, 64)


def layout(gpus, per_node=8, **parallel):
    return Layout(gpus, per_node, Config(**parallel))


def test_one_gpu_sends_nothing():
    assert Group(H100, 1, 8).all_reduce(1e9) == Group(H100, 1, 8).gather(1e9)
    assert Group(H100, 1, 8).gather(1e9).seconds == 0.0


def test_a_node_gathers_by_its_links():
    cost = Group(BARE, 8, 8).gather(8e9)  # seven eighths come from others
    assert cost.seconds == pytest.approx(7 / 450)
    assert (cost.link, cost.network) == (7e9, 0.0)
    assert Group(BARE, 8, 8).all_reduce(8e9).seconds == pytest.approx(14 / 450)


def test_nodes_gather_by_all_their_adapters():
    cost = Group(BARE, 16, 8).gather(16e9)
    assert cost.seconds == pytest.approx(15 / 400)  # eight adapters of 50 GB/s are slower than a link of 450
    assert cost.network == pytest.approx(15e9 / 8) and cost.link == pytest.approx(15e9 * 7 / 8)
    alone = Group(BARE, 16, 1).gather(16e9)  # one GPU in each node: one adapter
    assert alone.seconds == pytest.approx(15 / 50) and alone.link == 0.0


def test_small_sums_go_along_a_tree_and_large_ones_do_not_care():
    many = Group(H100, 1024, 8)
    small = many.all_reduce(4)
    hops = 2 * (7 * H100.link_microseconds + 7 * H100.network_microseconds)
    assert small.seconds == pytest.approx((hops + H100.collective_microseconds) * 1e-6, rel=1e-3)
    assert many.gather(4).seconds > 10 * small.seconds  # a ring visits every GPU


def test_sharding_saves_memory_and_costs_bytes(followed):
    ddp, fsdp, hsdp = (
        estimate(followed, layout(64, **kind), H100) for kind in ({}, {"data": "fsdp"}, {"data": "hsdp", "shard": 8})
    )
    for kind in ("parameters", "AdamW", "teachers"):
        assert fsdp.memory[kind] == ddp.memory[kind] // 64 and hsdp.memory[kind] == ddp.memory[kind] // 8
    assert hsdp.network < fsdp.network  # weights are gathered inside the nodes
    gradients = followed.weights.trained
    assert hsdp.network == pytest.approx(2 * gradients / 8 * 7 / 8)  # a shard of them, summed over eight nodes
    assert ddp.network == pytest.approx(2 * gradients * 63 / 64 / 8)


def test_checkpointing_trades_time_for_memory(followed):
    kinds = [estimate(followed, layout(1, activation_checkpointing=k), H100) for k in ("none", "selective", "full")]
    memory, step, flops = [k.total(H100) for k in kinds], [k.step for k in kinds], [k.flops for k in kinds]
    assert memory[0] > memory[1] > memory[2] and step[0] < step[1] and step[0] < step[2]
    assert flops[0] == flops[1] == flops[2]  # what is computed twice is no progress
    assert kinds[2].busy["matrix"] > kinds[1].busy["matrix"] == kinds[0].busy["matrix"]


def test_parts_of_a_step_add_up_and_more_gpus_never_help_one(followed):
    rates = []
    for gpus in (1, 8, 64, 1024):
        found = estimate(followed, layout(gpus), H100)
        assert found.step == pytest.approx(sum(found.seconds.values())) and found.batch == 64 * gpus
        assert found.mfu == pytest.approx(found.flops / found.step / (H100.bf16 * 1e12))
        rates.append(found.rate / gpus)
    assert rates == sorted(rates, reverse=True)


def test_a_small_network_waits_for_the_host(followed):
    found = estimate(followed, layout(1), H100)
    assert found.seconds["waiting for the host"] > found.seconds["GPU"]
    compiled = estimate(replace(followed, compiled=True), layout(1), H100)
    assert compiled.step < found.step


def test_accumulation_sends_gradients_once(followed):
    one, four = (estimate(followed, layout(64), H100, accumulate=n) for n in (1, 4))
    assert four.network == one.network and four.batch == 4 * one.batch
    assert four.memory["gradients"] >= one.memory["gradients"]
    sharded = [estimate(followed, layout(64, data="fsdp"), H100, accumulate=n).network for n in (1, 4)]
    assert sharded[0] < sharded[1] < 4 * sharded[0]  # weights are gathered for every micro-batch


def test_what_the_figures_lean_on(followed):
    found = sensitivity(followed, layout(64), H100)
    slow, quick = found["host_microseconds"]
    assert slow > 1.1 > 1.0 > quick  # fewer microseconds, more samples
    found = sensitivity(followed, layout(1024, data="fsdp"), replace(H100, host_microseconds=1e-3))
    for name in ("matrix_share", "attention_share", "bandwidth_share", "wire_share"):
        low, high = found[name]
        assert low <= 1.0 + 1e-9 and high >= 1.0 - 1e-9  # what is quicker never costs samples
    low, high = found["link_microseconds"]
    assert low > 1.0 > high


def test_alternatives_are_all_there_is(followed):
    assert (
        len(alternatives(layout(1))) == 3 and len(alternatives(layout(8))) == 6 and len(alternatives(layout(16))) == 9
    )
    assert {other.parallel.data for other in alternatives(layout(16))} == {"ddp", "fsdp", "hsdp"}


def test_what_does_not_fit_is_not_recommended():
    recipe = load("cifar10-random-teacher-nano", "train.batch_size=64")
    found = predict(plan(recipe), 1, 8, replace(H100, memory=1.55))
    assert found.best is None
    found = predict(plan(recipe), 1, 8, H100)
    assert found.best is not None and found.best.layout.checkpointing == "none"


def test_the_command_writes_what_it_shows(tmp_path, capsys):
    figures, picture = tmp_path / "plan.json", tmp_path / "plan.svg"
    words = ["fsdd-mae-nano", "data.samples_per_epoch=1000", "--gpu", "h100", "--per-gpu", "16"]
    assert main(["plan", *words, "--gpus", "1,16", "--json", str(figures), "--svg", str(picture)]) == 0
    plain = json.loads(figures.read_text())
    one, sixteen = (found["recipe"] for found in plain["predicted"])
    assert (one["batch"], sixteen["batch"]) == (16, 256) and plain["gpu"]["name"] == "H100 SXM"
    assert {other["parallel"]["data"] for other in plain["predicted"][1]["alternatives"]} == {"ddp", "fsdp", "hsdp"}
    assert picture.read_text().count("<polyline") == 3
    captured = capsys.readouterr()
    assert "predicted, not measured" in captured.err and "hsdp" in captured.out
    assert main(["plan", *words, "--gpus", "8"]) == 0
    assert "the fastest that fits: parallel.data=" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--gpus", "8", "--gpu", "h10"], "no GPU 'h10'; did you mean 'h100'"),
        (["--gpus", "8", "--gpu", "mine.yaml"], "mine.yaml: no such file"),
        (["--gpus", "none", "--gpu", "h100"], "--gpus none: give a number"),
        (["--gpus", "7", "--gpu", "h100", "train.batch_size=64"], "cannot be divided among 7"),
    ],
)
def test_mistakes_are_named(words, text, capsys):
    assert main(["plan", "fsdd-mae-nano", "data.samples_per_epoch=1000", *words]) == 2
    assert text in capsys.readouterr().err


def test_a_card_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "{name: mine, bf16: 100, fp32: 20, memory: 24, bandwidth: 800, link: 30, network: 3, per_node: 2}\n"
    )
    own = card(str(path))
    assert (own.name, own.per_node, own.matrix_share) == ("mine", 2, H100.matrix_share)
    path.write_text("{name: mine, bf16: 100}\n")
    assert main(["plan", "fsdd-mae-nano", "--gpus", "1", "--gpu", str(path)]) == 2
    path.write_text("{name: mine, bf16: -1, fp32: 20, memory: 24, bandwidth: 800, link: 30, network: 3}\n")
    assert main(["plan", "fsdd-mae-nano", "--gpus", "1", "--gpu", str(path)]) == 2


L16 = ("encoder.tokenizer.patch_size=16", "views.local_views.size=96", "encoder.ffn=mlp", "train.batch_size=64")
"""DINOv2's ViT-L/16, 2 x 224 + 8 x 96."""


@pytest.mark.slow
def test_published_rates_are_met_within_a_third():
    recipe = load("dinov2-vitl14", *L16, "encoder.drop_path=0.3")
    made = work(recipe, plan(recipe).learner, 64, 32)
    sharded = layout(32, data="fsdp")
    a100 = estimate(made, sharded, CARDS["a100"]).rate / 32
    h100 = estimate(made, sharded, H100).rate / 32
    assert 1 / 1.33 < a100 / 93 < 1.33  # DINOv2's L/16, images/s of each A100
    assert 1 / 1.33 < h100 / 159 < 1.33  # DINOv3's L/16, images/s of each H100


@pytest.mark.slow
def test_another_model_on_the_operators_agrees():
    few = ("heads.cls.prototypes=65536", "heads.patch.prototypes=65536", "encoder.drop_path=0", "train.batch_size=32")
    recipe = load("dinov2-vitl14", *L16, *few)
    found = estimate(work(recipe, plan(recipe).learner, 32, 1), layout(1), H100)
    assert found.step == pytest.approx(0.160, rel=0.1) and found.mfu == pytest.approx(0.30, rel=0.1)
