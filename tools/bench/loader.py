"""``foundation bench loader``: samples per second and core from a shard to normalised multi-crop views."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

DESCRIPTION = """\
How many samples one core turns from bytes in a shard into normalised DINO views (2 x 224 + 8 x 96; read, decode, crop,
flip, colour jitter, greyscale, blur, solarise, normalise), against torchvision's transforms on PIL images, image by
image, with the same augmentation. Both run in this process, one thread, in turn, on the same samples with a warm page
cache; the rate counts processor time, so that other work on the machine matters less. Use it pinned to one core."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.files import output_file
    from foundation.ranges import Count, argument

    parser.add_argument("shards", help="shards of photographs, e.g. 'photos/photos-*.tar'")
    parser.add_argument("--batch", type=argument(Count), default=32, help="samples per batch (default: 32)")
    parser.add_argument("--samples", type=argument(Count), default=96, help="samples per round (default: 96)")
    parser.add_argument("--rounds", type=argument(Count), default=5, help="rounds of each, in turn (default: 5)")
    parser.add_argument("--interpolation", choices=("bicubic", "bilinear"), default="bicubic", help="of the resize")
    parser.add_argument(
        "--baseline-blur",
        choices=("pillow", "torchvision"),
        default="pillow",
        help="blur of the baseline: Pillow's, as DINO's code has it (the quicker one), or torchvision's",
    )
    parser.add_argument("--no-baseline", action="store_true", help="leave torchvision out")
    parser.add_argument(
        "--device-program", action="store_true", help="time also the program that an accelerator runs, here on the CPU"
    )
    parser.add_argument("--json", type=output_file, help="also write the figures there")


def run(arguments: argparse.Namespace) -> int:
    import json
    import statistics
    from dataclasses import replace

    import torch
    from rich.console import Console
    from rich.table import Table
    from tqdm import tqdm

    from foundation.data.shards import open_shards
    from foundation.files import write_output
    from foundation.modalities.image import views

    torch.set_num_threads(1)
    shards = open_shards(arguments.shards)
    count = min(arguments.samples, shards.num_samples)
    places = [shards.locate(i) for i in range(count)]
    config = replace(views.published("dino"), interpolation=arguments.interpolation)
    roads: dict[str, Any] = {"foundation": Road(shards, places, arguments.batch, config.build(False))}
    if arguments.device_program:
        roads["device program"] = Road(shards, places, arguments.batch, config.build(True))
    if not arguments.no_baseline:
        roads["torchvision"] = Baseline(shards, places, arguments.batch, config, arguments.baseline_blur)

    times: dict[str, list[dict[str, float]]] = {name: [] for name in roads}
    for road in roads.values():
        road.round()  # warm page cache, imports, working memory
    for _ in tqdm(range(arguments.rounds), desc="rounds", disable=None):
        for name, road in roads.items():
            times[name].append(road.round())

    figures: dict[str, Any] = {
        "samples_per_round": count,
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "interpolation": arguments.interpolation,
        "baseline_blur": arguments.baseline_blur,
        "torch": torch.__version__,
    }
    table = Table(
        title=f"{count} samples, batch {arguments.batch}, {arguments.interpolation}, one core, processor time"
    )
    for column in ("road", "samples/s", "ms/sample", "of which"):
        table.add_column(column, justify="left" if column in ("road", "of which") else "right")
    for name, rounds in times.items():
        stages = {stage: statistics.median(r[stage] for r in rounds) / count for stage in rounds[0]}
        total = statistics.median(sum(r.values()) for r in rounds) / count
        figures[name.replace(" ", "_")] = {
            "samples_per_second": 1.0 / total,
            "milliseconds_per_sample": {stage: 1e3 * seconds for stage, seconds in stages.items()},
        }
        parts = ", ".join(f"{stage} {1e3 * seconds:.2f}" for stage, seconds in stages.items())
        table.add_row(name, f"{1 / total:.1f}", f"{1e3 * total:.2f}", parts)
    decode = statistics.median(r["read"] + r["decode"] for r in times["foundation"]) / count
    figures["decode_only_samples_per_second"] = 1.0 / decode
    table.add_row("decode only (the limit)", f"{1 / decode:.1f}", f"{1e3 * decode:.2f}", "")
    if "torchvision" in times:
        pairs = zip(times["foundation"], times["torchvision"], strict=True)
        ratios = [sum(b.values()) / sum(a.values()) for a, b in pairs]
        figures["ratio"], figures["ratio_min"], figures["ratio_max"] = (
            statistics.median(ratios),
            min(ratios),
            max(ratios),
        )
        table.caption = f"foundation / torchvision: {figures['ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    Console().print(table)
    if arguments.json:
        write_output(arguments.json, json.dumps(figures, indent=2) + "\n")
    return 0


class Road:
    """This project's road, stage by stage."""

    def __init__(self, shards: Any, places: list[tuple[int, int]], batch: int, make: Any) -> None:
        self.shards, self.places, self.batch, self.make, self.epoch = shards, places, batch, make, 0

    def round(self) -> dict[str, float]:
        """Processor seconds per stage for all samples once; another epoch, so other crops, each time."""
        import time

        import numpy as np

        from foundation.counter import Draws
        from foundation.modalities.image.decode import decode

        clock = time.process_time
        spent = dict.fromkeys(("read", "decode", "geometric", "photometric"), 0.0)
        for start in range(0, len(self.places), self.batch):
            marks = [clock()]
            raws = [self.shards.read(*place) for place in self.places[start : start + self.batch]]
            marks.append(clock())
            samples = [decode(raw) for raw in raws]
            marks.append(clock())
            ids = np.array([sample["__id__"] for sample in samples])
            prepared = self.make.prepare(samples, Draws(0, np.full_like(ids, self.epoch), ids))
            marks.append(clock())
            self.make.finish(prepared)
            marks.append(clock())
            for name, begin, end in zip(spent, marks, marks[1:], strict=False):
                spent[name] += end - begin
        self.epoch += 1
        return spent


class Baseline:
    """torchvision's transforms on PIL images: DINO's augmentation, composed from its building blocks."""

    def __init__(self, shards: Any, places: list[tuple[int, int]], batch: int, config: Any, blur: str) -> None:
        try:
            from torchvision import transforms as T
        except Exception as error:
            from foundation.errors import UserError

            raise UserError(
                f"torchvision cannot be imported ({error}); install the version that fits your torch "
                "(torch 2.N goes with torchvision 0.(N + 15)), or use --no-baseline"
            ) from error
        import random

        from PIL import ImageFilter

        self.shards, self.places, self.batch = shards, places, batch
        mode = getattr(T.InterpolationMode, config.interpolation.upper())

        def pillow_blur(image: Any) -> Any:
            return image.filter(ImageFilter.GaussianBlur(random.uniform(*config.blur_sigma)))

        smooth = pillow_blur if blur == "pillow" else T.GaussianBlur(13, config.blur_sigma)
        jitter = T.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)

        def view(crop: Any, number: int) -> Any:
            probability, invert = crop.blur[number % len(crop.blur)], crop.solarise[number % len(crop.solarise)]
            return T.Compose(
                [
                    T.RandomResizedCrop(crop.size, scale=crop.scale, ratio=config.aspect, interpolation=mode),
                    T.RandomHorizontalFlip(config.flip),
                    T.RandomApply([jitter], p=config.jitter),
                    T.RandomGrayscale(config.greyscale),
                    T.RandomApply([T.Lambda(smooth)], p=probability),
                    *([T.RandomSolarize(config.solarise_threshold, p=invert)] if invert else []),
                    T.ToTensor(),
                    T.Normalize(config.mean, config.std),
                ]
            )

        self.roles = [
            [view(crop, number) for number in range(crop.count)] for crop in (config.global_views, config.local_views)
        ]

    def round(self) -> dict[str, float]:
        """Processor seconds per stage for all samples once."""
        import io
        import time

        import torch
        from PIL import Image

        clock = time.process_time
        spent = dict.fromkeys(("read", "decode", "views"), 0.0)
        for start in range(0, len(self.places), self.batch):
            marks = [clock()]
            raws = [self.shards.read(*place) for place in self.places[start : start + self.batch]]
            marks.append(clock())
            images = [Image.open(io.BytesIO(raw["jpg"])).convert("RGB") for raw in raws]
            marks.append(clock())
            for role in self.roles:
                torch.stack([view(image) for view in role for image in images])
            marks.append(clock())
            for name, begin, end in zip(spent, marks, marks[1:], strict=False):
                spent[name] += end - begin
        return spent


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
