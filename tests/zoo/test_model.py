"""The door for Python: files, arrays and batches of each modality to features."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import foundation
from foundation import config, paths
from foundation.errors import SampleError, UserError
from foundation.run.recipe import Recipe
from foundation.zoo.export import write_export

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """``exported(recipe)``: the encoder of a shipped recipe, untrained, as an exported file."""

    def write(name: str) -> Path:
        recipe = config.load(Recipe, paths.recipe(name).read_text(encoding="utf-8"))
        torch.manual_seed(0)
        tensors = recipe.encoder.build().state_dict()
        return write_export(tmp_path_factory.mktemp(name) / "teacher.safetensors", tensors, recipe, "teacher", 0)

    return write


def write_image(path: Path) -> np.ndarray:
    pixels = RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path.with_suffix(".png"))
    return pixels


def write_sound(path: Path) -> np.ndarray:
    soundfile = pytest.importorskip("soundfile")
    wave = (0.1 * RNG.standard_normal(16000)).astype(np.float32)
    soundfile.write(path.with_suffix(".wav"), wave, 16000, subtype="FLOAT")
    return wave


def write_points(path: Path) -> np.ndarray:
    points = RNG.standard_normal((500, 3)).astype(np.float32)
    np.savetxt(path.with_suffix(".xyz"), points, fmt="%.9g")
    return points


def write_video(path: Path) -> np.ndarray:
    av = pytest.importorskip("av")
    frames = RNG.integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    with av.open(str(path.with_suffix(".mkv")), "w") as file:
        stream = file.add_stream("ffv1", rate=10)  # lossless
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return frames


def write_motion(path: Path) -> np.ndarray:
    readings = RNG.standard_normal((300, 6)).astype(np.float32)
    readings[:, 2] += 9.81
    lines = ["time,acc_x,acc_y,acc_z,gyr_x,gyr_y,gyr_z"]
    lines += [",".join([f"{i / 50:.9g}", *(f"{x:.9g}" for x in row)]) for i, row in enumerate(readings)]
    path.with_suffix(".csv").write_text("\n".join(lines))
    return readings


KINDS = {
    "quickstart": (write_image, None),
    "quickstart-audio": (write_sound, 16000),
    "quickstart-points": (write_points, None),
    "quickstart-video": (write_video, 10),
    "quickstart-imu": (write_motion, 50),
}


@pytest.mark.parametrize("recipe", KINDS)
def test_files_arrays_and_batches_give_the_same_features(recipe, exported, tmp_path):
    write, rate = KINDS[recipe]
    arrays = [write(tmp_path / str(number)) for number in range(3)]
    files = sorted(tmp_path.iterdir())
    model = foundation.load(exported(recipe))
    features = model(files)
    assert features.shape == (3, model.width) and features.dtype == torch.float32 and not features.requires_grad
    assert not torch.allclose(features[0], features[1])
    torch.testing.assert_close(model(str(files[1])), features[1:2])
    torch.testing.assert_close(model(files, batch_size=2), features)
    torch.testing.assert_close(model(arrays, rate=rate), features)
    batch = model.preprocess(files)
    assert len(batch) == 3 and torch.equal(model(batch), features)
    with pytest.raises(UserError, match=r"batch \[2, 1\] does not fit .*expects.*model\.preprocess makes"):
        model(torch.zeros(2, 1))


@pytest.mark.parametrize("recipe", KINDS)
def test_all_tokens_are_those_that_vectors_are_made_of(recipe, exported, tmp_path):
    write, _ = KINDS[recipe]
    for number in range(3):
        write(tmp_path / str(number))
    files = sorted(tmp_path.iterdir())
    model = foundation.load(exported(recipe), tokens="both")
    tokens = model.features(files, batch_size=2)
    width = model.card.width
    assert tokens.patches.ndim == 3 and tokens.patches.shape[::2] == (3, width) and tokens.valid is None
    assert tokens.registers.shape == (3, model.card.registers, width)
    torch.testing.assert_close(model(files), torch.cat([tokens.cls, tokens.patches.mean(dim=1)], dim=1))
    assert (model.card.modality, model.card.parameters) == (
        model.modality,
        sum(weight.numel() for weight in model.parameters()),
    )
    assert model.card.sha256 and model.card.recipe and model.card.name.endswith("-teacher")


def test_pictures_in_memory_are_read_as_those_in_files(exported, tmp_path):
    model = foundation.load(exported("quickstart"))
    write_image(tmp_path / "a")
    turned = Image.open(tmp_path / "a.png")
    exif = turned.getexif()
    exif[0x0112] = 6  # lies on its side
    turned.save(tmp_path / "turned.png", exif=exif)
    grey, deep = turned.convert("L"), RNG.integers(0, 1 << 16, (40, 40), dtype=np.uint16)
    grey.save(tmp_path / "grey.png")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    named = [tmp_path / f"{name}.png" for name in ("turned", "grey", "deep")]
    held = [Image.open(tmp_path / "turned.png"), np.asarray(grey), deep]
    torch.testing.assert_close(model(held), model(named))
    assert not torch.allclose(model(named[0]), model(tmp_path / "a.png"))
    for wrong in (np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)):
        with pytest.raises(UserError, match=r"is no picture: give uint8 \[height, width, 3\]"):
            model(wrong)


def test_a_model_of_another_precision_takes_the_same_samples(exported):
    path, image = exported("quickstart"), RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    wanted = foundation.load(path)(image)
    for dtype, near in ((torch.float64, 1e-4), (torch.bfloat16, 0.1), (torch.float16, 0.02)):
        model = foundation.load(path).to(dtype)
        torch.testing.assert_close(model(image), wanted, rtol=near, atol=near)
        assert model(model.preprocess(image)).dtype == torch.float32


def test_what_is_laid_out_wrongly_is_said_in_every_modality(exported):
    images = foundation.load(exported("quickstart"))
    with pytest.raises(UserError, match="0 x 0 pixels"):
        images(Image.new("RGB", (0, 0)))
    assert images(Image.new("LA", (8, 8)).convert("La")).shape == (1, images.width)
    sound = foundation.load(exported("quickstart-audio"))
    with pytest.raises(UserError, match=r"\[2, 16000\] looks transposed.*array\.T"):
        sound(np.zeros((2, 16000), np.float32), rate=16000)
    for rate in (float("nan"), float("inf"), 0):
        with pytest.raises(UserError, match="needs its samples per second"):
            sound(np.zeros(16000, np.float32), rate=rate)
    frames = RNG.integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    with pytest.raises(SampleError, match="looks like one picture"):
        foundation.load(exported("quickstart-video"))(list(frames), rate=10)


def test_tokens_are_chosen_when_the_model_is_loaded(exported):
    path = exported("quickstart")
    image = RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    cls, patches, both = (foundation.load(path, tokens=tokens) for tokens in ("cls", "patches", "both"))
    assert torch.equal(both(image), torch.cat([cls(image), patches(image)], dim=1)) and both.width == 2 * cls.width
    inside = cls.encoder([cls.preprocess(image)])[0]
    assert torch.equal(patches(image), inside.patches.mean(1)) and torch.equal(cls(image), inside.cls)


def test_what_cannot_be_read_is_named(exported, tmp_path):
    model = foundation.load(exported("quickstart"))
    write_image(tmp_path / "photo")
    (tmp_path / "broken.png").write_bytes((tmp_path / "photo.png").read_bytes()[:500])
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "link.png").symlink_to("gone.png")
    with pytest.raises(UserError, match=r"link\.png does not exist: it is a link to 'gone\.png'"):
        model(tmp_path / "link.png")
    with pytest.raises(UserError, match=r"phto\.png does not exist; did you mean '.*photo\.png'"):
        model(tmp_path / "phto.png")
    with pytest.raises(SampleError, match=r"'broken\.png': truncated"):
        model([tmp_path / "photo.png", tmp_path / "broken.png"])
    with pytest.raises(UserError, match=r"notes\.txt: this model takes image files \(jpg, jpeg, png"):
        model(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="an empty list"):
        model([])
    with pytest.raises(UserError, match="needs its samples per second"):
        foundation.load(exported("quickstart-audio"))(np.zeros(16000, np.float32))


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, foundation; foundation.load; heavy = {'torch', 'numpy', 'PIL', 'yaml', 'rich'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
