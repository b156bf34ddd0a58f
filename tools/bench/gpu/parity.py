"""The CPU against the GPU: views, masks, losses, gradients and one step of each modality's small recipe."""

from __future__ import annotations

TITLE = "Parity with the CPU, float32 without TF32, small recipe of each modality"
SECONDS = 75.0


def measure(part) -> None:
    import tempfile
    from pathlib import Path

    from foundation.measure.parity import SMALL, TOLERANCES, compare

    part.note("tolerances: " + ", ".join(f"{name} {value:g}" for name, value in TOLERANCES.items()))
    samples = 4 if part.rehearse else 16
    for modality, (data, recipe) in SMALL.items():
        with tempfile.TemporaryDirectory() as folder:
            row = part.case(
                modality,
                lambda data=data, recipe=recipe, folder=folder: compare(
                    data, recipe, part.device, Path(folder) / "shards", samples, part.settings.seed
                ),
                seconds=5.0,
            )
        if row is not None and row["within"] != "yes":
            part.fail(f"{modality}: beyond the tolerances")
