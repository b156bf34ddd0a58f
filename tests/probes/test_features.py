"""Frozen features: what a layer is, the cache, thinning, and the road from shards to a probe."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from foundation.encoders.vit import Config as Vit
from foundation.errors import UserError
from foundation.modalities.image.tokenizer import Config as Patches
from foundation.modalities.image.views import EvaluationConfig
from foundation.probes import features as frozen
from foundation.probes import knn, road, simple_encoders


def shard(path, count, seed=0, classes=3, broken=()):
    """A tar of small images whose colour is their class."""
    generator = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for index in range(count):
            pixels = generator.integers(0, 90, (16, 16, 3), dtype=np.uint8)
            pixels[..., index * classes // count] += 120  # sorted by class, as folders are
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            members = {"png": stream.getvalue() if index not in broken else b"nothing", "cls": None}
            members["cls"] = str(index * classes // count).encode()
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{index:04d}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return str(path)


def encoder(seed=0, **changes):
    torch.manual_seed(seed)
    config = Vit(preset=None, width=24, depth=4, heads=3, tokenizer=Patches(patch_size=8), size=(16, 16), **changes)
    return config.build()


def extracted(model, shards, **options):
    return road.features_of_shards(model, shards, modality="image", evaluation=EvaluationConfig(size=16), **options)


def test_layers_are_normed_class_tokens_of_the_last_blocks(tmp_path):
    model = encoder().eval()
    shards = [shard(tmp_path / "a.tar", 10)]
    found = extracted(model, shards, blocks=3, batch_size=4)
    assert [layer.shape for layer in found.cls] == [(10, 24)] * 3
    assert found.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 3
    assert found.keys[3] == "0003"
    assert found.ids.tolist() == list(range(10))
    (batch,) = list(road.loader(shards, road.decoder("image"), EvaluationConfig(size=16).build(), 10, 0))
    with torch.no_grad():
        (direct,) = model([batch.data], taps=("block.1", "block.2", "block.3"))
        torch.testing.assert_close(found.cls[0], model.trunk.norm(direct.taps["block.1"][:, 0]))
        torch.testing.assert_close(found.cls[2], model.trunk.norm(direct.taps["block.3"][:, 0]))
    torch.testing.assert_close(found.cls[2], direct.cls)
    torch.testing.assert_close(found.patches, direct.patches.mean(dim=1))


def test_the_encoder_goes_back_to_training_mode(tmp_path):
    model = encoder(drop_path=0.5).train()
    shards = [shard(tmp_path / "a.tar", 6)]
    assert torch.equal(extracted(model, shards).cls[0], extracted(model, shards).cls[0])
    assert model.training


def test_the_cache_is_used_until_the_weights_the_data_or_the_view_change(tmp_path, monkeypatch):
    cache, shards = tmp_path / "cache", [shard(tmp_path / "a.tar", 6)]
    passes = []
    real = road.extract
    monkeypatch.setattr(road, "extract", lambda *a, **k: passes.append(1) or real(*a, **k))
    model = encoder()
    first = extracted(model, shards, cache=cache)
    again = extracted(model, shards, cache=cache)
    assert len(passes) == 1
    assert torch.equal(first.cls[0], again.cls[0])
    assert (again.keys, again.labels.tolist(), again.ids.tolist()) == (
        first.keys, first.labels.tolist(), first.ids.tolist()
    )  # fmt: skip
    with torch.no_grad():
        model.cls_token += 1
    changed = extracted(model, shards, cache=cache)
    assert len(passes) == 2
    assert not torch.equal(changed.cls[0], first.cls[0])
    extracted(model, [shard(tmp_path / "b" / "a.tar", 7)], cache=cache)
    road.features_of_shards(model, shards, modality="image", evaluation=EvaluationConfig(size=24), cache=cache)
    extracted(model, shards, cache=cache, blocks=2)
    assert len(passes) == 5


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)


def flipped_in_the_header(path):
    content = path.read_bytes()
    assert content.count(b'"skipped"') == 1
    path.write_bytes(content.replace(b'"skipped"', b'"skipqed"'))


def with_nan(path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(str(path), framework="pt") as file:
        note = file.metadata()
    tensors = load_file(path)
    tensors["cls.0"][0, 0] = torch.nan
    save_file(tensors, path, metadata=note)


def of_another_program(path):
    from safetensors.torch import save_file

    save_file({"cls.0": torch.zeros(6, 4)}, path)


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.fault(40, "a damaged entry in the cache of features, by each way of being damaged")
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), ""),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), ""),
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: path.write_bytes(b"PK\x03\x04 another format"), ""),
        (flipped, "SHA-256"),
        (flipped_in_the_header, "SHA-256"),
        (with_nan, "SHA-256"),
        (of_another_program, "no entry of this cache"),
        (a_folder, "no file"),
    ],
)
def test_a_damaged_cache_entry_is_named_and_computed_again(tmp_path, caplog, damage, told, happened):
    cache, shards, model = tmp_path / "cache", [shard(tmp_path / "a.tar", 6)], encoder()
    first = extracted(model, shards, cache=cache)
    (path,) = cache.glob("*.safetensors")
    damage(path)
    again = extracted(model, shards, cache=cache)
    assert torch.equal(again.cls[0], first.cls[0]) and again.labels.tolist() == first.labels.tolist()
    assert f"damaged cache entry {path}: " in caplog.text and told in caplog.text
    caplog.clear()
    extracted(model, shards, cache=cache)
    assert ("damaged" in caplog.text) is path.is_dir()
    happened("named, removed, computed again: the same features")


def test_the_entry_of_other_settings_under_this_name_is_not_used(tmp_path, caplog):
    cache, shards, model = tmp_path / "cache", [shard(tmp_path / "a.tar", 6)], encoder()
    first = extracted(model, shards, cache=cache)
    (path,) = cache.glob("*.safetensors")
    extracted(encoder(seed=1), shards, cache=cache)
    (other,) = set(cache.glob("*.safetensors")) - {path}
    path.write_bytes(other.read_bytes())
    assert torch.equal(extracted(model, shards, cache=cache).cls[0], first.cls[0])
    assert "the entry of other weights, data or settings" in caplog.text


def test_a_cache_that_cannot_be_written_costs_a_word_and_not_the_answer(tmp_path, caplog):
    shards, model = [shard(tmp_path / "a.tar", 6)], encoder()
    (tmp_path / "file").write_text("no folder")
    found = extracted(model, shards, cache=tmp_path / "file" / "cache")
    assert torch.equal(found.cls[0], extracted(model, shards).cls[0])
    assert f"the features are not kept in {tmp_path / 'file' / 'cache'}: Not a directory" in caplog.text


def test_a_limit_is_spread_over_sorted_classes(tmp_path):
    found = extracted(encoder(), [shard(tmp_path / "a.tar", 30)], limit=6)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.ids.tolist() == [0, 5, 10, 15, 20, 25]


def test_unreadable_samples_are_left_out_and_counted(tmp_path):
    found = extracted(encoder(), [shard(tmp_path / "a.tar", 8, broken=(2, 5))])
    assert len(found) == 6
    assert sum(found.skipped.values()) == 2
    assert "a.tar" in found.messages[0]
    assert "0002" in found.messages[0]
    with pytest.raises(UserError, match="no sample could be read"):
        extracted(encoder(), [shard(tmp_path / "b.tar", 2, broken=(0, 1))])


def test_raw_input_is_the_view_itself_or_its_average():
    view = torch.randn(2, 3, 16, 16)
    assert torch.equal(simple_encoders.RawEncoder()([view])[0].cls, view.flatten(1))
    averaged = simple_encoders.RawEncoder(numbers=3 * 8 * 8)([view])[0].cls
    assert torch.allclose(averaged, torch.nn.functional.avg_pool2d(view, 2).flatten(1), atol=1e-6)


def test_labels_are_needed():
    unlabelled = frozen.FeatureSet((torch.zeros(3, 2),), torch.zeros(3, 2), torch.full((3,), -1), ("a", "b", "c"))
    with pytest.raises(UserError, match="none of the 3 samples has a label"):
        unlabelled.labelled()


def test_knn_while_training_leaves_the_random_state_alone(tmp_path):
    train = shard(tmp_path / "train.tar", 30)
    test = shard(tmp_path / "test.tar", 12, seed=1)
    state = torch.get_rng_state()
    model = encoder()
    before = torch.get_rng_state()
    values = knn.Config(train=(train,), test=(test,), k=3).measure(
        model, modality="image", evaluation=EvaluationConfig(size=16)
    )
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(state)
    assert values["probe/knn_top1"] > 0.8  # colours are easy, even for random weights
    alone = knn.Config(train=(train,), k=300).measure(model, modality="image", evaluation=EvaluationConfig(size=16))
    assert 0 <= alone["probe/knn_top1"] <= 1
    json.dumps(values)


def test_augmented_views_change_with_the_epoch_only(tmp_path):
    shards = [shard(tmp_path / "a.tar", 5)]

    def features(epoch):
        return road.augmented_features(
            encoder(), shards, epoch=epoch, seed=0, modality="image", evaluation=EvaluationConfig(size=16),
            device="cpu", blocks=1, autocast=False, batch_size=2 + epoch, workers=0, limit=None,
        ).cls[0]  # fmt: skip

    assert torch.allclose(features(1), features(1))
    assert not torch.allclose(features(1), features(2))
