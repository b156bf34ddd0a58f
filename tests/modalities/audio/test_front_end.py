"""The log-mel front end against torchaudio's numbers and a slow reference; resampling against the exact sine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.errors import UserError
from foundation.modalities.audio.front_end import FrontEndConfig, filters, log_mel, mel_of, published
from foundation.modalities.audio.resample import resample, resampled_length


@pytest.mark.parametrize("name", ["chirp", "burst", "odd_length"])
def test_atst_parity(golden, name):
    data = golden("10_atst_logmel")
    ours = log_mel(torch.from_numpy(data[f"input/{name}/waveform"]), published("atst"))
    expected = torch.from_numpy(data[f"output/{name}/normalised"])
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() < 2e-5  # 6e-4 dB


def test_floor_is_each_recordings_own(golden):
    data = golden("10_atst_logmel")
    config = published("atst")
    ours = log_mel(torch.from_numpy(data["input/batched/waveform_BCT"][:, 0]), config) * config.std + config.mean
    assert (ours - torch.from_numpy(data["output/batched/mel_db_BCT"][:, 0])).abs().max() < 1e-3


def test_filters_equal_torchaudios(golden):
    data = golden("10_atst_logmel")
    reference = next(v for k, v in data.items() if k.startswith("param") and v.ndim == 2)
    np.testing.assert_allclose(
        filters(published("atst")), reference, rtol=0, atol=1e-5
    )  # torchaudio computes in float32


def kaldi(wave: np.ndarray, config: FrontEndConfig) -> np.ndarray:
    """Kaldi's fbank as its documentation states it, frame by frame in float64."""
    size, hop, fft = config.window_samples, config.hop_samples, config.fft
    wave = wave.astype(np.float64) - wave.mean()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))
    edges = np.linspace(mel_of(config.low), mel_of(config.rate / 2), config.mels + 2)
    rows = []
    for start in range(0, len(wave) - size + 1, hop):
        frame = wave[start : start + size] - wave[start : start + size].mean()
        emphasised = np.array([frame[i] - 0.97 * frame[max(i - 1, 0)] for i in range(size)]) * window
        power = np.abs(np.fft.rfft(emphasised, fft)) ** 2
        row = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for k in range(fft // 2):
                mel = float(mel_of(k * config.rate / fft))
                if low < mel < high:
                    total += power[k] * (
                        (mel - low) / (middle - low) if mel <= middle else (high - mel) / (high - middle)
                    )
            row.append(np.log(max(total, np.finfo(np.float32).eps)))
        rows.append(row)
    return np.array(rows).T


def test_asit_front_end_equals_kaldis_definition():
    config = FrontEndConfig(
        rate=8000, mels=20, window=0.025, low=20.0, high=None, framing="kaldi", dynamic_range=None, mean=0.0, std=1.0
    )
    wave = np.random.default_rng(0).normal(0, 0.1, 900).astype(np.float32)
    ours = log_mel(torch.from_numpy(wave)[None], config)[0].numpy()
    reference = kaldi(wave, config)
    assert ours.shape == reference.shape == (20, 1 + (900 - 200) // 80)
    np.testing.assert_allclose(ours, reference, atol=2e-4)


def test_published_asit_is_what_the_paper_says():
    config = published("asit")
    assert (config.mels, config.window_samples, config.hop_samples, config.fft) == (128, 400, 160, 512)
    assert config.samples(592) == 591 * 160 + 400
    assert config.std == pytest.approx(2 * 4.5690)


@pytest.mark.parametrize("config", [published("atst"), published("asit"), FrontEndConfig(rate=8000, high=4000.0)])
def test_rows_of_a_batch_do_not_meet_and_lengths_agree(config):
    waves = torch.randn(3, config.samples(7)) * torch.tensor([[1.0], [1e-3], [0.0]])
    together = log_mel(waves, config)
    assert together.shape == (3, config.mels, max(7, config.frames(waves.shape[1])))
    for row in range(3):
        torch.testing.assert_close(log_mel(waves[row : row + 1], config)[0], together[row], atol=1e-5, rtol=0)
    assert torch.isfinite(together).all()


def test_time_of_a_frame():
    """A click is loudest in the frame whose centre is nearest to it."""
    for config in (published("atst"), published("asit")):
        wave = torch.zeros(1, 16000)
        wave[0, 8000] = 1.0
        loud = log_mel(wave, config)[0].mean(0)
        frames = (loud > loud.max() - 0.02 * (loud.max() - loud.min())).nonzero().flatten().float()
        assert abs(config.centre(float(frames.mean())) - 0.5) < 0.006


def test_too_short_and_wrong_settings():
    with pytest.raises(UserError, match="too few for one frame"):
        log_mel(torch.zeros(1, 100), published("atst"))
    for settings, words in (
        ({"rate": 8000}, "half the rate"),
        ({"hop": 0.1}, "0 < hop <= window"),
        ({"framing": "other"}, "centred or kaldi"),
        ({"std": 0.0}, "std is 0; it must be from 1e-09"),
        ({"mels": 0}, "mels is 0; it must be from 1"),
    ):
        with pytest.raises(UserError, match=words):
            FrontEndConfig(**settings)


@pytest.mark.parametrize(
    ("rate", "new"), [(8000, 16000), (44100, 16000), (48000, 32000), (22050, 16000), (16000, 8000)]
)
def test_resampled_sine_is_the_sine(rate, new):
    hertz = 0.3 * min(rate, new)  # below the cut-off of either
    wave = np.sin(2 * np.pi * hertz * np.arange(rate) / rate).astype(np.float32)
    ours = resample(wave, rate, new, 0, resampled_length(rate, rate, new))
    expected = np.sin(2 * np.pi * hertz * np.arange(len(ours)) / new)
    middle = slice(new // 10, -new // 10)
    assert np.abs(ours - expected)[middle].max() < 2e-3


def test_nothing_above_half_the_rate_comes_through():
    wave = np.sin(2 * np.pi * 6000 * np.arange(16000) / 16000).astype(np.float32)
    assert np.abs(resample(wave, 16000, 8000, 0, 8000)[800:-800]).max() < 1e-3


def test_any_stretch_is_that_of_the_whole():
    wave = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    whole = resample(wave, 11025, 16000, -50, 6000)
    for start, length in ((0, 100), (-50, 7), (1234, 999), (5800, 150)):
        part = resample(wave, 11025, 16000, start, length)
        np.testing.assert_allclose(part, whole[start + 50 : start + 50 + length], atol=1e-6)
    assert np.array_equal(resample(wave, 8000, 8000, -2, 5), [0, 0, *wave[:3]])
