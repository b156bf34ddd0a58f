"""Calls of invented animals: the same six calls by many callers, one after another, each with its own voice, in noise.

A call is a short phrase whose pitch rises or falls, smoothly, trembling or in beats. In a recording one caller after
another answers with the same call, so that two cuttings have nothing in common but the call: each caller has a pitch
and a timbre (how fast harmonics fade, two resonances, breath), each phrase a tempo and a loudness. A recording begins
anywhere, and adds the colour of a microphone and noise. Each call upside down is another call: how loud the bands are,
and how much that changes, says little about the way. Callers of the test split are heard nowhere else.
"""

from __future__ import annotations

import argparse
import io
import wave
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from foundation.data import generated
from foundation.data.generated import Numbers
from foundation.errors import UserError
from foundation.ranges import NonNegative, argument

CARD = {
    "title": "Calls of invented animals",
    "licence": "CC0-1.0",
    "source": "made by this program",
    "citation": "none",
    "modality": "audio",
    "splits": ["train", "test"],
    "layout": "wav (8 kHz, 16 bits), cls (call)",
    "size": "6 calls; 600 + 600 recordings of 2 s by 80 + 20 callers, 41 MB",
}
RATE = 8000
SECONDS = 2.0
CALLERS = {"train": 80, "test": 20}
STYLES = ("smooth", "trembling", "beaten")
CALLS = tuple(f"{style} {way}" for style in STYLES for way in ("rise", "fall"))

Signal = NDArray[np.float64]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    generated.add_arguments(parser, train=600, test=600)
    parser.add_argument(
        "--noise",
        type=argument(NonNegative),
        default=1.0,
        help="loudness of the background, 0 is none (default: %(default)s)",
    )


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the calls, by class number."""
    return list(CALLS)


def samples(arguments: argparse.Namespace) -> Mapping[str, generated.Split]:
    """Recordings of both splits.

    Raises:
        UserError: an option cannot work.
    """
    if not 0 <= arguments.noise <= 10:
        raise UserError(f"--noise must lie in 0 to 10, got {arguments.noise}")

    def make(label: int, number: int, draw: Numbers, split: str) -> dict[str, bytes]:
        def caller(number: int) -> Numbers:
            return Numbers(arguments.seed, number % CALLERS[split], f"calls.{split}.caller")

        return {"wav": wave_file(recording(CALLS[label], caller, draw, arguments.noise))}

    return generated.samples("calls", arguments, CALLS, make)


def course(call: str, t: Signal, draw: Numbers) -> tuple[Signal, Signal]:
    """Pitch in octaves around the caller's own, and loudness in [0, 1], of a call that goes on and on.

    Args:
        call: one of :data:`CALLS`.
        t: [samples] number of phrases since the first; fractions are places within one.
        draw: numbers of this phrase.
    """
    style, way = call.split()
    width = draw.between(0.7, 1.1)  # octaves from the lowest to the highest note
    place = t % 1.0 / draw.between(0.75, 0.9)  # the rest of each phrase is silence
    pitch, loud = place - 0.5, np.ones_like(t)
    if style == "trembling":
        pitch = pitch + 0.22 * np.sin(2.0 * np.pi * 4.0 * place)
    elif style == "beaten":
        loud = (3.0 * place % 1.0 < 0.5).astype(np.float64)
    return (-1.0 if way == "fall" else 1.0) * width * pitch, np.where(place < 1.0, loud, 0.0)


def voice(pitch: Signal, loud: Signal, caller: Numbers, draw: Numbers) -> Signal:
    """The sound of a course of pitch (octaves) in a caller's voice.

    The caller's numbers come in the same order each time: it is the same caller.
    """
    own = caller.ratio(260.0, 900.0) * draw.ratio(0.92, 1.09)
    fade, breath = caller.between(0.6, 1.8), caller.between(0.02, 0.2)
    resonances = [(caller.ratio(400.0, 3000.0), caller.between(0.15, 0.4)) for _ in range(2)]
    frequency = own * 2.0**pitch
    phase = 2.0 * np.pi * np.cumsum(frequency) / RATE
    sound = np.zeros_like(pitch)
    for harmonic in range(1, 7):
        f = harmonic * frequency
        octaves = np.log2(f)
        gain = harmonic**-fade * sum(
            0.2 + np.exp(-0.5 * ((octaves - np.log2(at)) / width) ** 2) for at, width in resonances
        )
        sound += np.where(f < 0.47 * RATE, gain, 0.0) * np.sin(harmonic * phase + caller.between(0.0, 6.28))
    sound = sound / max(float(np.sqrt(np.mean(sound**2))), 1e-9)
    return (sound + breath * draw.normal(len(pitch))) * np.convolve(loud, np.ones(60) / 60, "same")


def recording(call: str, callers: Callable[[int], Numbers], draw: Numbers, noise: float) -> Signal:
    """One call, again and again by one caller after another, on its background; [samples] with its peak below 1.

    Args:
        call: one of :data:`CALLS`.
        callers: the numbers of one of the split's callers.
        draw: numbers of this recording.
        noise: loudness of the background.
    """
    length, phrases, heard = round(SECONDS * RATE), [], 0
    skipped = round(draw.between(0.0, 0.25) * RATE)  # it begins anywhere in the first phrase
    while heard < length + skipped:
        samples = round(RATE / draw.ratio(3.2, 6.0))
        pitch, loud = course(call, np.arange(samples) / samples, draw)
        phrases.append(voice(pitch, loud, callers(draw.whole(1 << 30)), draw) * draw.ratio(0.6, 1.6))
        heard += samples
    sound = np.concatenate(phrases)[skipped : skipped + length]
    sound += noise * draw.ratio(0.03, 0.3) * draw.normal(length)
    # The microphone: louder or softer towards high notes.
    spectrum = np.fft.rfft(sound)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(length, 1 / RATE), 60.0) / 700.0)
    sound = np.fft.irfft(spectrum * 2.0 ** (draw.between(-0.4, 0.4) * octaves), length)
    return sound / max(float(np.abs(sound).max()), 1e-9) * draw.ratio(0.25, 0.9)


def wave_file(sound: Signal) -> bytes:
    """A sound in [-1, 1] as a WAV file of 16 bits."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes((sound * 32767).round().astype("<i2").tobytes())
    return file.getvalue()
