"""The photometric half as a whole, against a plain loop over torchvision's functions (levels of 255)."""

from __future__ import annotations

import itertools
import math
import threading

import numpy as np
import pytest
import torch

from foundation.modalities.image.photometric import run_plan
from foundation.modalities.image.plan import JITTER, BatchPlan, Parameters, RowPlan, make_plan


def pixels(size: int, rows: int) -> torch.Tensor:
    """Noise, and lines from black to white; uint8."""
    x = torch.randint(0, 256, (rows, 3, size, size), generator=torch.Generator().manual_seed(size)).float()
    x[:, :, : size // 3] = torch.linspace(0, 255, size)[None, None, None]
    return x.to(torch.uint8)


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("torchvision.transforms.v2.functional")


def parameters(rows: int, seed: int = 0) -> Parameters:
    random = np.random.default_rng(seed)
    factors = np.concatenate([random.uniform(0.5, 1.5, (rows, 3)), random.uniform(-0.4, 0.4, (rows, 1))], 1)
    return Parameters(
        order=np.argsort(random.random((rows, 4)), 1),
        factors=factors,
        jitter=random.random(rows) < 0.8,
        greyscale=random.random(rows) < 0.2,
        blur=random.random(rows) < 0.6,
        sigma=random.uniform(0.1, 2.0, rows),
        solarise=random.random(rows) < 0.3,
    )


def take(p: Parameters, rows: list[int]) -> Parameters:
    return Parameters(**{name: value[rows] for name, value in vars(p).items()})


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("batched", [False, True])
def test_the_whole_program_row_by_row(reference, batched):
    """Order of the operations, which rows get which, normalisation."""
    x, p = pixels(32, 40), parameters(40)
    result = run_plan(x, make_plan(p, 32, batched=batched), MEAN, STD)
    for row in range(40):
        y = x[row].float() / 255
        if p.jitter[row]:
            for number in p.order[row]:
                y = getattr(reference, f"adjust_{JITTER[number]}")(y, p.factors[row, number])
        if p.greyscale[row]:
            y = reference.rgb_to_grayscale(y, num_output_channels=3)
        if p.blur[row]:
            taps = 2 * max(math.ceil(3 * p.sigma[row]), 1) + 1
            y = reference.gaussian_blur(y, [taps, taps], [p.sigma[row]] * 2)
        edge = (y * 255 - 128).abs() < 0.1  # beside the threshold the last bit decides
        if p.solarise[row]:
            y = torch.where(y >= 128 / 255, 1 - y, y)
        difference = (result[row] - reference.normalize(y, MEAN, STD)).abs() * 0.225 * 255
        assert difference[~edge | bool(not p.solarise[row])].max() < 0.15, row


@pytest.mark.parametrize("batched", [False, True])
def test_the_hue_turns_by_any_angle(reference, batched):
    shifts = np.array([-0.5, -0.34, -0.31, -0.17, 0.0, 0.25, 1 / 3, 0.5])
    x, ones = pixels(30, 8), np.ones((8, 3))
    never = np.zeros(8, np.bool_)
    order, factors = np.tile(np.arange(4), (8, 1)), np.concatenate([ones, shifts[:, None]], 1)
    p = Parameters(order, factors, ~never, never, never, np.ones(8), never)
    result = run_plan(x, make_plan(p, 30, batched=batched), (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
    for row, shift in enumerate(shifts):
        expected = reference.adjust_hue(x[row].float() / 255, shift) * 255
        assert (result[row] - expected).abs().max() < 2e-3, shift


@pytest.mark.parametrize("size", [30, 32, 98])
def test_a_row_never_depends_on_the_others(size):
    x, p = pixels(size, 24), parameters(24)
    together = run_plan(x, make_plan(p, size), MEAN, STD)
    order = np.random.default_rng(1).permutation(24).tolist()
    assert torch.equal(run_plan(x[order], make_plan(take(p, order), size), MEAN, STD), together[order])
    for row in range(24):
        assert torch.equal(run_plan(x[row : row + 1], make_plan(take(p, [row]), size), MEAN, STD)[0], together[row])


def test_both_programs_agree_and_input_is_kept():
    x, p = pixels(32, 24).float(), parameters(24)
    before = x.clone()
    by_row = run_plan(x, make_plan(p, 32), MEAN, STD)
    at_once = run_plan(x, make_plan(p, 32, batched=True), MEAN, STD)
    # Beside the threshold of solarise the last bit decides.
    assert torch.quantile((by_row - at_once).abs().flatten(), 0.9999) < 1e-5 and torch.equal(x, before)
    for batched in (False, True):
        empty = run_plan(x[:0], make_plan(take(p, []), 32, batched=batched), MEAN, STD)
        assert empty.shape == (0, 3, 32, 32)


def test_the_program_of_a_batch_never_looks_at_a_value():
    """On the device ``meta`` nothing has a value: whatever would wait for an accelerator fails here."""
    plan = make_plan(parameters(24), 32, batched=True).to("meta")
    assert isinstance(plan, BatchPlan) and {step.operation for step in plan.steps} >= {*JITTER, "blur", "solarise"}
    assert run_plan(pixels(32, 24).to("meta"), plan, MEAN, STD).shape == (24, 3, 32, 32)


def test_a_plan_for_rows_wants_pixels_on_the_cpu():
    plan = make_plan(parameters(2), 32)
    assert isinstance(plan, RowPlan) and plan.to("meta") is plan
    with pytest.raises(ValueError, match="batched=True"):
        run_plan(pixels(32, 2).to("meta"), plan, MEAN, STD)


def test_memory_of_a_probe_serves_a_training():
    """What inference mode allocates, other code may not write to; and threads do not share it."""
    x, plan = pixels(41, 6), make_plan(parameters(6), 41)
    with torch.inference_mode():
        expected = run_plan(x, plan, MEAN, STD)
    assert torch.equal(run_plan(x, plan, MEAN, STD), expected)
    results: list[torch.Tensor] = []
    threads = [
        threading.Thread(target=lambda: results.extend(run_plan(x, plan, MEAN, STD) for _ in range(5)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 15 and all(torch.equal(result, expected) for result in results)


@pytest.mark.filterwarnings("ignore:invalid value")  # numbers that are none are what it is about
@pytest.mark.parametrize("size", [5, 13, 16])
def test_the_same_views_over_and_over(size):
    """Working memory is used again: neither its margins nor numbers that are none reach a later view."""
    x, rows = pixels(size, 24), 24
    p = Parameters(
        order=np.array(list(itertools.permutations(range(4)))),
        factors=np.tile([1.0, 0.5, 0.0, 0.5], (rows, 1)),  # no factor above 1, after which pixels would be clipped
        jitter=np.ones(rows, np.bool_),
        greyscale=np.arange(rows) % 3 == 0,
        blur=np.ones(rows, np.bool_),
        sigma=np.full(rows, 1.0),
        solarise=np.zeros(rows, np.bool_),
    )
    plan = make_plan(p, size)
    first = run_plan(x, plan, MEAN, STD)
    run_plan(torch.full(x.shape, math.inf), plan, MEAN, STD)
    run_plan(torch.full(x.shape, math.nan), plan, MEAN, STD)
    again = run_plan(x, plan, MEAN, STD)
    assert first.isfinite().all() and torch.equal(again, first)
    torch.testing.assert_close(first, run_plan(x, make_plan(p, size, batched=True), MEAN, STD), rtol=0, atol=1e-3)
