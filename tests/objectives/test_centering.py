"""Target transforms against the reference implementations."""

from __future__ import annotations

import pytest
import torch

from foundation.objectives.centering import Centering, SinkhornKnopp

FILES = [("03_dinov2_dino_loss", ""), ("04_dinov2_ibot_patch_loss", "")]


def tensor(data, key):
    return torch.from_numpy(data[key])


@pytest.mark.parametrize("name", ["03_dinov2_dino_loss", "04_dinov2_ibot_patch_loss"])
def test_centering_equals_the_reference_over_three_steps(golden, name):
    data = golden(name)
    scores = [tensor(data, f"input/centering/step{i}/teacher_logits").flatten(0, -2) for i in range(3)]
    centering = Centering(scores[0].shape[-1], float(data["arg/center_momentum"]))
    for i, temperature in enumerate(data["arg/teacher_temps"]):
        probabilities = centering(scores[i], float(temperature), step=i)
        expected = tensor(data, f"output/centering/step{i}/teacher_probs").flatten(0, -2)
        torch.testing.assert_close(probabilities, expected, rtol=1e-5, atol=1e-6)
        used = tensor(data, f"output/centering/step{i}/center_used").flatten()
        torch.testing.assert_close(centering.centre, used, rtol=1e-5, atol=1e-6)
    after = tensor(data, "output/centering/center_after_all").flatten()
    torch.testing.assert_close(centering.next_centre(), after, rtol=1e-5, atol=1e-6)


def test_centre_of_a_batch_of_images(golden):
    data = golden("04_dinov2_ibot_patch_loss")
    scores = tensor(data, "input/centering_batch/teacher_logits")
    centering = Centering(scores.shape[-1], float(data["arg/center_momentum"]))
    centering(scores.flatten(0, 1), 0.1, over=scores)
    expected = tensor(data, "output/centering_batch/center").flatten()
    torch.testing.assert_close(centering.next_centre(), expected, rtol=1e-5, atol=1e-6)


def test_centering_of_dinov3(golden):
    data = golden("03_dinov3_dino_loss")
    scores = tensor(data, "input/centering/teacher_logits")
    centering = Centering(scores.shape[-1], float(data["arg/center_momentum"]))
    temperature = float(data["arg/teacher_temps"][0])
    before = centering(scores, temperature, step=0)
    torch.testing.assert_close(before, tensor(data, "output/centering/probs_before_update"), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(centering.next_centre(), tensor(data, "output/centering/center").flatten())
    after = centering(scores, temperature, step=1)
    torch.testing.assert_close(after, tensor(data, "output/centering/probs_after_update"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["03_dinov2_dino_loss", "04_dinov2_ibot_patch_loss", "03_dinov3_dino_loss"])
def test_sinkhorn_equals_the_reference(golden, name):
    data = golden(name)
    cases = [k for k in data if k.startswith("output/sinkhorn") and "temp" in k]
    assert len(cases) >= 2
    for key in cases:
        kind, settings = key.split("/")[1:3]
        temperature, iterations = settings.removeprefix("temp").split("_iter")
        scores = tensor(data, f"input/{kind}/teacher_logits")
        actual = SinkhornKnopp(int(iterations))(scores, float(temperature))
        torch.testing.assert_close(actual, tensor(data, key), rtol=1e-5, atol=1e-6)


def test_sinkhorn_is_finite_where_exp_overflows():
    scores = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)) * 1000
    actual = SinkhornKnopp(3)(scores, 0.04)
    assert actual.isfinite().all()
    torch.testing.assert_close(actual.sum(dim=1), torch.ones(6))


def test_sinkhorn_ignores_a_common_offset_and_accepts_no_rows():
    scores = torch.randn(6, 9)
    torch.testing.assert_close(SinkhornKnopp()(scores + 3.0, 0.1), SinkhornKnopp()(scores, 0.1), rtol=1e-4, atol=1e-6)
    assert SinkhornKnopp()(torch.zeros(0, 9), 0.1).shape == (0, 9)


def test_accumulated_batches_move_the_centre_as_one_large_batch():
    scores = torch.randn(12, 5)
    whole, parts = Centering(5), Centering(5)
    whole(scores, 0.1, step=0)
    for part in scores.split([3, 9]):
        targets = parts(part, 0.1, step=0)
        torch.testing.assert_close(targets, torch.softmax(part / 0.1, dim=-1))  # the centre is still the old one
    torch.testing.assert_close(parts.next_centre(), whole.next_centre())


def test_a_restart_goes_on_with_the_same_centre():
    scores = [torch.randn(4, 5) for _ in range(3)]
    straight, first, second = Centering(5), Centering(5), Centering(5)
    expected = [straight(s, 0.1, step=i) for i, s in enumerate(scores)]
    first(scores[0], 0.1, step=0)
    first(scores[1], 0.1, step=1)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(scores[2], 0.1, step=2), expected[2], rtol=0, atol=0)


def test_scores_that_are_not_finite_and_evaluation_leave_the_centre_alone():
    centering = Centering(5)
    centering(torch.randn(4, 5), 0.1, step=0)
    kept = centering.next_centre()
    centering(torch.full((4, 5), torch.nan), 0.1, step=1)
    torch.testing.assert_close(centering.next_centre(), kept)
    centering.eval()
    centering(torch.randn(4, 5), 0.1, step=2)
    assert centering.pending_count == 4 and torch.equal(centering.centre, kept)


def test_going_back_to_a_step_loses_no_update_of_the_centre():
    scores = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    straight, rewound = Centering(5), Centering(5)
    for centering in (straight, rewound):
        for step in (0, 1):
            centering(scores[step], 0.1, step=step)
    saved = {name: value.clone() for name, value in rewound.state_dict().items()}
    rewound(scores[2], 0.1, step=2)  # a batch that is refused
    rewound.load_state_dict(saved)
    for centering in (straight, rewound):
        centering(scores[3], 0.1, step=2)
    assert torch.equal(rewound.centre, straight.centre)
    assert torch.equal(rewound.next_centre(), straight.next_centre())
