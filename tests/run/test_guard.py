"""The numerics guard: what it decides, counts and writes down, and real runs that go bad."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from foundation import config
from foundation.errors import NumericsError, UserError
from foundation.run import guard
from foundation.run.guard import NumericsGuard
from foundation.run.run_folder import RunFolder

NAN, INF = math.nan, math.inf
KEYS = tuple(f"s{i}" for i in range(12))


@pytest.fixture
def make(tmp_path):
    """``make(when_spike="skip")``: a guard, and what it says."""

    def build(said: list[str] | None = None, rank: int = 0, **settings) -> NumericsGuard:
        say = (said if said is not None else []).append
        return NumericsGuard(guard.Config(**settings), RunFolder(tmp_path, say), say, rank)

    return build


def judge(guarded: NumericsGuard, step: int, loss: float, norm: float = 1.0, elsewhere=False, checkpoint=None) -> str:
    bad = not (math.isfinite(loss) and math.isfinite(norm)) or elsewhere
    return guarded.judge(step, loss, norm, {"dino": loss, "koleo": 0.5}, KEYS, bad, checkpoint)


def bad_steps(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / guard.BAD_STEPS).read_text().splitlines()]


@pytest.mark.parametrize(("loss", "norm"), [(NAN, 1.0), (INF, 1.0), (-INF, 1.0), (2.0, NAN), (2.0, INF)])
def test_stop_names_step_parts_keys_checkpoint_and_knobs(make, tmp_path, loss, norm):
    guarded = make()
    with pytest.raises(NumericsError, match="not finite") as caught:
        judge(guarded, 7, loss, norm, checkpoint=tmp_path / "step-00000006")
    text = str(caught.value)
    assert caught.value.exit_code == 4
    for part in (
        "step 7",
        "dino",
        "koleo 0.5",
        "s0, s1",
        "step-00000006",
        "learning rate",
        "guard.when_not_finite=skip",
    ):
        assert part in text
    (line,) = bad_steps(tmp_path)
    assert line["keys"] == list(KEYS) and line["action"] == "stop" and line["rank"] == 0 and line["step"] == 7
    assert line["loss"] == (loss if math.isfinite(loss) else str(loss)) and line["parts"]["koleo"] == 0.5


def test_skip_goes_on_until_the_limit_within_the_window(make, tmp_path):
    said: list[str] = []
    guarded = make(said, when_not_finite="skip", max_bad_steps=2, bad_steps_window=10)
    for step in range(40):  # one in six: never more than two in ten
        assert judge(guarded, step, NAN if step % 6 == 0 else 2.0) == ("skip" if step % 6 == 0 else "go")
    assert guarded.metrics()["guard/skipped"] == guarded.metrics()["guard/not_finite"] == 7
    assert len(said) == 7 and "left out" in said[0]
    with pytest.raises(NumericsError, match=r"max_bad_steps = 2 within 10 steps"):
        for step in range(40, 44):
            judge(guarded, step, NAN)
    assert [line["action"] for line in bad_steps(tmp_path)][-1] == "stop"


def test_a_clean_process_follows_the_one_that_is_not(make, tmp_path):
    """With the agreed flag, both processes come to the same answer, and each writes down its own keys."""
    first, second = make(when_not_finite="skip"), make(when_not_finite="skip", rank=1)
    assert judge(first, 3, 2.0, elsewhere=True) == judge(second, 3, NAN) == "skip"
    assert [(line["rank"], line["loss"]) for line in bad_steps(tmp_path)] == [(0, 2.0), (1, "nan")]
    with pytest.raises(NumericsError, match="not finite on another process"):
        judge(make(), 3, 2.0, elsewhere=True)


def test_rewind_needs_a_checkpoint(make, tmp_path):
    said: list[str] = []
    guarded = make(said, when_not_finite="rewind")
    assert judge(guarded, 0, NAN) == "skip"
    assert judge(guarded, 9, NAN, checkpoint=tmp_path / "step-00000008") == "rewind"
    assert "back to step-00000008" in said[1]
    assert guarded.metrics()["guard/rewound"] == 1


def test_rewinding_to_the_same_step_again_and_again_ends(make, tmp_path):
    """Step numbers repeat after a rewind; the limit counts judgements."""
    guarded = make(when_not_finite="rewind", max_bad_steps=3)
    with pytest.raises(NumericsError, match="max_bad_steps"):
        for _ in range(10):
            judge(guarded, 8, 2.0, checkpoint=tmp_path / "step-00000008")
            judge(guarded, 9, NAN, checkpoint=tmp_path / "step-00000008")


def noisy(count: int, level: float = 5.0, seed: int = 0) -> list[float]:
    return (level + 0.1 * torch.randn(count, generator=torch.Generator().manual_seed(seed))).tolist()


@pytest.mark.parametrize("level", [5.0, -3.0, 0.0])
def test_spikes_are_said_once_and_noise_is_none(make, tmp_path, level):
    said: list[str] = []
    guarded = make(said, spike_window=50)
    for step, loss in enumerate(noisy(300, level)):
        assert judge(guarded, step, loss) == "go"
    assert not said and guarded.metrics()["guard/spikes"] == 0
    for step in range(300, 303):
        assert judge(guarded, step, level + 4.0) == "go"
    assert guarded.metrics()["guard/spikes"] == 3
    assert len(said) == 1 and "is a spike" in said[0]
    assert [line["reason"] for line in bad_steps(tmp_path)] == ["spike"] * 3


def test_a_loss_that_stays_high_becomes_the_usual_one(make):
    guarded = make(spike_window=20)
    for step, loss in enumerate([*noisy(40), *noisy(60, level=9.0)]):
        judge(guarded, step, loss)
    before = guarded.counts["spikes"]
    for step, loss in enumerate(noisy(20, level=9.0), start=100):
        judge(guarded, step, loss)
    assert 0 < before < 30 and guarded.counts["spikes"] == before


def test_a_falling_loss_and_a_flat_one_are_no_spikes(make):
    guarded = make()
    for step in range(300):
        judge(guarded, step, 11.09 * math.exp(-step / 60))
    for step in range(300, 500):
        judge(guarded, step, 0.07 + 1e-4 * (step % 7 == 0))
    assert guarded.metrics()["guard/spikes"] == 0


def test_spikes_can_be_left_out(make):
    guarded = make(when_spike="skip")
    for step, loss in enumerate(noisy(50)):
        judge(guarded, step, loss)
    assert judge(guarded, 50, 50.0) == "skip"
    assert judge(guarded, 51, 5.0) == "go"


@pytest.mark.parametrize("when_spike", ["warn", "skip"])
def test_the_device_decides_as_the_host_does(make, when_spike):
    """Every step that the host judges to be none was refused on the device, before its loss was known."""
    guarded = make(when_not_finite="skip", when_spike=when_spike, max_bad_steps=500)
    losses = [*noisy(60), 50.0, 5.0, NAN, 50.0, INF, *noisy(30, level=9.0), *noisy(30, seed=1), -INF, 5.1]
    verdicts = []
    for step, loss in enumerate(losses):
        norm = NAN if step == 40 else 1.0
        refused, told = guarded.refuse(torch.tensor(loss), torch.tensor(norm))
        mean, bad = float(told[guard.MEAN_LOSS]), float(told[guard.BAD_ON]) > 0
        verdicts.append(guarded.judge(step, mean, norm, {}, KEYS, bad, None))
        assert refused.dtype == torch.float32 and float(refused) == (verdicts[-1] != "go"), step
    assert verdicts.count("skip") == (4 if when_spike == "warn" else 4 + guarded.counts["spikes"])
    assert guarded.counts["spikes"] >= 2


def test_state_goes_through_json_and_gives_the_same_decisions(make):
    losses = [*noisy(90), NAN, 50.0, 5.0, 50.0, NAN]
    whole, cut = make(when_not_finite="skip", when_spike="skip"), make(when_not_finite="skip", when_spike="skip")
    expected = [judge(whole, step, loss) for step, loss in enumerate(losses)]
    got = [judge(cut, step, loss) for step, loss in enumerate(losses[:92])]
    resumed = make(when_not_finite="skip", when_spike="skip")
    resumed.restore(json.loads(json.dumps(cut.state())))
    assert got + [judge(resumed, step, loss) for step, loss in enumerate(losses[92:], start=92)] == expected
    assert resumed.metrics() == whole.metrics() and resumed.state() == whole.state()
    fresh = make()
    fresh.restore({})
    assert fresh.metrics()["guard/skipped"] == 0


def test_a_file_that_cannot_be_written_ends_nothing(make, tmp_path):
    (tmp_path / guard.BAD_STEPS).mkdir()
    said: list[str] = []
    assert judge(make(said, when_not_finite="skip"), 1, NAN) == "skip"
    assert any("cannot write" in text for text in said)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("when_not_finite: ignore", "stop"),
        ("spike_factor: 0", "spike_factor is 0; it must be above 0"),
        ("max_bad_steps: -1", "max_bad_steps is -1; it must be from 0"),
        ("stall_seconds: -5", "stall_seconds is -5; it must be from 0"),
        ("collapse: {every: 0}", "collapse.every is 0; it must be from 1"),
        ("collapse: {min_std: 2}", "min_std is 2; it must be at least 0 and below 1"),
    ],
)
def test_impossible_settings_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        config.load(guard.Config, text + "\n")


PLUGIN = """
from dataclasses import dataclass
import torch
from foundation.objectives.base import Objective, Request, Result

@dataclass(frozen=True, kw_only=True)
class Config:
    weight: float = 1.0
    positions: tuple[int, ...] = ()
    what: str = "nan"
    def build(self, context):
        return Faulty(self)

class Faulty(Objective):
    '''Goes bad where the batch begins at certain samples of the stream: bad data, not a bad step.'''
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.request = Request("student", "global", "cls")
        self.requests = (self.request,)
    def forward(self, outputs, batch, step):
        loss = outputs[self.request].square().mean()
        if batch.position in self.config.positions:
            if self.config.what == "gradient":  # finite forwards, infinite backwards
                loss = loss + (outputs[self.request] * 0.0).abs().add(0.0).sqrt().sum()
            else:
                loss = loss * float(self.config.what)
        return Result(loss)
"""


@pytest.fixture
def faulty(tmp_path, monkeypatch, tiny_recipe):
    """``faulty("what: nan", ...)``: the tiny recipe with an objective that goes bad at the batch of sample 32."""
    (tmp_path / "third_party_faults").mkdir()
    (tmp_path / "third_party_faults" / "faulty.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(what: str, *overrides: str):
        objective = f"{{name: third_party_faults.faulty, positions: [32], what: {what}}}"
        return tiny_recipe(f"objectives=[{{name: dino}}, {objective}]", "masking=null", *overrides)

    return make


@pytest.mark.fault(36, "a batch whose loss or gradient is not finite, one process")
@pytest.mark.parametrize("what", ["nan", "inf", "gradient"])
def test_stop_touches_nothing_and_saves_nothing_bad(train, faulty, tmp_path, happened, what):
    from foundation.checkpoints import checkpoint
    from foundation.run.trainer import Trainer

    with RunFolder(tmp_path / "run") as run:
        trainer = Trainer(faulty(what, "checkpoints.every=2 steps"), run, say=lambda text: None)
        with pytest.raises(NumericsError, match=r"step 4: .*not finite.*step-0000000[24]") as caught:
            trainer.run()
    train(faulty(what, "train.stop_after=4 steps"), tmp_path / "four")
    four, _ = checkpoint.newest(tmp_path / "four" / "checkpoints")
    assert four is not None and four.name == "step-00000004"
    kept, _ = checkpoint.read(four)
    for name, module in trainer.learner.branches.items():
        state = module.state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in kept[name].items())
    steps = [checkpoint.step_of(path) for path in checkpoint.steps(tmp_path / "run" / "checkpoints")]
    assert max(steps) == 4
    (line,) = bad_steps(tmp_path / "run")
    assert len(line["keys"]) == 8 and line["action"] == "stop"
    happened(f"exit code {caught.value.exit_code}; parameters, optimiser and teacher as after step 4, keys written")


@pytest.mark.fault(36, "the same batch, with guard.when_not_finite: skip and rewind")
@pytest.mark.parametrize(("policy", "position"), [("skip", 64), ("rewind", 80)])
def test_skip_and_rewind_finish_the_run(train, metrics, faulty, tmp_path, happened, policy, position):
    """The batch of step 4 is bad; a rewind goes back two steps, and the stream goes on behind the batch."""
    said: list[str] = []
    settings = (f"guard.when_not_finite={policy}", "checkpoints.every=3 steps", "data.workers=1")
    trainer = train(faulty("nan", *settings), tmp_path / "run", said)
    assert trainer.progress.step == 8
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert lines[-1]["guard/not_finite"] == 1
    assert lines[-1]["guard/skipped" if policy == "skip" else "guard/rewound"] == 1
    assert trainer.progress.position == (64 if policy == "skip" else 40 + 5 * 8) == position
    assert all(torch.isfinite(p).all() for p in trainer.learner.parameters())
    told = next(text for text in said if "not finite" in text)
    happened(told.partition(": not finite; ")[2].partition(" (")[0] + "; the run ended well")


@pytest.mark.fault(36, "a bad batch with guard.when_not_finite: rewind, after all checkpoints have been removed")
def test_a_rewind_without_any_checkpoint_left_leaves_the_batch_out(
    train, metrics, faulty, tmp_path, happened, monkeypatch
):
    from foundation.checkpoints import checkpoint
    from foundation.run.watchdog import Watchdog

    run, said, beat = tmp_path / "run", [], Watchdog.beat

    def beat_and_remove(dog, step, **figures):
        beat(dog, step, **figures)
        if step == 4:
            shutil.rmtree(run / "checkpoints")

    monkeypatch.setattr(Watchdog, "beat", beat_and_remove)
    settings = ("guard.when_not_finite=rewind", "checkpoints.every=3 steps", "checkpoints.asynchronous=false")
    trainer = train(faulty("nan", *settings), run, said)
    assert trainer.progress.step == 8 and trainer.progress.position == 64
    assert f"no whole checkpoint is left in {run / 'checkpoints'}: the batch is left out" in said
    assert [line["step"] for line in metrics(run)][-3:] == [6, 7, 8]
    assert checkpoint.newest(run / "checkpoints")[0].name == "step-00000008"
    assert (run / "checkpoints" / "step-00000006").is_dir(), "saved as soon as that is noticed"
    happened("said; the batch is left out, and the state is saved at the next step")


@pytest.mark.fault(36, "a learning rate and a weight decay that destroy the weights (1e4 each)")
def test_weights_that_are_destroyed_end_the_run_whatever_the_policy(train, tiny_recipe, tmp_path, happened):
    settings = (
        "optimizer.learning_rate=1e4",
        "optimizer.weight_decay=1e4",
        "optimizer.clip=null",
        "guard.when_not_finite=skip",
    )
    with pytest.raises(NumericsError, match=r"max_bad_steps = 5") as caught:
        train(tiny_recipe(*settings, "train.length=40 steps"), tmp_path / "run")
    assert len(bad_steps(tmp_path / "run")) == 6
    happened(f"5 steps left out, then exit code {caught.value.exit_code}")
