"""From JPEG files to finished views: on the GPU, or in the loader's workers."""

from __future__ import annotations

TITLE = "Augmentation: images of 375 x 500 pixels to 2 x 224 + 8 x 96 views, no training beside it"
SECONDS = 75.0


def measure(part) -> None:
    import tempfile
    from pathlib import Path

    from foundation.measure.augmentation import ROADS, device_half, flow, gpu_decoding, write_photographs
    from foundation.measure.recipes import dinov2
    from foundation.parallel.threads import default_workers

    batch, images, seconds = (2, 8, 0.2) if part.rehearse else (64, 512, 5.0)
    workers = 1 if part.rehearse else max(1, default_workers())
    recipe = dinov2("small", batch, f"seed={part.settings.seed}", tiny=part.rehearse)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder, images, part.settings.seed)

        def running(road) -> dict:
            found = flow(recipe, road, folder, part.device, workers, seconds)
            rate = found.per_second
            return {"images_per_second": rate, "workers": workers, "images_per_second_and_worker": rate / workers}

        for road, text in ROADS.items():
            part.case(text, lambda road=road: running(road), seconds=seconds + 6)
        for road in ("device", "colours on the device"):
            part.case(
                f"device half alone, of: {ROADS[road]}",
                lambda road=road: {"images_per_second": device_half(recipe, road, folder, part.device)},
            )
        if part.device.type == "cuda":
            part.case(
                "JPEG decoding on the GPU (torchvision)",
                lambda: {"images_per_second": gpu_decoding(folder, part.device, batch)},
            )
        else:
            part.note("JPEG decoding on the GPU: not measured, this machine has no GPU")
