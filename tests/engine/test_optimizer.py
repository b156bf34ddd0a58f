"""Parameter groups against the reference; schedules, freezing, clipping and state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foundation.engine import optimizer
from foundation.errors import UserError
from foundation.heads import prototypes as heads
from foundation.schedules import Clock, Duration, Schedule

CLOCK = Clock(100, 10.0)


class Named(nn.Module):
    """Stands for an encoder: only the names and sizes of its parameters matter."""

    def __init__(self, names, sizes, depth: int | None) -> None:
        super().__init__()
        for name, size in zip(names, sizes, strict=True):
            *path, last = name.split(".")
            holder: nn.Module = self
            for part in path:
                if part not in holder._modules:
                    holder.add_module(part, nn.Module())
                holder = holder._modules[part]
            holder.register_parameter(last, nn.Parameter(torch.zeros(int(size))))
        if depth is not None:
            self.depth = depth
            self.layer_of = self._layer_of
            self.is_patch_embed = lambda name: name.startswith("patch_embed.")

    def _layer_of(self, name: str) -> int:
        parts = name.split(".")
        if parts[0] == "blocks":
            numbers = [int(part) for part in parts[1:] if part.isdigit()]
            return (numbers[1] if len(parts) > 3 and parts[2].isdigit() else numbers[0]) + 1
        tokens = ("pos_embed", "cls_token", "mask_token", "register_tokens", "patch_embed")
        return 0 if parts[0] in tokens else self.depth + 1


def constant(value: float) -> Schedule:
    return Schedule(start=value, shape="constant")


@pytest.mark.parametrize(
    "module", ["vit_block_chunks0", "vit_block_chunks2", "vit_block_chunks4", "dino_head", "dino_head_bn"]
)
def test_groups_are_those_of_dinov2(golden, module):
    data = golden("14_dinov2_param_groups")
    data = {key: value for key, value in data.items() if key.startswith(("arg/", f"output/{module}/"))}

    def out(name: str):
        return data[f"output/{module}/{name}"]

    config = optimizer.Config(
        learning_rate=constant(0.01),
        scaling="none",
        weight_decay=constant(0.3),
        layer_decay=float(data["arg/layerwise_decay"]),
        patch_embed_multiplier=float(data["arg/patch_embed_lr_mult"]),
        freeze_last_layer=Duration(0),
    )
    names = out("names").tolist()
    model = Named(names, out("n_elements"), int(data["arg/depth"]) if module.startswith("vit") else None)
    parameters = dict(model.named_parameters())
    assert set(parameters) == set(names)
    for i, name in enumerate(names):
        rule = optimizer.rule(config, model, name, parameters[name])
        assert rule.learning_rate == pytest.approx(out("lr_multiplier")[i], rel=1e-12), name
        assert rule.weight_decay == out("wd_multiplier")[i], name
        assert rule.last_layer == out("is_last_layer")[i], name
    built = config.build({"x": model}, CLOCK, 1)
    assert len(built.adamw.param_groups) == out("fused_number_of_groups")
    sizes = sorted(len(group["params"]) for group in built.adamw.param_groups)
    assert sizes == sorted(out("fused_params_per_group").tolist())
    for group in built.adamw.param_groups:
        for i, name in enumerate(names):
            if any(parameters[name] is p for p in group["params"]):
                expected = out("applied_lr_for_lr0.01_last0.005")[i] * (2 if out("is_last_layer")[i] else 1)
                assert group["lr"] == pytest.approx(expected, rel=1e-12)
                assert group["weight_decay"] == pytest.approx(out("applied_wd_for_wd0.3")[i], rel=1e-12)


def small(**settings) -> tuple[nn.ModuleDict, optimizer.Optimizer]:
    torch.manual_seed(0)
    modules = nn.ModuleDict(
        {"encoder": nn.Linear(6, 5), "head": heads.Config(prototypes=7, hidden=8, bottleneck=4).build(5)}
    )
    config = optimizer.Config(**{"learning_rate": constant(0.1), "scaling": "none"} | settings)
    return modules, config.build({"encoder": modules["encoder"], "heads.cls": modules["head"]}, CLOCK, 32)


def backward(modules: nn.ModuleDict, factor: float = 1.0) -> None:
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    (modules["head"](modules["encoder"](x)).pow(2).sum() * factor).backward()


@pytest.mark.parametrize(("scaling", "factor"), [("linear", 4.0), ("sqrt", 2.0), ("none", 1.0)])
def test_the_batch_scales_the_peak_but_not_the_end(scaling, factor):
    schedule = Schedule(start=0.1, end=1e-6)
    config = optimizer.Config(learning_rate=schedule, reference_batch=256, scaling=scaling)
    built = config.build({"x": nn.Linear(2, 2)}, CLOCK, 1024)
    assert built.schedule_values()["learning_rate"] == pytest.approx(0.1 * factor)
    built.apply_schedule(100)
    assert built.schedule_values()["learning_rate"] == 1e-6


def test_the_last_layer_stands_still_while_it_is_frozen():
    modules, built = small(freeze_last_layer=Duration(2), weight_decay=constant(0.5))
    last = modules["head"].last_layer.weight_v
    for step in range(3):
        before, other = last.detach().clone(), modules["encoder"].weight.detach().clone()
        built.apply_schedule(step)
        backward(modules)
        built.step()
        built.zero_grad()
        assert torch.equal(last, before) == (step < 2)
        assert not torch.equal(modules["encoder"].weight, other)
        assert built.schedule_values()["last_layer_learning_rate"] == (0.0 if step < 2 else 0.1)


def test_the_encoder_is_decayed_like_dinov2():
    from foundation.encoders import vit

    encoder = vit.Config(preset="nano", layer_scale=1e-5, registers=2).build()
    config = optimizer.Config(layer_decay=0.5, patch_embed_multiplier=0.2)
    rules = {name: optimizer.rule(config, encoder, name, p) for name, p in encoder.named_parameters()}
    matrices = {n for n, p in encoder.named_parameters() if p.ndim > 1}  # tokens and positions included
    assert {name for name, rule in rules.items() if rule.weight_decay} == matrices
    lowest = 0.5 ** (encoder.depth + 1)
    assert rules["cls_token"].learning_rate == lowest
    assert rules["tokenizer.projection.weight"].learning_rate == pytest.approx(0.2 * lowest)
    assert rules["trunk.blocks.0.attention.qkv.weight"].learning_rate == 2 * lowest
    assert rules["trunk.norm.weight"].learning_rate == 1.0


def tokenizers():
    from foundation.modalities.audio import tokenizer as audio
    from foundation.modalities.image import tokenizer as image
    from foundation.modalities.imu import tokenizer as imu
    from foundation.modalities.points import tokenizer as points
    from foundation.modalities.video import tokenizer as video

    return {
        "image": image.Config(patch_size=4, stem="conv").build(16),
        "video": video.Config(patch_size=4, stem="conv").build(16),
        "audio": audio.Config(patch=(4, 4), stem="conv").build(16),
        "imu": imu.Config(patch=8, stem="conv").build(16),
        "points": points.Config(widths=(4, 4, 4), norm="batch").build(16),
        "points of layers": points.Config(widths=(4, 4, 4)).build(16),
    }


@pytest.mark.parametrize("kind", ["image", "video", "audio", "imu", "points", "points of layers"])
def test_norms_of_stems_are_not_decayed_though_no_name_says_norm(kind):
    module = tokenizers()[kind]
    norms = {f"{name}.weight" for name, part in module.named_modules() if "Norm" in type(part).__name__}
    decayed = {n for n, p in module.named_parameters() if optimizer.rule(optimizer.Config(), module, n, p).weight_decay}
    assert norms and not norms & decayed
    assert decayed == {name for name, parameter in module.named_parameters() if parameter.ndim > 1}


def test_the_patch_embedding_has_its_factor_in_towers_too():
    from foundation.encoders import towers, vit
    from foundation.modalities.video import tokenizer as video

    shape = {"width": 32, "heads": 2}
    frame = vit.Config(**shape, depth=1, size=(16, 16))
    clip = vit.Config(**shape, depth=2, size=(4, 16, 16), tokenizer=video.Config(patch_size=8))
    encoder = towers.Config(towers={"clip": clip, "frame": frame}, main="clip").build()
    config = optimizer.Config(patch_embed_multiplier=0.25)
    slow = {n for n, p in encoder.named_parameters() if optimizer.rule(config, encoder, n, p).learning_rate == 0.25}
    assert slow == {name for name, _ in encoder.named_parameters() if ".tokenizer." in name} and len(slow) == 4


@pytest.mark.parametrize("model", ["test_resnet", "test_convnext", "test_vit"])
def test_timm_models_have_their_factors_and_no_decay_of_norms(model):
    from foundation.encoders import timm

    try:
        encoder = timm.Config(model=model).build()
    except UserError as error:
        pytest.skip(str(error))
    config = optimizer.Config(patch_embed_multiplier=0.25, layer_decay=0.5)
    rules = {n: optimizer.rule(config, encoder, n, p) for n, p in encoder.named_parameters()}
    for name, found in rules.items():
        factor = 0.25 if encoder.is_patch_embed(name) else 1.0
        assert found.learning_rate == factor * 0.5 ** (encoder.depth + 1 - encoder.layer_of(name))
    assert any(encoder.is_patch_embed(name) for name in rules)
    vectors = {n for n, p in encoder.named_parameters() if p.ndim == 1}
    assert len(vectors) > 10 and not any(rules[name].weight_decay for name in vectors)


def test_vectors_are_not_decayed_when_the_recipe_says_so():
    norm = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4))
    config = optimizer.Config(no_decay="vectors")
    decayed = {n for n, p in norm.named_parameters() if optimizer.rule(config, norm, n, p).weight_decay}
    assert decayed == {"1.weight"}


def test_norm_is_that_of_all_gradients_and_clipping_bounds_it():
    for mode in ("global", "module", "parameter"):
        modules, built = small(clip=0.01, clip_mode=mode)
        backward(modules, 100.0)
        before = {name: parameter.grad.clone() for name, parameter in modules.named_parameters()}
        expected = torch.linalg.vector_norm(torch.cat([g.flatten() for g in before.values()]))
        torch.testing.assert_close(built.grad_norm(), expected)
        torch.testing.assert_close(built.clip(), expected)
        after = {name: parameter.grad for name, parameter in modules.named_parameters()}
        if mode == "parameter":
            bounded = list(after.values())
        elif mode == "module":
            bounded = [torch.cat([g.flatten() for n, g in after.items() if n.startswith(m)]) for m in modules]
        else:
            bounded = [torch.cat([g.flatten() for g in after.values()])]
        for gradient in bounded:
            assert gradient.norm() == pytest.approx(0.01, rel=1e-3)


def test_small_gradients_are_not_scaled_and_null_switches_clipping_off():
    for clip, factor in ((1e6, 1.0), (None, 1e9)):
        modules, built = small(clip=clip)
        backward(modules, factor)
        before = modules["encoder"].weight.grad.clone()
        built.clip(built.grad_norm())
        assert torch.equal(modules["encoder"].weight.grad, before)


@pytest.mark.parametrize("mode", ["global", "module", "parameter"])
def test_clipping_with_a_known_norm_is_clipping_without(mode):
    results = []
    for known in (True, False):
        modules, built = small(clip=0.5, clip_mode=mode)
        backward(modules, 3.0)
        built.grad_norm()
        backward(modules, 0.01)  # more gradient: the norm measured before counts no longer
        built.clip(built.grad_norm() if known else None)
        results.append([p.grad.clone() for p in modules.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_gradient_that_is_not_finite_shows_in_the_norm():
    modules, built = small()
    backward(modules)
    modules["encoder"].weight.grad[0, 0] = torch.nan
    assert not built.grad_norm().isfinite()


@pytest.mark.parametrize("fused", [True, False])
def test_state_survives_a_restart_exactly(fused):
    def train(modules, built, steps):
        for step in steps:
            built.apply_schedule(step)
            backward(modules)
            built.clip(built.grad_norm())
            built.step()
            built.zero_grad()

    modules, built = small(fused=fused)
    train(modules, built, range(4))
    again, rebuilt = small(fused=fused)
    train(again, rebuilt, range(2))
    resumed, continued = small(fused=fused)
    resumed.load_state_dict(again.state_dict())
    continued.load_tensors({name: value.clone() for name, value in rebuilt.tensors().items()})
    train(resumed, continued, range(2, 4))
    for a, b in zip(modules.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_foreign_state_is_refused_by_name():
    _, built = small()
    with pytest.raises(UserError, match=r"has 'heads.patch.weight/exp_avg', which this recipe does not train"):
        built.load_tensors({"heads.patch.weight/exp_avg": torch.zeros(1)})
    with pytest.raises(UserError, match=r"encoder.weight/exp_avg' as \[1\], not \[5, 6\]"):
        built.load_tensors({"encoder.weight/exp_avg": torch.zeros(1)})


def test_impossible_settings_name_field_and_value():
    with pytest.raises(UserError, match=r"optimizer\.clip is 0; it must be above 0 .*, or null"):
        optimizer.Config(clip=0)


@pytest.mark.parametrize("fused", [False, True])
def test_updates_are_those_of_torchs_adamw_bit_for_bit(fused):
    config = optimizer.Config(learning_rate=constant(0.01), scaling="none", weight_decay=constant(0.3), fused=fused)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    built = config.build({"x": ours}, CLOCK, 1)
    groups = [{"params": [theirs.weight], "weight_decay": 0.3}, {"params": [theirs.bias], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=config.betas, eps=config.eps, fused=fused)
    for number in range(4):
        ours.weight.grad = torch.randn(3, 5)
        theirs.weight.grad = ours.weight.grad.clone()
        if number:  # a parameter that has no gradient at first begins later
            ours.bias.grad = torch.randn(3)
            theirs.bias.grad = ours.bias.grad.clone()
        built.step()
        reference.step()
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)
    assert int(built.tensors()["x.bias/step"]) == 3


@pytest.mark.parametrize("fused", [False, True])
def test_a_refused_update_changes_no_bit_and_one_that_is_not_is_as_always(fused):
    modules, built = small(fused=fused)
    plain, reference = small(fused=fused)
    for step, refused in enumerate((0.0, 1.0, 0.0)):
        before = [p.clone() for p in modules.parameters()] + [t.clone() for t in built.tensors().values()]
        backward(modules)
        if refused:
            modules["encoder"].weight.grad.fill_(torch.nan)
        built.clip(built.grad_norm())
        built.step(torch.tensor(refused))
        after = [*modules.parameters(), *built.tensors().values()]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)) == bool(refused), step
        if not refused:
            backward(plain)
            reference.clip(reference.grad_norm())
            reference.step()
        built.zero_grad()
        reference.zero_grad()
    for a, b in zip(modules.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(value, reference.tensors()[name]) for name, value in built.tensors().items())
