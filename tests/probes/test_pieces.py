"""Recordings longer than a view: several views from begin to end, whose features are averaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.errors import UserError
from foundation.modalities.audio.evaluation import EvaluationConfig as Audio
from foundation.modalities.image.evaluation import EvaluationConfig as Image
from foundation.modalities.imu.evaluation import EvaluationConfig as Imu
from foundation.modalities.parts import in_pieces, pieces_to_cover
from foundation.modalities.video.evaluation import EvaluationConfig as Video
from foundation.probes.beforehand import pieces_of
from foundation.probes.features import averaged, extract, reader
from foundation.probes.simple_encoders import SimpleEncoder


def imu(seconds, rate=50.0):
    """Channel 0 counts the seconds."""
    times = np.arange(int(seconds * rate)) / rate
    signal = np.zeros((len(times), 6), np.float32)
    signal[:, 0] = times
    return {"imu": torch.from_numpy(signal), "imu_rate": rate, "__key__": "a"}


def audio(seconds, rate=16_000):
    """Silence, but for a tone in the last second."""
    wave = np.zeros(int(seconds * rate), np.float32)
    end = min(rate, len(wave))
    wave[-end:] = np.sin(np.arange(end) * 0.3)
    return {"audio": torch.from_numpy(wave), "audio_rate": rate, "__key__": "a"}


def video(frames):
    """Frame by frame brighter, one a second."""
    stack = torch.arange(frames, dtype=torch.uint8)[:, None, None, None].expand(frames, 3, 32, 32)
    return {"video": stack, "video_times": np.arange(frames, dtype=float), "video_end": float(frames), "__key__": "a"}


def test_pieces_of_a_sensor_cover_the_recording():
    config = Imu(size=100, rate=50.0, mean=(0.0,) * 6, std=(1.0,) * 6)
    views = in_pieces("imu", config, 5)([imu(10.0), imu(2.0)])
    assert views.shape == (2, 5, 6, 100)
    assert views[0, :, 0, 0].tolist() == pytest.approx([0, 2, 4, 6, 8], abs=0.05)  # ten seconds, two at a time
    assert torch.equal(views[1], views[1, :1].expand(5, -1, -1)), "a recording as long as the view has one place"
    assert torch.equal(in_pieces("imu", config, 3)([imu(9.0)])[:, 1], config.build()([imu(9.0)]))


def test_pieces_are_as_many_as_cover_the_longest_recording():
    sensor = Imu(size=100, rate=50.0, mean=(0.0,) * 6, std=(1.0,) * 6)
    assert [pieces_to_cover(sensor, [imu(seconds)]) for seconds in (1, 2, 2.01, 2.1, 9)] == [1, 1, 1, 2, 5]
    assert pieces_to_cover(sensor, [imu(1), imu(9), imu(3)]) == 5
    assert pieces_to_cover(Imu(size=100, rate=50.0, whole=True), [imu(9)]) == 1
    sound = Audio(frames=100)
    lasts = sound.front_end.samples(100) / 16_000
    assert [pieces_to_cover(sound, [audio(share * lasts)]) for share in (0.5, 1, 3, 3.5)] == [1, 1, 3, 4]
    clip = Video(seconds=2.0, frames=2, size=32)
    assert [pieces_to_cover(clip, [video(frames)]) for frames in (1, 2, 7)] == [1, 1, 4]
    assert pieces_to_cover(Video(seconds=None, frames=2, size=32), [video(7)]) == 1
    assert pieces_to_cover(Image(), [{}]) == 1, "a picture has no time, and is not looked at"


def test_an_evaluation_covers_recordings_unless_it_is_told_otherwise(tmp_path):
    import io

    from foundation.data.write import write_shards
    from foundation.tasks.base import Settings, Subject

    samples = []
    for number in range(6):
        file = io.BytesIO()
        np.save(file, np.random.default_rng(number).normal(size=(300, 6)).astype(np.float32))
        samples.append({"__key__": str(number), "npy": file.getvalue(), "json": b'{"imu_rate": 50}', "cls": b"1"})
    write_shards(samples, tmp_path, "train")
    model, train = imu_model(), (str(tmp_path / "train-*.tar"),)

    def features(pieces):
        how = Settings(pieces=pieces, cached=False, batch_size=4)
        subject = Subject(model.loaded, model.loaded.evaluation, train, settings=how)
        return subject.pieces, subject.features("train").cls[-1]

    (found, covered), (_, three), (_, middle) = features(None), features(3), features(1)
    assert found == 3 and torch.equal(covered, three)  # six seconds in views of two
    assert not torch.allclose(covered, middle, atol=1e-3)
    assert pieces_of(train, "imu", model.loaded.evaluation) == 3


def test_what_only_the_end_of_a_sound_holds_is_heard():
    config = Audio(frames=100)
    sample = audio(6.0)
    middle, pieces = config.build()([sample]), in_pieces("audio", config, 6)([sample])
    assert float(middle.std()) < 1e-6, "the middle is silent"
    assert [float(piece.std()) > 0.1 for piece in pieces[0]] == [False] * 5 + [True]
    short = in_pieces("audio", config, 3)([audio(1.0 / 2)])[0]
    assert torch.equal(short[0], short[2]), "what is shorter is heard whole each time"


def test_clips_of_a_video_lie_along_it():
    config = Video(size=32, frames=2, seconds=2.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    found = in_pieces("video", config, 3)([video(20)])[0, :, 0, 0, 0, 0] * 255
    assert found.tolist() == sorted(found.tolist()) and found[0] < 2 and found[2] > 16


def test_the_feature_of_a_recording_is_the_mean_of_its_pieces():
    views = torch.randn(4, 3, 2, 8)
    encoder = SimpleEncoder(lambda view: view.flatten(1))
    tokens, mean = averaged(reader(encoder))(views)
    assert torch.allclose(tokens[0], views.flatten(2).mean(dim=1)) and torch.allclose(mean, tokens[0])
    batch = EvalBatch(views)
    found = extract(encoder, [batch], pieces=3)
    assert torch.allclose(found.cls[0], tokens[0]) and len(found) == 4


class EvalBatch:
    """What the loader of probes gives."""

    def __init__(self, data):
        self.skipped, self.messages = {}, ()
        self.data, self.keys = data, tuple("abcd"[: len(data)])
        self.labels, self.names = [0] * len(data), [0] * len(data)
        self.ids = list(range(len(data)))


def test_views_without_time_are_refused():
    with pytest.raises(UserError, match="have no time"):
        in_pieces("image", Image(), 2)
    with pytest.raises(UserError, match="covers the whole"):
        in_pieces("imu", Imu(whole=True), 2)
    with pytest.raises(UserError, match="covers the whole"):
        in_pieces("video", Video(), 2)


def imu_model():
    from foundation.encoders import vit
    from foundation.modalities.imu import tokenizer
    from foundation.seeded import seeded
    from foundation.zoo.load import LoadedEncoder
    from foundation.zoo.model import Model

    views = Imu(size=100, rate=50.0, mean=(0.0,) * 6, std=(1.0,) * 6)
    config = vit.Config(
        preset=None, width=32, depth=1, heads=2, size=(100,), tokenizer=tokenizer.Config(patch=20, channels=6)
    )
    with seeded(0):
        encoder = config.build().eval().requires_grad_(False)
    return Model(LoadedEncoder(encoder, "imu", views, "untrained", None, None, config))


def test_a_loaded_model_and_the_extractor_average_the_pieces_of_a_long_recording():
    from foundation.api.features import FeatureExtractor

    model, signal = imu_model(), np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    starts = (0, 100, 200)  # six seconds in views of two
    parts = torch.cat([model(signal[start : start + 100], rate=50.0) for start in starts])
    found = model([signal], rate=50.0, pieces=3)
    assert torch.allclose(found, parts.mean(dim=0, keepdim=True), atol=1e-5)
    assert torch.allclose(model(signal, rate=50.0), parts[1:2], atol=1e-5), "without pieces, its middle"
    extracted = FeatureExtractor(model, rate=50.0, pieces=3).transform([signal, signal])
    assert np.allclose(extracted, np.repeat(found.numpy(), 2, axis=0), atol=1e-5)
    with pytest.raises(UserError, match="1 or more"):
        model(signal, rate=50.0, pieces=0)


def test_a_fine_tuned_model_averages_what_its_head_says_of_the_pieces(tmp_path):
    import io

    from foundation.branches.base import EncoderBranch
    from foundation.data.extras.target import Config as Target
    from foundation.data.write import write_shards
    from foundation.finetuning.predictor import Predictor
    from foundation.heads import linear
    from foundation.seeded import seeded

    model, config = imu_model(), linear.Config(outputs=2)
    with seeded(1):
        head = config.build(32)
    branch = EncoderBranch(model.encoder, {"cls": head}, {"cls": config}).eval().requires_grad_(False)
    tuned = Predictor(model, branch, Target(classes=("0", "1")), "cls", model.loaded)
    signal = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    said = head(torch.cat([model(signal[start : start + 100], rate=50.0) for start in (0, 100, 200)]))
    found = tuned(signal, rate=50.0, pieces=3)
    assert torch.allclose(found, said.mean(dim=0, keepdim=True).softmax(dim=1), atol=1e-5)
    assert not torch.allclose(found, tuned(signal, rate=50.0), atol=1e-3)

    file = io.BytesIO()
    np.save(file, signal)
    sample = {"__key__": "a", "npy": file.getvalue(), "json": b'{"imu_rate": 50}', "cls": b"1"}
    write_shards([sample], tmp_path, "test")
    answers, _ = tuned.score([str(tmp_path / "test-*.tar")], pieces=3)
    assert torch.allclose(answers.answers, said.mean(dim=0, keepdim=True), atol=1e-4) and answers.targets.tolist() == [
        1
    ]
