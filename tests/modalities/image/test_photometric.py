"""Each photometric operation against torchvision's float operations (levels of 255), and the program as a whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foundation.modalities.image import photometric as P

SIZES = (30, 96, 98)


def pixels(size: int, rows: int = 4) -> torch.Tensor:
    """Smooth areas, noise, pure colours, greys, black and white: what makes hue and clipping hard."""
    generator = torch.Generator().manual_seed(size)
    x = torch.randint(0, 256, (rows, 3, size, size), generator=generator).float()
    x[:, :, : size // 3] = torch.linspace(0, 255, size)[None, None, None]
    x[:, :, 0, :8] = torch.tensor(
        [[255, 0, 0, 255, 255, 0, 0, 255], [0, 255, 0, 255, 0, 255, 0, 255], [0, 0, 255, 0, 255, 255, 0, 255]]
    ).float()
    return x


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("torchvision.transforms.v2.functional")


def mix(factor: float, rows: int = 4) -> torch.Tensor:
    return torch.tensor([[factor, 1.0 - factor]] * rows)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [0.0, 0.6, 0.97, 1.31, 1.4])
def test_brightness_contrast_saturation(reference, size, factor):
    x = pixels(size)
    for name, tolerance in (("brightness", 1e-3), ("contrast", 0.03), ("saturation", 0.03)):
        # torchvision's grey weights sum to 0.9999, ours (and Pillow's) to 1: 0.0255 levels at most
        expected = getattr(reference, f"adjust_{name}")(x / 255, factor) * 255
        assert (getattr(P, name)(x.clone(), mix(factor)) - expected).abs().max() < tolerance, name


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [-0.5, -0.31, -0.1, -0.01, 0.02, 0.1, 0.25, 0.5])
def test_hue_is_exact_hsv(reference, size, shift):
    x = pixels(size)
    expected = reference.adjust_hue(x / 255, shift) * 255
    assert (P.hue(x.clone(), torch.full((4, 1), shift)) - expected).abs().max() < 2e-3


def test_hue_keeps_greys_and_turns_primaries():
    x = torch.tensor([[255.0, 0, 0], [0, 255, 0], [9, 9, 9], [0, 0, 0], [255, 255, 255]]).T.reshape(1, 3, 1, 5)
    turned = P.hue(x.clone(), torch.tensor([[1 / 3]]))[0, :, 0].T
    expected = torch.tensor([[0.0, 255, 0], [0, 0, 255], [9, 9, 9], [0, 0, 0], [255, 255, 255]])
    assert torch.allclose(turned, expected, atol=1e-3)


def test_greyscale_and_solarise(reference):
    x = pixels(96)
    expected = reference.rgb_to_grayscale(x / 255, num_output_channels=3) * 255
    assert (P.greyscale(x.clone(), torch.zeros(4, 1)) - expected).abs().max() < 0.03
    x = x.round()
    expected = reference.solarize(x.to(torch.uint8), 128).float()
    assert torch.equal(P.solarise(x.clone(), torch.zeros(4, 1), 128.0), expected)


@pytest.mark.parametrize("size", SIZES)
def test_blur_per_row(reference, size):
    x, sigma = pixels(size), np.array([0.1, 0.45, 1.3, 2.0])
    blurred = P.blur(x.clone(), torch.from_numpy(P.blur_kernels(sigma)))
    for row, s in enumerate(sigma.tolist()):
        taps = 2 * max(math.ceil(3 * s), 1) + 1
        expected = reference.gaussian_blur(x[row], [taps, taps], [s, s])
        assert (blurred[row] - expected).abs().max() < 2e-3
    fixed = P.blur(x.clone(), torch.from_numpy(P.blur_kernels(sigma, radius=4)))
    assert (fixed[3] - reference.gaussian_blur(x[3], [9, 9], [2.0, 2.0])).abs().max() < 2e-3


@pytest.mark.parametrize("size", SIZES)
def test_blur_programs_agree(size):
    x, kernels = pixels(size), torch.from_numpy(P.blur_kernels(np.array([0.1, 0.45, 1.3, 2.0])))
    assert (P._blur_banded(x.clone(), kernels) - P._blur_grouped(x.clone(), kernels)).abs().max() < 1e-3


def parameters(rows: int, seed: int = 0) -> P.Parameters:
    random = np.random.default_rng(seed)
    factors = np.concatenate([random.uniform(0.5, 1.5, (rows, 3)), random.uniform(-0.4, 0.4, (rows, 1))], 1)
    return P.Parameters(
        order=np.argsort(random.random((rows, 4)), 1),
        factors=factors,
        jitter=random.random(rows) < 0.8,
        greyscale=random.random(rows) < 0.2,
        blur=random.random(rows) < 0.6,
        sigma=random.uniform(0.1, 2.0, rows),
        solarise=random.random(rows) < 0.3,
    )


def take(p: P.Parameters, rows: list[int]) -> P.Parameters:
    return P.Parameters(**{name: value[rows] for name, value in vars(p).items()})


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_the_whole_program_row_by_row(reference):
    """Order of the operations, which rows get which, normalisation: a plain loop over torchvision's functions."""
    x, p = pixels(32, 40).to(torch.uint8), parameters(40)
    result = P.run_plan(x, P.make_plan(p, 32), MEAN, STD)
    for row in range(40):
        y = x[row].float() / 255
        if p.jitter[row]:
            for number in p.order[row]:
                y = getattr(reference, f"adjust_{P.JITTER[number]}")(y, p.factors[row, number])
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


@pytest.mark.parametrize("size", [30, 32, 98])
def test_a_row_never_depends_on_the_others(size):
    x, p = pixels(size, 24).to(torch.uint8), parameters(24)
    together = P.run_plan(x, P.make_plan(p, size), MEAN, STD)
    order = np.random.default_rng(1).permutation(24).tolist()
    assert torch.equal(P.run_plan(x[order], P.make_plan(take(p, order), size), MEAN, STD), together[order])
    for row in range(24):
        assert torch.equal(P.run_plan(x[row : row + 1], P.make_plan(take(p, [row]), size), MEAN, STD)[0], together[row])


def test_one_group_equals_many_groups_and_input_is_kept():
    x, p = pixels(32, 24), parameters(24)
    before = x.clone()
    many = P.run_plan(x, P.make_plan(p, 32, grouped=True), MEAN, STD)
    one = P.run_plan(x, P.make_plan(p, 32, grouped=False), MEAN, STD)
    assert (many - one).abs().max() < 1e-5 and torch.equal(x, before)
    empty = P.run_plan(x[:0], P.make_plan(take(p, []), 32), MEAN, STD)
    assert empty.shape == (0, 3, 32, 32)
