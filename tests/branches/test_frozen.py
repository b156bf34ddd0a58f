"""A frozen branch sees the views as it was trained to, changes nothing, and is the same when a run goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from foundation import config, paths
from foundation.branches.frozen import digest_of
from foundation.branches.request import Request
from foundation.engine import state
from foundation.errors import RecipeError, UserError
from foundation.modalities import fits
from foundation.modalities.imu.views import EvaluationConfig as Windows
from foundation.modalities.video.decode import Config as ClipDecoding
from foundation.modalities.video.evaluation import EvaluationConfig as Clips
from foundation.run import build
from foundation.run.recipe import Recipe
from foundation.run.rehearsal import Rehearsal, random_batch
from foundation.schedules import Clock
from foundation.zoo.load import load_encoder

EXPERT = "branches={teacher: {name: ema}, expert: {name: frozen, weights: WEIGHTS}}"
ASKED = "objectives=[{name: dino}, {name: koleo, student: expert}]"


@pytest.fixture
def exported(tiny_recipe, train, tmp_path):
    """A model that was trained on 16 pixels and other statistics."""
    settings = ("views.mean=[0.1, 0.2, 0.3]", "views.std=[0.5, 0.6, 0.7]", "train.length=1 steps")
    train(tiny_recipe(*settings), tmp_path / "old")
    return tmp_path / "old" / "export" / "student.safetensors"


def test_it_is_fed_with_its_own_size_and_statistics(tiny_recipe, exported):
    recipe = tiny_recipe(EXPERT.replace("WEIGHTS", str(exported)), ASKED)
    learner = Rehearsal(recipe, 2).learner
    batch, expert = random_batch(recipe, 2), learner.branches["expert"]
    views = recipe.views.evaluation()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (views.mean, views.std))
    own_mean, own_std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    for name in ("global", "local"):
        pixels = batch.views[name].data
        resized = F.interpolate(pixels, size=(16, 16), mode="bicubic", antialias=True)
        wanted = expert.model.encoder([(resized * std + mean - own_mean) / own_std])[0].cls
        request = Request("expert", name, "cls")
        torch.testing.assert_close(expert(batch, [request], {})[request], wanted, rtol=1e-4, atol=1e-5)


def test_its_weights_are_in_no_checkpoint_and_no_optimiser(tiny_recipe, exported):
    rehearsal = Rehearsal(tiny_recipe(EXPERT.replace("WEIGHTS", str(exported)), ASKED), 2)
    saved = state.capture(rehearsal.learner, rehearsal.optimizer)
    assert list(saved["expert"]) == ["checksum"]
    assert not [name for name in rehearsal.optimizer.names if name.startswith("expert")]
    assert not [name for name, _ in rehearsal.learner.named_parameters() if "expert" in name]


def test_a_run_does_not_go_on_with_other_weights(tiny_recipe, exported):
    first = Rehearsal(tiny_recipe(EXPERT.replace("WEIGHTS", str(exported)), ASKED), 2)
    other = Rehearsal(tiny_recipe(EXPERT.replace("WEIGHTS", str(exported.with_name("teacher.safetensors"))), ASKED), 2)
    saved = state.capture(first.learner, first.optimizer)
    state.restore(first.learner, first.optimizer, saved)
    with pytest.raises(UserError, match="frozen branch 'expert' of this run had other weights than"):
        state.restore(other.learner, other.optimizer, saved)


def test_weights_of_every_shape_and_type_have_a_digest(exported):
    loaded = replace(load_encoder(exported), sha256=None)
    module = torch.nn.Module()
    for name, value in (("a", torch.tensor(3)), ("b", torch.tensor([True, False])), ("c", torch.zeros(0, 2)),
                        ("d", torch.ones(2, 3, dtype=torch.bfloat16)), ("e", torch.tensor(True))):  # fmt: skip
        module.register_buffer(name, value)
    found = digest_of(replace(loaded, encoder=module))
    module.a += 1
    assert digest_of(replace(loaded, encoder=module)) != found


def test_weights_that_are_not_there_yet_are_to_be_made_first(tiny_recipe):
    with pytest.raises(RecipeError, match="A teacher is trained, or copied there, before the run"):
        build.learner(tiny_recipe(EXPERT.replace("WEIGHTS", "runs/none"), ASKED), Clock(10, 10.0))


def test_clips_read_more_slowly_than_the_encoder_was_trained_on_are_refused():
    slow, fast = (Clips(frames=16, decode=ClipDecoding(rate=rate)) for rate in (2.0, 10.0))
    with pytest.raises(UserError, match="files read at 10 frames in a second, and 2 are read for the views"):
        fits.fit("video", "video", (3, 16, 48, 48), slow, fast)
    for views, encoder in (
        (fast, slow),
        (Clips(), fast),
        (slow, Clips()),
        (fast, fast),
    ):
        fits.fit("video", "video", (3, 16, 48, 48), views, encoder)


def test_what_cannot_be_made_of_the_views_is_refused_with_what_differs(tiny_recipe):
    with pytest.raises(UserError, match="it takes imu, and the views are image"):
        fits.fit("image", "imu", (3, 16, 16), None, None)
    with pytest.raises(UserError, match="it takes 100 Hz, and the views have 50 Hz"):
        fits.fit("imu", "imu", (6, 128), Windows(rate=50.0), Windows(rate=100.0))
    with pytest.raises(RecipeError, match=r"no model nor run|does not exist"):
        build.learner(tiny_recipe(EXPERT.replace("WEIGHTS", "nowhere"), ASKED), Clock(10, 10.0))


def test_a_model_of_another_modality_is_refused_by_a_recipe_before_the_first_step():
    expert = EXPERT.replace("WEIGHTS", "'timm:vit_tiny_patch16_224,random'")
    asked = "objectives=[{name: dino}, {name: koleo, student: expert}]"
    recipe = config.load(Recipe, paths.recipe("hapt-dino-ibot-nano"), [expert, asked])
    with pytest.raises(RecipeError, match="view 'global': it takes image, and the views are imu") as caught:
        build.learner(recipe, Clock(10, 10.0))
    assert [key for key, _ in caught.value.problems] == ["objectives.1"]


def test_windows_of_another_rate_are_resampled():
    turns = torch.arange(128) / 50.0 * 6.28318  # one a second
    signal = torch.sin(turns).expand(1, 6, -1)
    fitted = fits.fit("imu", "imu", (6, 128), Windows(rate=50.0), Windows(rate=25.0))(signal)
    assert fitted.shape == (1, 6, 64)
    torch.testing.assert_close(fitted[0, 0, 2:-2], torch.sin(turns.view(64, 2).mean(1))[2:-2], rtol=0, atol=0.03)


def test_a_dry_run_reads_it_and_a_student_is_scored_without_naming_a_branch(tiny_recipe, exported, train, tmp_path):
    """There is no branch ``teacher``: the measured branch is the student."""
    settings = (f"branches={{expert: {{name: frozen, weights: {exported}}}}}", "train.length=1 steps")
    recipe = tiny_recipe(*settings, "objectives=[{name: feature_distillation, teacher: expert, token: cls}]")
    with torch.device("meta"):
        assert build.learner(recipe, Clock(10, 10.0)).measured == "student"
    train(recipe, tmp_path / "new")
    assert "student" in load_encoder(tmp_path / "new").description
    with pytest.raises(UserError, match=r"no encoder of a branch 'teacher'; there are: student$"):
        load_encoder(tmp_path / "new", branch="teacher")


def test_tokens_of_another_grid_are_refused_where_they_cannot_be_resized(tiny_recipe):
    expert = EXPERT.replace("WEIGHTS", "'timm:vit_tiny_patch16_224,random'")
    asked = "objectives=[{name: dino}, {name: ibot, teacher: expert}, {name: feature_distillation, teacher: expert, "
    recipe = tiny_recipe(expert, asked + "teacher_mask: masking}]")
    with pytest.raises(RecipeError) as caught:
        build.learner(recipe, Clock(10, 10.0))
    text = str(caught.value)
    assert (
        "teacher_mask 'masking' is drawn on the student's grid of 4 x 4, and branch 'expert' has one of 14 x 14" in text
    )


@pytest.mark.parametrize("token", ["masked", "patches"])
def test_tokens_of_another_grid_are_resized_to_the_students(tiny_recipe, token):
    expert = EXPERT.replace("WEIGHTS", "'timm:vit_tiny_patch16_224,random'")
    settings = "normalise: none, layers: 1, distance: l2"
    recipe = tiny_recipe(
        expert, f"objectives=[{{name: feature_distillation, teacher: expert, token: {token}, {settings}}}]"
    )
    learner, batch = Rehearsal(recipe, 2).learner.eval(), random_batch(recipe, 2)
    mask = batch.masks["global", "masking"]
    objective = learner.objectives["feature_distillation"]
    whole = learner.branches["expert"](batch, [Request("expert", "global", "patches")], {})
    (tokens,) = whole.values()
    maps = tokens.mT.unflatten(2, (14, 14))
    wanted = F.interpolate(maps, size=(4, 4), mode="bicubic", align_corners=False).flatten(2).mT.flatten(0, 1)
    asked = Request("student", "global", token, mask="masking")
    given = learner.branches["student"](batch, [asked])[asked]
    if token == "masked":
        wanted = wanted[mask.masked.flatten()]
    expected = (objective.predict(given).flatten(0, -2) - wanted).square().mean()
    assert len(wanted) in (64, len(mask.indices)) and len(mask.indices)
    torch.testing.assert_close(learner(batch, 0).loss, expected, rtol=1e-4, atol=1e-6)


PICTURES = "'timm:vit_tiny_patch16_224,random'"


def _clips(expert: str, *settings: str) -> Recipe:
    """A small recipe of clips with a branch beside its teacher."""
    small = (
        "views.global_views={count: 1, size: 24, frames: 8, span: [0.5, 1.0], blur: [0.0]}",
        "views.local_views={count: 0}", "encoder.width=32", "encoder.depth=1", "encoder.size=[8, 24, 24]",
    )  # fmt: skip
    branches = f"branches={{teacher: {{name: ema}}, expert: {{name: frozen, {expert}}}}}"
    asked = "objectives=[{name: koleo, student: expert}, {name: feature_distillation, teacher: expert, token: cls}]"
    return config.load(Recipe, paths.recipe("utd-depth-dino-ibot-nano"), [*small, branches, asked, *settings])


def test_an_encoder_of_pictures_sees_every_frame_and_takes_the_mean():
    recipe = _clips(f"weights: {PICTURES}, frames: mean, frames_every: 4")
    learner, batch = Rehearsal(recipe, 2).learner, random_batch(recipe, 2)
    request, expert = Request("expert", "global", "cls"), learner.branches["expert"]
    loaded, views = load_encoder(PICTURES.strip("'")), recipe.views.evaluation()
    clip, total = batch.views["global"].data, 0.0
    for frame in (0, 4):  # one after the other: resized, and brought to the statistics of the pictures
        picture = F.interpolate(clip[:, :, frame], size=(224, 224), mode="bicubic", antialias=True)
        mean, std, own_mean, own_std = (
            torch.tensor(values).view(3, 1, 1)
            for values in (views.mean, views.std, loaded.evaluation.mean, loaded.evaluation.std)
        )
        total = total + loaded.encoder([(picture * std + mean - own_mean) / own_std])[0].cls
    torch.testing.assert_close(expert(batch, [request], {})[request], total / 2, rtol=1e-4, atol=1e-5)


def test_pictures_and_clips_that_do_not_go_together_are_refused_before_the_first_step(tiny_recipe):
    clock = Clock(10, 10.0)
    cases = (
        (_clips(f"weights: {PICTURES}"), "it takes image, and the views are video"),
        (_clips(f"weights: {PICTURES}, frames: mean, frames_every: 9"), "frames_every is 9, and the view has 8 frames"),
        (tiny_recipe(EXPERT.replace("WEIGHTS", f"{PICTURES}, frames: mean"), ASKED), "views of image have none"),
    )
    for recipe, text in cases:
        with pytest.raises(RecipeError, match=text):
            build.learner(recipe, clock)


@pytest.mark.parametrize(
    ("frames", "seconds", "rate", "text"),
    [
        (8, 2.0, 3.0, "it takes 4 frames in a second, and 3 are read from the files: set decode.rate"),
        (8, 1.0, None, "it takes clips of 2 s, and the view lasts 1 s"),
        (8, 4.0, None, "it takes 4 frames in a second, and the view has 2: set its rates to \\[4\\]"),
    ],
)
def test_a_teacher_whose_frame_rate_the_views_cannot_serve_is_refused(frames, seconds, rate, text):
    teacher = Clips(size=24, frames=8, seconds=2.0)
    views = Clips(size=24, frames=frames, seconds=seconds, decode=ClipDecoding(rate=rate))
    with pytest.raises(UserError, match=text):
        fits.fit("video", "video", (3, frames, 24, 24), views, teacher)


def test_a_longer_and_faster_view_gives_a_teacher_the_moments_it_was_trained_on():
    views, teacher = Clips(size=2, frames=32, seconds=4.0), Clips(size=2, frames=8, seconds=2.0)
    clip = torch.arange(32.0).view(1, 1, 32, 1, 1).expand(1, 3, 32, 2, 2)  # 8 frames a second; each shows its number
    seen = fits.fit("video", "video", (3, 32, 2, 2), views, teacher)(clip)[0, 0, :, 0, 0]
    assert seen.tolist() == [9, 11, 13, 15, 17, 19, 21, 23]  # the middle two seconds, four frames in each


def test_its_heads_are_drawn_from_the_seed_stay_as_they_are_and_are_in_the_checkpoint(tiny_recipe, exported):
    heads = "heads: {fixed: {prototypes: null, hidden: 8, bottleneck: 4, layers: 2, norm: batch}}"
    recipe = tiny_recipe(EXPERT.replace("WEIGHTS", f"{exported}, {heads}"), ASKED)
    first, second = Rehearsal(recipe, 2), Rehearsal(recipe, 2)
    learner, batch = first.learner.train(), random_batch(recipe, 4)
    request = Request("expert", "global", "cls", "fixed")
    expert = learner.branches["expert"]
    before = expert(batch, [request], {})[request]
    assert before.shape == (8, 4) and not before.requires_grad
    assert torch.equal(expert(batch, [request], {})[request], before), "statistics of BatchNorm do not move"
    torch.testing.assert_close(second.learner.branches["expert"](batch, [request], {})[request], before)
    saved = state.capture(learner, first.optimizer)["expert"]
    assert {"checksum", "heads.fixed.mlp.0.weight", "heads.fixed.mlp.1.running_var"} < set(saved)
    assert not [name for name in first.optimizer.names if name.startswith("expert")]
