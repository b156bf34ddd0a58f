"""Images per second from JPEG files to finished views, by where the work is done."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from foundation import counter
from foundation.data.shards import open_shards, write_shards
from foundation.data.sources import single
from foundation.data.stream import build_loader
from foundation.engine.feed import Feed
from foundation.measure.timing import measure
from foundation.run import build
from foundation.run.recipe import Recipe

Road = Literal["device", "colours on the device", "workers"]
ROADS: dict[Road, str] = {
    "device": "workers decode; crops and colours on the device",
    "colours on the device": "workers decode and crop; colours on the device",
    "workers": "workers decode, crop and change colours",
}


@dataclass(frozen=True)
class Flow:
    """What a road gives.

    Attributes:
        per_second: images that come out finished on the device.
        workers: processes.
    """

    per_second: float
    workers: int


def write_photographs(folder: Path, count: int, seed: int, size: tuple[int, int] = (375, 500)) -> None:
    """Shards of JPEGs of about the size of photographs: smooth areas of all colours, and some noise."""
    write_shards(_photographs(count, seed, size), folder, "train")


def _photographs(count: int, seed: int, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    for number in range(count):
        numbers = counter.uniform(seed, 0, number, "photograph", 8 * 8 * 3)[0].reshape(8, 8, 3)
        smooth = Image.fromarray((255 * numbers).astype(np.uint8)).resize((size[1], size[0]), Image.Resampling.BICUBIC)
        noise = counter.uniform(seed, 0, number, "noise", size[0] * size[1])[0].reshape(*size, 1) - 0.5
        pixels = np.clip(np.asarray(smooth, np.float32) + 20 * noise, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        yield {"__key__": f"{number:05d}", "jpg": buffer.getvalue()}


def views_of(recipe: Recipe, road: Road) -> Any:
    """The view maker that takes a road."""
    placement = "device" if road == "device" else "workers"
    return replace(recipe.views, placement=placement).build(road != "workers")


def flow(recipe: Recipe, road: Road, folder: Path, device: torch.device, workers: int, seconds: float) -> Flow:
    """Let the loader run as fast as it can, with no step between batches.

    Args:
        recipe: with views of images.
        road: where the work is done.
        folder: of the shards.
        device: on which views are wanted.
        workers: processes of the loader.
        seconds: to measure, behind the first batches.
    """
    views, size = views_of(recipe, road), recipe.train.batch_size
    on_gpu = device.type == "cuda"
    loader = build_loader(
        single(open_shards(folder), seed=recipe.seed, window=100),
        build.pipeline(recipe, views, road == "workers"),
        batch_size=size,
        global_batch=size,
        workers=workers,
        pin_memory=on_gpu,
        timeout=60.0 if workers else 0.0,
    )
    with Feed(loader, device, views.finish) as feed:
        for _ in range(max(2, workers)):  # what the workers had ready before the clock starts
            next(feed)
            feed.prefetch()
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            next(feed)
            feed.prefetch()
            count += size
            if on_gpu:
                torch.cuda.current_stream(device).synchronize()
        return Flow(count / (time.perf_counter() - start), workers)


def device_half(recipe: Recipe, road: Road, folder: Path, device: torch.device) -> float:
    """Images per second of the device's half alone, on one batch that is there already."""
    views, size = views_of(recipe, road), recipe.train.batch_size
    stream = single(open_shards(folder), seed=recipe.seed, window=100)
    pipeline = build.pipeline(recipe, views, False)
    loader = build_loader(stream, pipeline, batch_size=size, global_batch=size, samples=size)
    pending = next(iter(loader)).pending.to(device)
    loader.close()
    return size / measure(lambda: views.finish(pending), device, rounds=5, warm_up=2).seconds


def gpu_decoding(folder: Path, device: torch.device, count: int) -> float:
    """Images per second of torchvision's JPEG decoder on the GPU, whole batches.

    Raises:
        ImportError: torchvision cannot be used.
        RuntimeError: it was built without that decoder.
    """
    from torchvision.io import decode_jpeg

    shards = open_shards(folder)
    raws = [shards.read(*shards.locate(number))["jpg"] for number in range(min(count, shards.num_samples))]
    files = [torch.frombuffer(bytearray(raw), dtype=torch.uint8) for raw in raws]
    return len(files) / measure(lambda: decode_jpeg(files, device=device), device, rounds=5, warm_up=2).seconds
