"""Attention alone, by each way that the machine has, and the rule that follows for ``auto``."""

from __future__ import annotations

TITLE = "Packed attention alone, forward and backward, 2 x 197 + 8 x 37 tokens of each sample, bfloat16"
SECONDS = 45.0


def measure(part) -> None:
    import torch

    from foundation.measure.attention import compare, multi_crop, quickest, rule

    batch, rounds, names = (1, 2, ["ViT-S"]) if part.rehearse else (64, 10, ["ViT-L", "ViT-S"])
    found = []
    for work in multi_crop(names, batch, [torch.bfloat16]):
        results = list(compare(work, part.device, rounds, part.settings.seed))
        found += results
        for one in quickest(results):
            part.row(
                case=work.name, batch=batch, way=one.way, milliseconds=1e3 * one.speed.seconds,
                peak_gib=None if one.speed.peak_bytes is None else one.speed.peak_bytes / 2**30, error=one.error,
            )  # fmt: skip
        for one in results:
            if one.problem:
                part.note(f"{work.name}, {one.way}: {one.problem}")
    part.note(f"the order that follows (time over the quickest): {rule(found)}")
