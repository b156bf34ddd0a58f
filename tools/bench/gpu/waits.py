"""How often the host waits for the device in a step, and what it launches."""

from __future__ import annotations

TITLE = "Waits of the host and launches of a step"
SECONDS = 60.0


def measure(part) -> None:
    from foundation.measure.recipes import dinov2
    from foundation.measure.steps import Steps
    from foundation.measure.waits import host_waits, launches

    batch = 2 if part.rehearse else 32
    steps = Steps(dinov2("small", batch, tiny=part.rehearse), batch, part.settings.seed)
    steps.speed(rounds=1, warm_up=2)

    def step() -> dict:
        with host_waits() as waits:
            steps.step()
        for place, number in waits.places.most_common(5):
            part.note(f"step of ViT-S/16, waits at {place}: {number}")
        return {"batch": batch, "host_waits": waits.count}

    def launched() -> dict:
        found = launches(steps.step)
        return {
            "batch": batch, "kernels": found.kernels, "graphs": found.graphs, "operators": found.operators,
            "kernel_milliseconds": None if found.device_seconds is None else 1e3 * found.device_seconds,
        }  # fmt: skip

    part.case("one step of ViT-S/16 on views that are there", step)
    part.case("launches of that step", launched)
    part.case("a step of a whole run (quickstart)", lambda: of_runs(part), seconds=20.0)


def of_runs(part) -> dict:
    """Waits of a step of a run, loader, guards and metrics included: what a longer run waits more than a shorter."""
    import tempfile
    from pathlib import Path

    from foundation.cli import main
    from foundation.measure.parity import make_shards
    from foundation.measure.waits import host_waits

    lengths, counts = ((2, 4) if part.rehearse else (5, 25)), []
    with tempfile.TemporaryDirectory() as folder:
        make_shards("letters", Path(folder) / "shards", 32)
        for length in lengths:
            words = [
                f"data.shards=[{folder}/shards/train-*.tar]",
                "train.batch_size=32",
                f"train.length={length} steps",
            ]
            words += ["train.log_every=1000", "checkpoints.every=1000 steps", "data.workers=1"]
            with host_waits() as waits:
                code = main(["pretrain", "quickstart", *words, "--run", f"{folder}/run{length}"])
            if code:
                raise RuntimeError(f"the run ended with exit code {code}: its message is in parts/waits.log")
            counts.append(waits)
    further = counts[1].places - counts[0].places
    for place, number in further.most_common(8):
        part.note(f"a run, waits at {place}: {number} in {lengths[1] - lengths[0]} steps")
    return {"batch": 32, "host_waits": (counts[1].count - counts[0].count) / (lengths[1] - lengths[0])}
