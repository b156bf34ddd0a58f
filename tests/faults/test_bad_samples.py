"""One bad sample never ends a run, and it is counted once: in every epoch, every process and after every restart."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from foundation.data.index import default_decoding
from foundation.data.shards import open_shards
from foundation.data.stream import iterate_samples
from foundation.errors import DataBudgetError, UserError
from foundation.modalities.imu.decode import Config as ImuDecode
from foundation.run.data_guard import BAD_SAMPLES, DataGuard, read
from foundation.run.run_folder import RunFolder
from foundation.types import BadSample
from tests.faults.conftest import found_by, good, picture

FACTS = b'{"imu_rate": 50}'


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def readings(place: int, worst: float = 0.0) -> np.ndarray:
    values = np.random.default_rng(place).standard_normal((200, 6)) * 0.05
    values[:, 2] += 1.0
    values[3, 1] += worst
    return values


def one_byte_of_a_header() -> bytes:
    data = bytearray(npy(readings(0)))
    place = data.index(b"'fortran")
    data[place - 1 : place + 1] = b"\n("  # NumPy hands such a header to tokenize
    return bytes(data)


IMU = {
    "header": (one_byte_of_a_header, "decode", "TokenError"),
    "inf": (lambda: npy(readings(0, 1e300)), "not_finite", "is 1e+300"),
    "large": (lambda: npy(readings(0, 1e30)), "not_finite", "beyond 1e+15"),
}


@pytest.mark.slow
@pytest.mark.fault(19, "a byte of an npy header, a reading of 1e300, a reading of 1e30 in a run of many epochs")
def test_bad_recordings_are_left_out_and_counted_once(shard, verified, foundation, metrics, happened, tmp_path):
    bad = [(f"bad-{name}.{part}", data) for name, (make, *_) in IMU.items() for part, data in
           (("npy", make()), ("json", FACTS))]  # fmt: skip
    members = [m for n in range(9) for m in ((f"s{n}.npy", npy(readings(n))), (f"s{n}.json", FACTS))]
    path = shard([*members, *bad], indexed=True)
    words = (
        "pretrain", "quickstart-imu", f"data.shards=['{path}']", "probes=[]", "train.batch_size=4",
        "data.workers=0", "train.device=cpu", "train.length=12 steps", "train.log_every=1", "--run", tmp_path / "run",
    )  # fmt: skip
    result = foundation(*words, "data.max_bad_samples=3")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("skipped: ") == 3
    last = metrics(tmp_path / "run")[-1]
    assert last["data/bad_samples"] == 3 and last["data/skipped"] > 6
    listed = [json.loads(line) for line in (tmp_path / "run" / BAD_SAMPLES).read_text().splitlines()]
    said = {line["key"].removeprefix("bad-"): (line["reason"], line["detail"]) for line in listed}
    assert len(listed) == 3 and all(line["shard"] == str(path) for line in listed)
    for name, (_, reason, words_) in IMU.items():
        assert said[name][0] == reason and words_ in said[name][1], said
    errors: list[Any] = []
    assert len(list(iterate_samples(open_shards(path), ImuDecode().build(), errors))) == 9
    assert {error.key: error.reason for error in errors} == {line["key"]: line["reason"] for line in listed}
    found = verified(path, decode=True, modality="imu")
    assert {p.key for p in found.problems if p.severity == "error"} == {line["key"] for line in listed}
    happened("each is named once and listed in bad-samples.jsonl, the run goes on; verify --decode says the same")


@pytest.mark.fault(19, "a damaged npz (zlib.error)")
def test_verify_survives_a_damaged_npz(shard, verified, happened):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy(readings(1)))
    data = bytearray(buffer.getvalue())
    data[40:60] = bytes(20)
    path = shard([("s0.npz", bytes(data)), ("s1.npz", buffer.getvalue())])
    ((_, key, _, detail),) = found_by(verified(path), "decode")
    assert key == "s0" and "error" in detail
    happened("verify: decode, naming shard and key; the other samples are looked at")


@pytest.mark.slow
@pytest.mark.fault(17, "bad samples met by two processes in several epochs")
def test_processes_count_each_bad_sample_once(tiny_recipe_file, shard, foundation, metrics, happened, tmp_path):
    path = shard([*good(14), ("s900.png", b"no picture"), ("s901.png", picture()[:-300])], indexed=True)
    run = tmp_path / "run"
    words = ("pretrain", tiny_recipe_file, f"data.shards=['{path}']", "--processes", "2", "--run", run)
    result = foundation(*words, "data.max_bad_samples=2", "checkpoints.every=100 steps")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("skipped: ") == 2
    assert sorted(read(run / BAD_SAMPLES).values()) == ["decode", "truncated"]
    assert len((run / BAD_SAMPLES).read_text().splitlines()) == 2
    last = metrics(run)[-1]
    assert last["data/bad_samples"] == 2 and last["data/skipped"] > 4
    happened("each is told of and listed once, whichever process meets it first and however often")


@pytest.mark.fault(17, "more distinct bad samples after a restart than a lowered data.max_bad_samples")
def test_a_restart_remembers_what_was_bad(tiny_recipe, train, shard, happened, tmp_path):
    path = shard([*good(6), ("s900.png", b"no picture"), ("s901.png", picture()[:-300])])
    settings = ("train.batch_size=4", "checkpoints.every=2 steps")
    train(tiny_recipe(*settings, "train.stop_after=4 steps", shards=path), tmp_path / "run")
    assert len(read(tmp_path / "run" / BAD_SAMPLES)) == 2
    with pytest.raises(DataBudgetError, match=r"2 bad samples \(decode 1, truncated 1\).*bad-samples\.jsonl"):
        train(tiny_recipe(*settings, "data.max_bad_samples=1", shards=path), tmp_path / "run")
    happened("exit 3 at the next bad sample, naming the list")


@pytest.mark.fault(10, "the list of bad samples cannot be written")
def test_a_list_that_cannot_be_written_is_said_once(tiny_recipe, train, shard, happened, tmp_path, capfd):
    path = shard([*good(8), ("s900.png", b"no picture"), ("s901.png", b"none")])
    (tmp_path / "run" / BAD_SAMPLES).mkdir(parents=True)
    trainer = train(tiny_recipe("train.length=5 steps", shards=path), tmp_path / "run")
    assert trainer.progress.step == 5 and trainer.data_guard.distinct == 2
    said = capfd.readouterr().err.splitlines()
    assert len([line for line in said if "cannot write" in line and BAD_SAMPLES in line]) == 1
    happened("said once; the run goes on and counts in memory")


def test_half_a_line_of_the_list_spoils_no_other(tmp_path):
    path = tmp_path / BAD_SAMPLES
    path.write_bytes(b'{"number": 3, "reason": "decode"}\n{"number": 1e400, "reason": "x"}\n[]\n{"number": 4, "rea')
    guard = DataGuard(10, 100, RunFolder(tmp_path), print)
    assert guard.distinct == 1
    guard.see(
        SimpleNamespace(skipped={}, notes={}, bad=[BadSample(9, "train-000000.tar", "s9", "shape", "7 channels")])
    )
    guard.spend()
    assert read(path) == {3: "decode", 9: "shape"}


def test_a_share_of_the_samples_may_be_bad(tiny_recipe, tmp_path: Path):
    for allowed, limit in (("0.01", 12), ("0", 0)):
        data = tiny_recipe(f"data.max_bad_samples={allowed}").data
        assert DataGuard(data.max_bad_samples, 1_250, RunFolder(tmp_path), print).limit == limit
    for wrong in ("-1", "2.5", ".inf", ".nan"):
        with pytest.raises(UserError, match="max_bad_samples"):
            tiny_recipe(f"data.max_bad_samples={wrong}")


def sound(worst: float) -> bytes:
    """A WAV of float64 samples."""
    samples = np.sin(np.arange(8_000) / 20) * 0.3
    samples[100] = worst
    form, data = struct.pack("<HHIIHH", 3, 1, 8_000, 64_000, 8, 64), samples.astype("<f8").tobytes()
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def cloud(worst: float) -> bytes:
    points = np.random.default_rng(0).random((2_000, 3))
    points[7, 2] = worst
    return npy(points)


@pytest.mark.parametrize(
    ("modality", "extension", "make", "worst"),
    [
        *[("audio", "wav", sound, worst) for worst in (1e300, 1e30, np.nan)],
        *[("points", "npy", cloud, worst) for worst in (1e300, 1e30, np.nan)],
        # A reading of NaN is one that is missing: it costs its row, not the recording.
        *[("imu", "npy", lambda worst: npy(readings(0, worst)), worst) for worst in (1e300, 1e30)],
    ],
)
@pytest.mark.fault(21, "float64 numbers of 1e300 and 1e30 in sound, clouds and readings, which float32 cannot hold")
def test_numbers_that_a_cast_would_spoil_are_refused(shard, verified, happened, modality, extension, make, worst):
    path = shard([(f"s0.{extension}", make(0.1)), (f"s1.{extension}", make(worst))])
    decode = config_of(modality).build()
    errors: list[Any] = []
    kept = [sample["__key__"] for sample in iterate_samples(open_shards(path), decode, errors)]
    assert kept == ["s0"] and [(error.key, error.reason) for error in errors] == [("s1", "not_finite")], errors
    found = verified(path, decoding=config_of(modality))
    assert {(problem.key, problem.reason) for problem in found.problems if problem.severity == "error"} == {
        ("s1", "not_finite")
    }
    happened("not_finite, naming shard and key, in training and verify alike")


def config_of(modality: str) -> Any:
    return ImuDecode(rate=50.0) if modality == "imu" else default_decoding(modality)
