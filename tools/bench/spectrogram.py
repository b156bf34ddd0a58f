"""``foundation bench spectrogram``: seconds of sound per second, from waveforms to log-mel spectrograms."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DESCRIPTION = """\
How much sound becomes log-mel spectrograms (ATST's front end: 64 bands, 64 ms / 10 ms, 16 kHz) in one second of
processor time, against torchaudio and librosa where they are installed; and how fast another rate is reached (44.1 to
16 kHz), against torchaudio and soxr. All sides run in this process on the same noise, one thread, in turn. That they
give the same spectrograms is checked first."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.files import output_file
    from foundation.ranges import Count, Seconds, argument

    parser.add_argument(
        "--seconds", type=argument(Seconds), default=6.0, help="length of a recording (default: %(default)s)"
    )
    parser.add_argument(
        "--batch", type=argument(Count), default=32, help="recordings of a batch (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=argument(Count), default=5, help="rounds of each, in turn (default: %(default)s)"
    )
    parser.add_argument("--json", type=output_file, help="also write the figures there")


def run(arguments: argparse.Namespace) -> int:
    import json
    import statistics

    import torch
    from rich.console import Console
    from rich.table import Table

    from foundation.files import write_output

    torch.set_num_threads(1)
    torch.manual_seed(0)
    waves = torch.randn(arguments.batch, round(arguments.seconds * 16_000)) * 0.1
    slow = (torch.randn(arguments.batch, round(arguments.seconds * 44_100)) * 0.1).numpy()
    jobs = {"log-mel": _spectrograms(waves), "44.1 to 16 kHz": _resamplers(slow)}
    table = Table(title=f"{arguments.batch} recordings of {arguments.seconds:g} s, one thread, processor time")
    for column in ("what", "by", "seconds of sound per second", "of ours"):
        table.add_column(column, justify="left" if column in ("what", "by") else "right")
    figures: dict[str, Any] = {"batch": arguments.batch, "seconds": arguments.seconds, "torch": torch.__version__}
    with torch.inference_mode():
        for what, sides in jobs.items():
            for side in sides.values():
                side()
            taken: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(arguments.rounds):
                for name, side in sides.items():
                    begun = time.process_time()
                    side()
                    taken[name].append(time.process_time() - begun)
            rates = {
                name: arguments.batch * arguments.seconds / statistics.median(times) for name, times in taken.items()
            }
            for name, rate in rates.items():
                table.add_row(what, name, f"{rate:,.0f}", f"{rate / rates['foundation']:.2f}")
            figures[what] = rates
    Console().print(table)
    if arguments.json:
        write_output(arguments.json, json.dumps(figures, indent=1) + "\n")
    return 0


def _spectrograms(waves: Any) -> dict[str, Callable[[], Any]]:
    """Ways to log-mel spectrograms of [R, T] at 16 kHz, checked to agree."""
    from foundation.modalities.audio.front_end import log_mel, published

    config = published("atst")
    sides: dict[str, Callable[[], Any]] = {"foundation": lambda: log_mel(waves, config)}
    for name, others in (("torchaudio", _torchaudio), ("librosa", _librosa)):
        try:
            sides |= others(waves, config)
        except (ImportError, OSError, RuntimeError) as error:
            print(f"{name} cannot be used here: {str(error).splitlines()[0]}", file=sys.stderr)
    ours = sides["foundation"]().numpy()
    for name, side in sides.items():
        worst = max(abs(ours[row] - np.asarray(one)).max() for row, one in enumerate(side()))
        if worst > 1e-3:
            raise SystemExit(f"{name} gives other spectrograms (up to {worst:.2g} away)")
    return sides


def _torchaudio(waves: Any, config: Any) -> dict[str, Callable[[], Any]]:
    from torchaudio import transforms

    mel = transforms.MelSpectrogram(16_000, 1024, 1024, 160, f_min=60.0, f_max=7800.0, n_mels=64)
    decibels = transforms.AmplitudeToDB(top_db=80.0)

    def batched() -> Any:
        return (decibels(mel(waves)[:, None])[:, 0] - config.mean) / config.std

    def single() -> Any:
        return [((decibels(mel(wave[None])) - config.mean) / config.std)[0] for wave in waves]

    return {"torchaudio, batched": batched, "torchaudio, one by one": single}


def _librosa(waves: Any, config: Any) -> dict[str, Callable[[], Any]]:
    import librosa

    arrays = list(waves.numpy())
    how = {"n_fft": 1024, "hop_length": 160, "fmin": 60.0, "fmax": 7800.0, "n_mels": 64, "htk": True, "norm": None}

    def one(wave: Any) -> Any:
        power = librosa.feature.melspectrogram(y=wave, sr=16_000, pad_mode="reflect", **how)
        return (librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=80.0) - config.mean) / config.std

    return {"librosa, one by one": lambda: [one(wave) for wave in arrays]}


def _resamplers(waves: Any) -> dict[str, Callable[[], Any]]:
    """Ways from 44.1 to 16 kHz for [R, T]."""
    import torch

    from foundation.modalities.audio.resample import resample, resampled_length

    length = resampled_length(waves.shape[1], 44_100, 16_000)
    sides: dict[str, Callable[[], Any]] = {
        "foundation": lambda: [resample(wave, 44_100, 16_000, 0, length) for wave in waves]
    }
    try:
        from torchaudio import transforms

        kaiser = transforms.Resample(
            44_100, 16_000, lowpass_filter_width=24, rolloff=0.945, resampling_method="sinc_interp_kaiser"
        )
        tensor = torch.from_numpy(waves)
        sides["torchaudio, as sharp"] = lambda: [kaiser(wave) for wave in tensor]
    except (ImportError, OSError, RuntimeError):
        pass
    try:
        import soxr

        sides["soxr, high quality"] = lambda: [soxr.resample(wave, 44_100, 16_000, "HQ") for wave in waves]
    except ImportError:
        pass
    return sides


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
