"""``foundation bench photometric``: the colours of DINO's views, part by part, against albumentations."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

DESCRIPTION = """\
Processor time of the photometric half of DINO's views (2 x 224 + 8 x 96: colour jitter, greyscale, blur, solarise,
normalise, drawing the random numbers included), from uint8 views to float32 [3, S, S], against albumentations where it
is installed (uint8, OpenCV on one thread, the quicker of two kernels of the blur: as wide as its sigma wants, or 13
pixels as torchvision has it). Both sides work on the same views in this process, one thread, in turn. Ours writes a
batch; stacking the other's views to one is counted apart. Below the whole: each part by itself on every view, with the
normalisation that both need."""

PARTS = ("normalise", "colour jitter", "greyscale", "blur", "solarise")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.files import output_file
    from foundation.ranges import Count, Seed, argument

    parser.add_argument("--batch", type=argument(Count), default=16, help="samples per batch (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=argument(Count), default=15, help="batches of each, in turn (default: %(default)s)"
    )
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of views and augmentation (default: 0)")
    parser.add_argument("--json", type=output_file, help="also write the figures there")


def run(arguments: argparse.Namespace) -> int:
    import json

    import torch
    from rich.console import Console
    from rich.table import Table

    from foundation.files import write_output

    torch.set_num_threads(1)
    figures: dict[str, Any] = {name: getattr(arguments, name) for name in ("batch", "rounds", "seed")}
    figures["torch"] = torch.__version__
    try:
        theirs, figures["albumentations"] = _albumentations()
    except ImportError as error:
        theirs = None
        how = "only this project is timed; to compare: pip install albumentations"
        print(f"albumentations cannot be used here ({error}): {how}", file=sys.stderr)
    pixels = {size: _pixels(size, count * arguments.batch, arguments.seed) for size, count in ((224, 2), (96, 8))}
    table = Table(title=f"batch {arguments.batch}, {arguments.rounds} rounds, one thread, processor time")
    for column in ("part", "by", "ms/sample", "theirs / ours (range)"):
        table.add_column(column, justify="left" if column in ("part", "by") else "right")
    for part in ("whole", *PARTS):
        sides = {"foundation": _ours(part, pixels, arguments.seed)}
        if theirs is not None:
            sides |= theirs(part, pixels, arguments.seed)
        figures[part] = _time(sides, arguments.rounds, arguments.batch)
        for name, row in figures[part].items():
            ratio = f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})" if "ratio" in row else ""
            table.add_row(part if name == "foundation" else "", name, f"{row['milliseconds']:.2f}", ratio)
    Console().print(table)
    if arguments.json:
        write_output(arguments.json, json.dumps(figures, indent=2) + "\n")
    return 0


def _time(sides: dict[str, Callable[[int], list[float]]], rounds: int, batch: int) -> dict[str, dict[str, float]]:
    """Median milliseconds per sample of each side, and of the ratio to the first side in the same round."""
    import statistics

    taken: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, side in sides.items():
            first, *more = side(number)
            taken.setdefault(name, []).append(first)
            for stacked in more:
                taken.setdefault(f"{name}, stacked", []).append(first + stacked)
    ours = taken["foundation"][1:]  # the first round imports and allocates
    rows: dict[str, dict[str, float]] = {}
    for name, seconds in taken.items():
        rows[name] = {"milliseconds": 1e3 * statistics.median(seconds[1:]) / batch}
        if name != "foundation":
            ratios = sorted(other / one for one, other in zip(ours, seconds[1:], strict=True))
            rows[name] |= {"ratio": statistics.median(ratios), "ratio_min": ratios[0], "ratio_max": ratios[-1]}
    return rows


def _pixels(size: int, rows: int, seed: int) -> Any:
    """Views [R, 3, size, size] uint8: smooth areas of all colours, and some noise."""
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand((rows, 3, 8, 8), generator=generator), size=(size, size), mode="bicubic")
    noisy = smooth + 0.02 * torch.randn(smooth.shape, generator=generator)
    return noisy.clamp(0, 1).mul(255).to(torch.uint8)


def _config(part: str) -> Any:
    """DINO's view recipe, or one that does a single part on each view."""
    from foundation.modalities.image.views import published

    dino = published("dino")
    if part == "whole":
        return dino
    crops = {
        name: replace(crop, blur=(float(part == "blur"),), solarise=(float(part == "solarise"),))
        for name, crop in (("global_views", dino.global_views), ("local_views", dino.local_views))
    }
    return replace(dino, jitter=float(part == "colour jitter"), greyscale=float(part == "greyscale"), **crops)


def _ours(part: str, pixels: dict[int, Any], seed: int) -> Callable[[int], list[float]]:
    from foundation.counter import Draws
    from foundation.modalities.image.photometric import run_plan

    config = _config(part)
    views = config.build(False)
    ids = np.arange(len(pixels[224]) // 2)

    def side(number: int) -> list[float]:
        begun = time.process_time()
        draws = Draws(seed, np.full_like(ids, number), ids)
        for role, crop in views.roles.items():
            run_plan(pixels[crop.size], views.plan(role, draws), config.mean, config.std)
        return [time.process_time() - begun]

    return side


def _albumentations() -> tuple[Callable[..., dict[str, Callable[[int], list[float]]]], str]:
    """What makes its sides of a part, and its version.

    Raises:
        ImportError: it is not installed, or does not fit what is.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look-up of newer versions
    try:
        import albumentations
        import cv2
        from albumentations.pytorch import ToTensorV2
    except Exception as error:  # also what its own imports raise beside another version of albucore
        raise ImportError(f"{type(error).__name__}: {error}") from error
    cv2.setNumThreads(1)

    def pipeline(config: Any, blur: float, solarise: float, kernel: Any, seed: int) -> Any:
        strengths = {name: getattr(config, name) for name in ("brightness", "contrast", "saturation", "hue")}
        level = config.solarise_threshold / 255
        steps = {
            albumentations.ColorJitter(**strengths, p=1.0): config.jitter,
            albumentations.ToGray(p=1.0): config.greyscale,
            albumentations.GaussianBlur(blur_limit=kernel, sigma_limit=config.blur_sigma, p=1.0): blur,
            albumentations.Solarize(threshold_range=(level, level), p=1.0): solarise,
        }
        for step, probability in steps.items():
            step.p = probability
        chosen = [step for step, probability in steps.items() if probability]
        end = [albumentations.Normalize(config.mean, config.std), ToTensorV2()]
        return albumentations.Compose([*chosen, *end], seed=seed)

    def side(part: str, pixels: dict[int, Any], seed: int, kernel: Any) -> Callable[[int], list[float]]:
        import torch

        config, jobs = _config(part), []
        for crop in (config.global_views, config.local_views):
            arrays = [np.ascontiguousarray(view.permute(1, 2, 0).numpy()) for view in pixels[crop.size]]
            each, made = len(arrays) // crop.count, []
            for view in range(crop.count):
                blur, solarise = crop.blur[view % len(crop.blur)], crop.solarise[view % len(crop.solarise)]
                compose = pipeline(config, blur, solarise, kernel, seed + view)
                made.append((compose, arrays[view * each : (view + 1) * each]))
            jobs.append(made)

        def run_all(number: int) -> list[float]:
            begun = time.process_time()
            done = [[compose(image=image)["image"] for compose, some in made for image in some] for made in jobs]
            ended = time.process_time()
            for tensors in done:
                torch.stack(tensors)
            return [ended - begun, time.process_time() - ended]

        return run_all

    def sides(part: str, pixels: dict[int, Any], seed: int) -> dict[str, Callable[[int], list[float]]]:
        if part not in ("whole", "blur"):
            return {"albumentations": side(part, pixels, seed, 0)}
        kernels = {"by sigma": 0, "13 wide": (13, 13)}
        return {f"albumentations, {name}": side(part, pixels, seed, kernel) for name, kernel in kernels.items()}

    return sides, albumentations.__version__


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
