"""Audio events on tones whose onsets are known."""

from __future__ import annotations

import pytest

from foundation.data.shards import write_shards
from foundation.encoders import vit
from foundation.errors import UserError
from foundation.modalities.audio import tokenizer
from foundation.modalities.audio.evaluation import EvaluationConfig
from foundation.modalities.audio.front_end import FrontEndConfig
from foundation.tasks import events
from tests.modalities.audio.conftest import encode, tone
from tests.probes.test_frames import RATE, recording
from tests.tasks.subjects import image_subject, subject


def asked(train: list[str], test: list[str]):
    config = vit.Config(
        preset=None, width=32, depth=2, heads=2, size=(32, 200), tokenizer=tokenizer.Config(patch=(8, 4))
    )
    front_end = FrontEndConfig(rate=RATE, mels=32, window=0.032, high=4000.0)
    return subject(config, "audio", EvaluationConfig(front_end=front_end, frames=200), train, test)


def test_tones_are_found(tmp_path):
    write_shards([recording(n) for n in range(24)], tmp_path, "train")
    broken = {"__key__": "silent", "flac": encode(tone(1, RATE), RATE, "flac"), "cls": b"1"}
    write_shards([*(recording(100 + n) for n in range(8)), broken], tmp_path, "test")
    model = asked([f"{tmp_path}/train-*.tar"], [f"{tmp_path}/test-*.tar"])
    task = events.Config(epochs=10, median=3, thresholds=10).build()
    assert task.refusal(model) is None
    outcome = task.run(model)
    scores = {(score.metric, score.features): score for score in outcome.scores}
    assert outcome.scores[0].metric == "event F1" and scores["event F1", "raw"].n == 8
    for metric in ("event F1", "segment F1", "frame F1", "PSDS1", "PSDS2"):
        assert scores[metric, "raw"].value > 0.8, metric
        assert 0.2 < scores[metric, "model"].value <= 1, metric
    low, high = scores["segment F1", "model"].interval
    assert low <= scores["segment F1", "model"].value <= high
    assert any("1 test sample left out" in line for line in outcome.warnings)


def test_what_has_no_events_is_refused(tmp_path):
    write_shards([{"__key__": "a", "flac": encode(tone(1, RATE), RATE, "flac"), "cls": b"0"}], tmp_path, "train")
    patterns = [f"{tmp_path}/train-*.tar"]
    with pytest.raises(UserError, match=r"events: .*no 'events' in its json.*train shards"):
        events.Config().build().run(asked(patterns, patterns))
    assert "no timeline" in events.Config().build().refusal(image_subject(patterns, patterns))
