"""``foundation bench stream``: our exact loader against plain webdataset and torchvision's ImageFolder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Samples per second of three loaders over the same image files: ours (every sample once per epoch, resumable anywhere,
the same whatever the workers), plain webdataset (shuffled shards and a shuffle buffer, as its documentation has it) and
torchvision's ImageFolder behind a shuffling DataLoader. Decoder, crop (torchvision's random resized crop to --size,
bicubic, antialiased), flip, normalisation, batch size and workers are the same. The samples are written anew as eight
shards and as a folder of files; one round reads them all, start of the workers included, the loaders in turn. Reported
are medians of wall time and of processor time (workers included); on a machine with other work, trust the latter."""

SHARDS = 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.files import output_file
    from foundation.ranges import Count, Side, Workers, argument

    parser.add_argument("shards", help="shards of images, e.g. 'photos/photos-*.tar'")
    parser.add_argument(
        "--samples",
        type=argument(Count),
        default=1000,
        help="samples of a round, in whole batches (default: 1000); files are repeated",
    )
    parser.add_argument("--batch", type=argument(Count), default=64, help="samples per batch (default: 64)")
    parser.add_argument("--size", type=argument(Side), default=224, help="side of the crop, pixels (default: 224)")
    parser.add_argument(
        "--workers", type=argument(Workers), nargs="+", default=[1, 2], help="loader processes (default: 1 2)"
    )
    parser.add_argument("--rounds", type=argument(Count), default=5, help="rounds of each, in turn (default: 5)")
    parser.add_argument("--json", type=output_file, help="also write the figures there")


def run(arguments: argparse.Namespace) -> int:
    import json
    import statistics
    import tempfile

    import torch
    from rich.console import Console
    from rich.table import Table
    from tqdm import tqdm

    from foundation.files import write_output

    torch.set_num_threads(1)
    arguments.samples = max(1, arguments.samples // arguments.batch) * arguments.batch
    with tempfile.TemporaryDirectory() as folder:
        kinds = write(arguments.shards, arguments.samples, Path(folder))
        roads = {"foundation": ours, "webdataset": webdataset, "ImageFolder": image_folder}
        figures: dict[str, Any] = {"torch": torch.__version__, **vars(arguments)}
        figures |= {"shards": None, "json": None, "files": kinds, "exactness": exactness(Path(folder), arguments)}
        table = Table(title=f"Samples/s: {arguments.samples} ({kinds}), batch {arguments.batch}, crop {arguments.size}")
        for column in ("workers", "loader", "wall", "processor", "ours / it, wall", "ours / it, processor"):
            table.add_column(column, justify="left" if column == "loader" else "right")
        for workers in arguments.workers:
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in roads}
            for number in tqdm(range(arguments.rounds + 1), desc=f"{workers} workers", disable=None):
                for name, road in roads.items():
                    spent = measure(road, Path(folder), arguments, workers)
                    if number:  # the first round warms the page cache
                        times[name].append(spent)
            for name, rounds in times.items():
                wall, processor = (statistics.median(column) for column in zip(*rounds, strict=True))
                pairs = list(zip(times["foundation"], rounds, strict=True))
                ratios = [[theirs[which] / own[which] for own, theirs in pairs] for which in (0, 1)]
                figures[f"{name}, {workers} workers"] = {
                    "samples_per_second": arguments.samples / wall,
                    "samples_per_processor_second": arguments.samples / processor,
                    "ratio_by_wall_time": [statistics.median(ratios[0]), min(ratios[0]), max(ratios[0])],
                    "ratio_by_processor_time": [statistics.median(ratios[1]), min(ratios[1]), max(ratios[1])],
                }
                shown = [f"{statistics.median(r):.2f} ({min(r):.2f}-{max(r):.2f})" for r in ratios]
                rates = (f"{arguments.samples / wall:.0f}", f"{arguments.samples / processor:.0f}")
                table.add_row(str(workers), name, *rates, *(shown if name != "foundation" else ("", "")))
        cost = figures["exactness"]
        table.caption = (
            f"finding the samples of a batch in the order: {cost['order']:.1f} microseconds per sample; "
            f"random numbers by counter: {cost['draws']:.1f}"
        )
    Console().print(table)
    if arguments.json:
        write_output(arguments.json, json.dumps(figures, indent=2) + "\n")
    return 0


def write(patterns: str, samples: int, folder: Path) -> str:
    """Write the images as eight shards and as single files; returns what kinds of files they are."""
    from foundation.data.shards import open_shards, write_shards
    from foundation.modalities.image.decode import find_member

    shards = open_shards(patterns)
    kinds: set[str] = set()
    written = []
    (folder / "files" / "all").mkdir(parents=True)
    for number in range(samples):
        raw = shards.read(*shards.locate(number % shards.num_samples))
        member = find_member(raw)
        assert member is not None, raw["__key__"]
        kinds.add(member)
        written.append({"__key__": f"{number:06d}", member: raw[member]})
        (folder / "files" / "all" / f"{number:06d}.{member}").write_bytes(raw[member])
    write_shards(written, folder / "shards", "train", samples_per_shard=-(-samples // SHARDS))
    return ", ".join(sorted(kinds))


def measure(road: Any, folder: Path, arguments: argparse.Namespace, workers: int) -> tuple[float, float]:
    """Wall and processor seconds (this process and its workers) of one pass."""
    import os
    import time

    begin, used = time.perf_counter(), sum(os.times()[:4])
    seen = road(folder, arguments, workers)
    assert seen == arguments.samples, f"{road.__name__}: {seen} of {arguments.samples} samples"
    return time.perf_counter() - begin, sum(os.times()[:4]) - used


class Transform:
    """Decoded image to [3, S, S] uint8: torchvision's random resized crop and flip, from its own generator."""

    def __init__(self, size: int) -> None:
        from torchvision.transforms import v2

        mode = v2.InterpolationMode.BICUBIC
        crop = v2.RandomResizedCrop(size, scale=(0.4, 1.0), interpolation=mode, antialias=True)
        self.steps = v2.Compose([crop, v2.RandomHorizontalFlip(0.5)])

    def __call__(self, image: Any) -> Any:
        return self.steps(image)


class Views:
    """The same crop and flip for our loader: drawn by counter, resampled by torchvision's kernel."""

    def __init__(self, size: int) -> None:
        self.size = size

    def describe(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        return {"global": (1, (3, self.size, self.size))}

    def draw(self, images: list[Any], draws: Any) -> tuple[Any, Any]:
        import numpy as np

        from foundation.modalities.image import geometry

        sizes = np.array([image.shape[1:] for image in images], np.int64)
        uniforms = draws.uniform("crop", geometry.CROP_DRAWS)
        boxes = geometry.crop_boxes(uniforms, sizes[:, 0], sizes[:, 1], (0.4, 1.0), (3 / 4, 4 / 3))
        return boxes, draws.uniform("flip", 1)[:, 0] < 0.5

    def prepare(self, samples: list[Any], draws: Any) -> Any:
        import torch
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as F

        images = [sample["image"] for sample in samples]
        boxes, flips = self.draw(images, draws)
        views = []
        for image, box, flip in zip(images, boxes.tolist(), flips.tolist(), strict=True):
            view = F.resized_crop(image, *box, [self.size, self.size], InterpolationMode.BICUBIC, antialias=True)
            views.append(F.horizontal_flip(view) if flip else view)
        return torch.stack(views)

    def finish(self, prepared: Any) -> Any:
        import torch

        from foundation.types import View

        rows = len(prepared)
        ids, geometry = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, 2, 3)
        return {"global": View(normalise(prepared), "image", "global", 1, ids, geometry)}


def normalise(pixels: Any) -> Any:
    """uint8 [B, 3, S, S] as normalised float32."""
    import torch

    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return pixels.float().sub_(mean).div_(std)


def collate(pairs: list[Any]) -> tuple[Any, list[str]]:
    """Pairs of (pixels, key) as a batch."""
    import torch

    return normalise(torch.stack([pixels for pixels, _ in pairs])), [key for _, key in pairs]


def ours(folder: Path, arguments: argparse.Namespace, workers: int) -> int:
    """Samples that our loader gave."""
    from foundation.data.pipeline import TrainingPipeline
    from foundation.data.shards import open_shards
    from foundation.data.sources import single
    from foundation.data.stream import build_loader
    from foundation.modalities.image.decode import Config

    stream = single(open_shards(folder / "shards"), seed=0, window=1000)
    pipeline = TrainingPipeline(decode=Config().build(), views=Views(arguments.size))
    settings = {"batch_size": arguments.batch, "global_batch": arguments.batch}
    with build_loader(stream, pipeline, samples=arguments.samples, workers=workers, **settings) as loader:
        return sum(len(batch.keys) for batch in loader)


def webdataset(folder: Path, arguments: argparse.Namespace, workers: int) -> int:
    """Samples that plain webdataset gave."""
    import webdataset
    from torch.utils.data import DataLoader

    from foundation.modalities.image.decode import decode_bytes

    transform = Transform(arguments.size)

    def decode(sample: dict[str, Any]) -> tuple[Any, str]:
        (name,) = (name for name in sample if not name.startswith("__"))
        return transform(decode_bytes(sample[name])), sample["__key__"]

    shards = sorted(str(path) for path in (folder / "shards").glob("*.tar"))
    data = webdataset.WebDataset(shards, shardshuffle=SHARDS, seed=0).shuffle(1000).map(decode)
    loader = DataLoader(data, batch_size=arguments.batch, num_workers=workers, collate_fn=collate)
    return sum(len(keys) for _, keys in loader)


def image_folder(folder: Path, arguments: argparse.Namespace, workers: int) -> int:
    """Samples that torchvision's ImageFolder gave."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    from foundation.modalities.image.decode import decode_bytes

    def load(path: str) -> Any:
        return decode_bytes(Path(path).read_bytes())

    data = ImageFolder(str(folder / "files"), transform=Transform(arguments.size), loader=load)
    loader = DataLoader(data, batch_size=arguments.batch, shuffle=True, num_workers=workers, collate_fn=collate)
    return sum(len(keys) for _, keys in loader)


def exactness(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Microseconds per sample for what only an exact loader does, at a far place of the stream."""
    import time

    import numpy as np
    import torch

    from foundation.data.shards import open_shards
    from foundation.data.sources import single

    stream, views = single(open_shards(folder / "shards"), seed=0, window=1000), Views(arguments.size)
    images = [torch.empty(3, 375, 500, dtype=torch.uint8)] * arguments.batch
    spent = {"order": 0.0, "draws": 0.0}
    for step in range(200):
        positions = np.arange(10**9 + step * arguments.batch, 10**9 + (step + 1) * arguments.batch)
        marks = [time.process_time()]
        located = stream.locate(positions)
        marks.append(time.process_time())
        views.draw(images, stream.draws(located))
        marks.append(time.process_time())
        spent["order"] += marks[1] - marks[0]
        spent["draws"] += marks[2] - marks[1]
    return {name: 1e6 * seconds / (200 * arguments.batch) for name, seconds in spent.items()}


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
