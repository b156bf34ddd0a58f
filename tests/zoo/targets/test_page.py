"""The page's blocks of Python run as they stand, on exports of the targets that they are for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from foundation.zoo.targets import export

PAGE = Path(__file__).parents[3] / "docs" / "use-elsewhere.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
PLACES = {"timm": "for-timm", "transformers": "for-transformers", "torch-export": "encoder.pt2", "onnx": "encoder.onnx"}


def test_every_target_but_our_own_has_a_block():
    assert [next(to for to, place in PLACES.items() if place in block) for block in BLOCKS] == [*PLACES]


@pytest.mark.parametrize("to", [pytest.param(to, marks=pytest.mark.slow) for to in PLACES])
def test_the_page_reads_what_was_written(to, image_encoder, tmp_path, monkeypatch):
    pytest.importorskip({"torch-export": "torch", "onnx": "onnxruntime"}.get(to, to))
    monkeypatch.chdir(tmp_path)
    loaded = image_encoder()
    export(loaded, to=to, out=PLACES[to])
    (block,) = [block for block in BLOCKS if PLACES[to] in block]
    found: dict[str, object] = {}
    exec(block, found)
    if to == "transformers":
        view = found["inputs"]["pixel_values"]
    else:
        view = found["view"] if to == "timm" else torch.zeros(4, 3, 32, 32)
    cls = found["tokens"][:, 0] if to == "timm" else torch.as_tensor(found["cls"])
    torch.testing.assert_close(cls, loaded.encoder([view])[0].cls, rtol=1e-4, atol=1e-4)
