"""A profile of steps of ViT-L/16 as a Chrome trace: open it in chrome://tracing or ui.perfetto.dev."""

from __future__ import annotations

TITLE = "Profile of one step of ViT-L/16 (trace.json.gz)"
SECONDS = 60.0
MOST_BYTES = 5_000_000


def measure(part) -> None:
    from foundation.measure.recipes import dinov2
    from foundation.measure.steps import Steps
    from foundation.measure.trace import write_trace

    batch = 2 if part.rehearse else 32
    steps = Steps(dinov2("large", batch, "train.precision=bfloat16", tiny=part.rehearse), batch, part.settings.seed)
    steps.speed(rounds=1, warm_up=2)
    found = write_trace(steps.step, part.settings.folder / "trace.json.gz", part.device, MOST_BYTES)
    part.row(case="trace", bytes=found.bytes, events=found.kinds)
    for name, seconds, count in found.heaviest:
        part.row(case=name, milliseconds=1e3 * seconds, calls=count)
