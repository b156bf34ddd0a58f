"""Fixtures that the whole suite shares."""

from __future__ import annotations

import importlib
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the processors: before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

RECIPE = """
name: tiny
data: {{shards: ["{shards}"], workers: 0, shuffle_window: 16}}
views:
  name: image
  global_views: {{count: 2, size: 16, scale: [0.4, 1.0]}}
  local_views: {{count: 2, size: 8, scale: [0.1, 0.4], blur: [0.0]}}
  blur_sigma: [0.1, 1.0]
masking: {{}}
encoder: {{name: vit, preset: null, width: 32, depth: 2, heads: 2, size: [16, 16], drop_path: 0.2,
  tokenizer: {{name: image, patch_size: 4}}}}
heads:
  cls: {{prototypes: 32, hidden: 32, bottleneck: 16}}
objectives:
  - {{name: dino}}
  - {{name: ibot, target: sinkhorn}}
  - {{name: koleo, weight: 0.1}}
optimizer: {{learning_rate: 1e-3, freeze_last_layer: 0 steps}}
train: {{length: 8 steps, batch_size: 8, log_every: 1, precision: float32, device: cpu}}
checkpoints: {{every: 3 steps}}
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", type=Path, metavar="PAGE", help="rewrite the faults in PAGE (with '=' before it)")


def pytest_configure(config: pytest.Config) -> None:
    from tests.fault_table import FaultTable

    config.pluginmanager.register(FaultTable(config.getoption("--fault-table")), "fault-table")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copies of shards and features of an earlier suite, under the same address, would answer for this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("FOUNDATION_CACHE", raising=False)
        yield


def _shared(name: str) -> Path:
    base = Path(os.environ.get("FOUNDATION_TEST_DATA", ROOT.parent / "shared" / "data"))
    path = base.parent / "golden" if name == "golden" else base / name
    if not path.exists():
        pytest.skip(
            f"no {name} beside the checkout: set FOUNDATION_TEST_DATA to the folder that holds the test data sets"
        )
    return path


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """``shared_data("cifar10")``: folder of a small real data set, or a skip that says what is missing."""
    return _shared


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """``golden("01_dinov2_vit_mlp")``: arrays that a reference implementation computed, or a skip."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(_shared("golden") / f"{name}.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    return load


@pytest.fixture(scope="session")
def timm_itself() -> None:
    """Skips what needs timm where it cannot be imported."""
    try:
        importlib.import_module("timm")
    except Exception as error:  # a wheel for another torchvision fails in many ways
        pytest.skip(f"timm cannot be imported: {error}")


@pytest.fixture
def happened(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """``happened("checksum mismatch in student.safetensors; step 4 used")``: for the table in docs/reliability.md."""
    return lambda text: request.node.user_properties.append(("happened", text))


def image_bytes(place: int, size: int = 20) -> bytes:
    """A PNG that differs from sample to sample."""
    from PIL import Image

    pixels = np.random.default_rng(place).integers(0, 256, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 images in 2 shards."""
    from foundation.data.shards import write_shards

    out = tmp_path_factory.mktemp("shards")
    samples = ({"__key__": f"s{i:03d}", "png": image_bytes(i), "cls": str(i % 4).encode()} for i in range(40))
    write_shards(samples, out, "train", samples_per_shard=20)
    return str(out / "train-*.tar")


@pytest.fixture
def tiny_recipe(tiny_shards: str) -> Callable[..., Any]:
    """``tiny_recipe("train.length=4 steps")``: the recipe with overrides."""

    def make(*overrides: str, shards: str = tiny_shards) -> Any:
        from foundation import config
        from foundation.run.recipe import Recipe

        return config.load(Recipe, RECIPE.format(shards=shards), overrides)

    return make


@pytest.fixture
def tiny_recipe_file(tiny_shards: str, tmp_path: Path) -> Path:
    """The tiny recipe as a user keeps one."""
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(shards=tiny_shards))
    return path


@pytest.fixture
def damaged_shards(tmp_path: Path) -> str:
    """12 images, 3 of which are cut short."""
    from foundation.data.shards import write_shards

    content = [image_bytes(i)[: 60 if i % 4 == 1 else None] for i in range(12)]
    samples = ({"__key__": f"s{i:03d}", "png": data} for i, data in enumerate(content))
    write_shards(samples, tmp_path / "damaged", "train")
    return str(tmp_path / "damaged" / "train-*.tar")


@pytest.fixture(scope="session")
def metrics() -> Callable[[Path], list[dict[str, Any]]]:
    """``metrics(folder)``: lines of a run's metrics."""
    return lambda folder: [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def train() -> Callable[..., Any]:
    """``train(recipe, folder, said)``: a whole run; what it says goes to the list."""

    def run(recipe: Any, folder: Path, said: list[str] | None = None) -> Any:
        from foundation.run.run_folder import RunFolder
        from foundation.run.trainer import Trainer

        with RunFolder(folder) as opened:
            trainer = Trainer(recipe, opened, say=(said if said is not None else []).append)
            trainer.run()
            return trainer

    return run
