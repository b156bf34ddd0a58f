"""Each operation on colours against torchvision's float operations (levels of 255), for one view and for a batch."""

from __future__ import annotations

import pytest
import torch

from foundation.modalities.image import colour
from foundation.modalities.image.blur import view_memory
from foundation.modalities.image.planes import RowPlanes, ViewPlanes

SIZES = (30, 96, 98)
FORMS = ("view", "batch")


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


def apply(name: str, x: torch.Tensor, value: float, form: str) -> torch.Tensor:
    """The operation on a copy of square views [R, 3, S, S], with the same value for each."""
    operation = getattr(colour, name)
    if form == "batch":
        x = x.clone()
        operation(RowPlanes(x), torch.full((len(x), 1, 1, 1), value))
        return x
    done = torch.empty_like(x)
    memory = view_memory(x.shape[-1])
    for row, out in zip(x, done, strict=True):  # the second row meets what the first has left in the memory
        planes = ViewPlanes(memory, x.shape[-1])
        planes.load(row)
        operation(planes, value)
        planes.settle()
        out.copy_(planes.image)
    return done


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [0.0, 0.6, 0.97, 1.31, 1.4])
def test_brightness_contrast_saturation(reference, size, factor, form):
    x = pixels(size)
    for name, tolerance in (("brightness", 1e-3), ("contrast", 0.03), ("saturation", 0.03)):
        # torchvision's grey weights sum to 0.9999, ours (and Pillow's) to 1: 0.0255 levels at most
        expected = getattr(reference, f"adjust_{name}")(x / 255, factor) * 255
        assert (apply(name, x, factor, form) - expected).abs().max() < tolerance, name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [-1 / 6, -0.1, -0.01, 0.0, 0.02, 0.1, 1 / 6])
def test_hue_is_exact_hsv(reference, size, shift, form):
    x = pixels(size)
    expected = reference.adjust_hue(x / 255, shift) * 255
    assert (apply("hue", x, 6 * shift, form) - expected).abs().max() < 2e-3


@pytest.mark.parametrize("form", FORMS)
def test_hue_keeps_greys_and_turns_primaries(form):
    colours = torch.tensor([[255.0, 0, 0], [0, 255, 0], [0, 255, 255], [9, 9, 9], [0, 0, 0], [255, 255, 255]])
    x = torch.zeros(1, 3, 6, 6)
    x[0, :, 0] = colours.T
    turned = apply("hue", x, 1.0, form)[0, :, 0].T
    expected = torch.tensor([[255.0, 255, 0], [0, 255, 255], [0, 0, 255], [9, 9, 9], [0, 0, 0], [255, 255, 255]])
    assert torch.allclose(turned, expected, atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_a_shift_of_zero_changes_no_bit(form):
    x = pixels(30)
    assert torch.equal(apply("hue", x, 0.0, form), x)


@pytest.mark.parametrize("form", FORMS)
def test_greyscale_and_solarise(reference, form):
    x = pixels(96)
    expected = reference.rgb_to_grayscale(x / 255, num_output_channels=3) * 255
    assert (apply("greyscale", x, 0.0, form) - expected).abs().max() < 0.03
    x = x.round()
    expected = reference.solarize(x.to(torch.uint8), 128).float()
    assert torch.equal(apply("solarise", x, 128.0, form), expected)


def test_a_chain_of_operations_on_one_view_is_that_on_a_batch():
    """Of one view, a factor and an offset are carried along to the end, and clipping allows for them."""
    x, rows = pixels(32, rows=1), []
    for order in (("brightness", "contrast", "hue", "saturation"), ("contrast", "saturation", "brightness", "hue")):
        for factors in ((0.7, 0.6, 0.8), (1.4, 0.6, 1.2), (0.6, 1.5, 1.4), (1.3, 1.4, 0.7), (0.0, 1.3, 1.2)):
            for last in ("solarise", "greyscale", "contrast"):
                planes, batch = ViewPlanes(view_memory(32), 32), x.clone()
                planes.load(x[0])
                values = dict(zip(("brightness", "contrast", "saturation"), factors, strict=True)) | {"hue": 0.4}
                for name in (*order, last):
                    value = values.get(name, 90.3)
                    getattr(colour, name)(planes, value)
                    getattr(colour, name)(RowPlanes(batch), torch.full((1, 1, 1, 1), value))
                planes.settle()
                rows.append((planes.image - batch[0]).abs().max().item())
    assert len(rows) == 30 and max(rows) < 1e-3, rows
