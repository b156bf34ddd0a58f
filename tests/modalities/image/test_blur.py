"""Both programs of the blur against torchvision's, and against a plain sum over reflected pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foundation.modalities.image.blur import ViewBlur, blur_bands, blur_kernels, blur_rows, view_memory
from foundation.modalities.image.planes import ViewPlanes

SIGMAS = (0.1, 0.45, 1.3, 2.0)


def noise(size: int, rows: int = 4) -> torch.Tensor:
    return torch.rand((rows, 3, size, size), generator=torch.Generator().manual_seed(size)) * 255


def blur_views(x: torch.Tensor, kernels: np.ndarray, channels: int = 3) -> torch.Tensor:
    """One view after the other in one memory; [R, C, S, S] with the kernel of each, zero beyond its own radius."""
    size = x.shape[-1]
    memory = view_memory(size)
    planes, blur = ViewPlanes(memory, size), ViewBlur(memory, size, channels)
    done = []
    for row, kernel in zip(x, kernels, strict=True):
        planes.load(row)
        blur(blur_bands(kernel[None, : np.flatnonzero(kernel).max() + 1], size)[0])
        done.append(planes.image[:channels].clone())
    return torch.stack(done)


@pytest.mark.parametrize("size", [16, 30, 96, 98])
@pytest.mark.parametrize("program", ["views", "rows"])
def test_each_row_has_its_own_kernel(size, program):
    reference = pytest.importorskip("torchvision.transforms.v2.functional")
    x, sigma = noise(size), np.array(SIGMAS)
    for radius in (0, 4):
        kernels = blur_kernels(sigma, radius)
        blurred = blur_views(x, kernels) if program == "views" else blur_rows(x.clone(), torch.from_numpy(kernels))
        for row, s in enumerate(SIGMAS):
            taps = 2 * (radius or max(math.ceil(3 * s), 1)) + 1
            expected = reference.gaussian_blur(x[row], [taps, taps], [s, s])
            assert (blurred[row] - expected).abs().max() < 2e-3


@pytest.mark.parametrize(("size", "radius"), [(5, 4), (8, 6), (17, 16), (31, 3), (33, 20), (64, 40)])
def test_edges_are_reflected_however_far_the_kernel_reaches(size, radius):
    kernel = blur_kernels(np.array([radius / 2.0]), radius)
    x = noise(size, rows=1)
    wide = torch.nn.functional.pad(x.double(), (radius,) * 4, mode="reflect")
    taps = torch.from_numpy(np.concatenate([kernel[0, :0:-1], kernel[0]])).double()
    lines = sum(tap * wide[:, :, i : i + size] for i, tap in enumerate(taps))
    expected = sum(tap * lines[..., i : i + size] for i, tap in enumerate(taps))
    assert (blur_views(x, kernel) - expected).abs().max() < 1e-3
    assert (blur_rows(x.clone(), torch.from_numpy(kernel)) - expected).abs().max() < 1e-3


def test_one_plane_is_blurred_as_it_is_among_three():
    x, kernels = noise(40), blur_kernels(np.array(SIGMAS))
    assert torch.allclose(blur_views(x, kernels, channels=1), blur_views(x, kernels)[:, :1], atol=1e-4)


def test_what_is_left_in_the_memory_does_not_matter():
    x, kernels = noise(30), blur_kernels(np.array(SIGMAS))
    together = blur_views(x, kernels)
    for row in range(4):
        assert torch.equal(blur_views(x[row : row + 1], kernels[row : row + 1])[0], together[row])
