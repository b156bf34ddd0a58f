"""Recordings of inertial sensors: declared columns, units and rate, and every way in which files are bad."""

from __future__ import annotations

import io
import json
import warnings
from typing import Any

import numpy as np
import pytest

from foundation import config
from foundation.data.shards import open_shards
from foundation.errors import REASONS, SampleError, UserError
from foundation.modalities.imu.decode import Config, UnitWarning

G = 9.80665
NAMES = ["acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z"]
HZ50 = json.dumps({"imu_rate": 50}).encode()


def motion(steps: int = 200, rate: float = 50.0, start: float = 0.0) -> np.ndarray:
    """[T, 6] of a body that sways: m/s^2 with gravity along z, rad/s."""
    time = start + np.arange(steps) / rate
    waves = [np.sin(2 * np.pi * (0.7 + 0.4 * i) * time + i) for i in range(6)]
    return np.stack([*waves[:2], G + waves[2], *waves[3:]], axis=1)


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def table(values: np.ndarray, names: list[str], sign: str = ",") -> bytes:
    rows = [sign.join(names)] if names else []
    rows += [sign.join(repr(float(number)) for number in row) for row in values]
    return ("\n".join(rows) + "\n").encode()


def decode(settings: Config | None = None, **members: bytes) -> dict:
    named = {name.replace("__dot__", "."): data for name, data in members.items()}
    raw = {"__key__": "k", "__shard__": "s.tar", "__id__": 3, **named}
    return (settings or Config()).build()(raw)


def test_one_motion_in_any_form_and_unit_is_the_same_readings():
    wanted = motion()
    other = wanted / ([G / 1000] * 3 + [np.pi / 180] * 3)
    shuffled = [4, 0, 2, 5, 1, 3]
    forms = {
        "plain": decode(npy=npy(wanted), json=HZ50),
        "float32": decode(Config(rate=50.0), npy=npy(wanted.astype(np.float32))),
        "mg, deg/s": decode(Config(rate=50.0, acceleration="mg", angular_velocity="deg/s"), npy=npy(other)),
        "declared by the sample": decode(
            npy=npy(other[:, shuffled]),
            json=json.dumps(
                {
                    "imu_rate_hz": 50.0,
                    "imu_units": {"acceleration": "mg", "angular_velocity": "deg/s"},
                    "imu_channels": [NAMES[i] for i in shuffled],
                }
            ).encode(),
        ),
        "counts": decode(Config(acceleration="g/2048"), npy=npy(wanted * ([2048 / G] * 3 + [1] * 3)), json=HZ50),
        "csv": decode(csv=table(wanted[:, shuffled], [NAMES[i] for i in shuffled]), json=HZ50),
        "csv with a mark and semicolons": decode(csv=b"\xef\xbb\xbf" + table(wanted, NAMES, ";"), json=HZ50),
        "csv without names": decode(csv=table(wanted, [], "\t"), json=HZ50),
        "by number": decode(
            Config(rate=50.0, columns=("6", "5", "4", "3", "2", "1")),
            csv=table(np.concatenate([wanted[:, :1] * 0, wanted[:, ::-1]], 1), []),
        ),
        "by name": decode(Config(rate=50.0, columns=tuple("abcdef")), csv=table(wanted[:, ::-1], list("fedcba"))),
    }
    for name, sample in forms.items():
        assert sample["imu"].dtype.is_floating_point and sample["imu_rate"] == 50.0 and sample["imu_start"] == 0.0
        assert np.abs(sample["imu"].numpy() - wanted).max() < 2e-5, name
        assert sample["imu"].is_contiguous() and sample["__id__"] == 3


def test_parquet_is_read_like_csv_and_only_the_columns_wanted():
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    wanted, file = motion(), io.BytesIO()
    columns = {name: wanted[:, i] for i, name in enumerate(NAMES)} | {"note": ["x"] * len(wanted)}
    pyarrow.parquet.write_table(arrow.table(columns), file)
    sample = decode(parquet=file.getvalue(), json=HZ50, cls=b"4")
    assert np.abs(sample["imu"].numpy() - wanted).max() < 1e-5 and sample["label"] == 4
    for data, reason in ((file.getvalue()[:-9], "truncated"), (b"nonsense", "decode"), (b"PAR1" * 9, "decode")):
        with pytest.raises(SampleError) as caught:
            decode(parquet=data, json=HZ50)
        assert caught.value.reason == reason


def test_times_make_the_rate_and_uneven_ones_are_made_even():
    random = np.random.default_rng(0)
    times = 100.0 + np.arange(400) / 100.0 + random.uniform(-0.003, 0.003, 400)
    values = motion(1, start=0.0).repeat(400, 0)
    for i in range(6):
        values[:, i] = np.sin(2 * np.pi * 1.5 * times + i) + (G if i == 2 else 0)
    settings = Config(time="t", time_unit="ms")
    sample = decode(settings, csv=table(np.c_[times * 1000, values], ["t", *NAMES]))
    assert abs(sample["imu_rate"] - 100) < 0.1
    at = sample["imu_start"] + (np.arange(len(sample["imu"])) + 0.5) / sample["imu_rate"]
    assert abs(at[0] - times[0]) < 1e-6 and abs(at[-1] - times[-1]) < 1e-6
    expected = np.sin(2 * np.pi * 1.5 * at[:, None] + np.arange(6)) + np.array([0, 0, G, 0, 0, 0])
    assert np.abs(sample["imu"].numpy() - expected).max() < 0.01


def test_missing_numbers_are_bridged_if_that_is_wanted():
    wanted = motion(400, rate=100.0)
    holes = wanted.copy()
    holes[::2, :3] = np.nan  # accelerometer and gyroscope have rows of their own
    holes[1::2, 3:] = np.nan
    times = np.arange(400) / 100
    for settings, members in (
        (Config(rate=100.0, bridge=True), {"csv": table(holes, NAMES)}),
        (Config(time="t", bridge=True), {"csv": table(np.c_[times, holes], ["t", *NAMES])}),
    ):
        found = decode(settings, **members)["imu"].numpy()
        assert np.abs(found - wanted)[1:-1].max() < 0.02 and np.isfinite(found).all()
    holes[100:180, 4] = np.nan
    with pytest.raises(SampleError, match=r"gap: csv: channel 4 has no number for longer than max_gap = 0\.5 s"):
        decode(Config(time="t", bridge=True), csv=table(np.c_[times, holes], ["t", *NAMES]))


def test_gravity_is_taken_out_and_motion_stays():
    time = np.arange(500) / 50.0
    values = np.zeros((500, 6))
    values[:, :3] = np.array([3.0, -4.0, 8.4])  # a tilted phone
    values[:, 0] += 2.0 * np.sin(2 * np.pi * 2.0 * time)  # steps
    values[:, 3] = 0.5  # turns slowly
    kept = decode(Config(rate=50.0), npy=npy(values))["imu"].numpy()
    removed = decode(Config(rate=50.0, gravity="remove"), npy=npy(values))["imu"].numpy()
    assert np.allclose(kept, values, atol=1e-5) and np.allclose(removed[:, 3:], values[:, 3:])
    assert np.abs(removed[:, 1:3]).max() < 1e-4
    inside = slice(100, 400)
    assert np.abs(removed[inside, 0] - 2.0 * np.sin(2 * np.pi * 2.0 * time[inside])).max() < 0.02
    slow = values.copy()
    slow[:, 0] = 5.0 * np.sin(2 * np.pi * 0.3 * time)
    left = decode(Config(rate=50.0, gravity="remove"), npy=npy(slow))["imu"].numpy()
    assert abs(np.abs(left[inside, 0]).max() / 5.0 - (1 - np.sqrt(0.5))) < 0.02  # half the power at the cut-off
    without = Config(rate=50.0, gravity="remove", has_gravity=False)
    assert np.allclose(decode(without, npy=npy(slow))["imu"].numpy(), slow, atol=1e-5)


BAD = [
    ({"npy": b""}, "empty", "no bytes"),
    ({"npy": b"nonsense"}, "decode", ""),
    ({"npy": npy(motion())[:-50]}, "truncated", ""),
    ({"npy": npy(np.array([{}], dtype=object))}, "unsafe", "pickle"),
    ({"npy": npy(np.where(np.arange(6) == 2, np.nan, motion()))}, "not_finite", "NaN"),
    ({"npy": npy(motion()[:, 0])}, "shape", "time steps, channels"),
    ({"npy": npy(motion().T.copy())}, "shape", "transposed"),
    ({"npy": npy(motion()[:, :4])}, "missing", "no column 4, 5 (columns: 4 without names)"),
    ({"npy": npy(motion().astype("S5"))}, "shape", "are numbers"),
    ({"npy": npy(motion(5))}, "too_short", "5 readings"),
    ({"npy": npy(motion(3000))}, "too_large", "max_steps"),
    ({"npy": npy(motion()), "json": b"{}"}, "shape", "decode.rate"),
    ({"npy": npy(motion()), "json": b'{"imu_rate": 0}'}, "shape", "imu_rate is 0"),
    ({"npy": npy(motion()), "json": b'{"imu_rate": 1e9}'}, "shape", "Hz"),
    ({"npy": npy(motion()), "json": b'{"imu_rate": "fast"}'}, "shape", "'fast'"),
    ({"npy": npy(motion()), "json": b'{"imu_rate": 5, "imu_units": {"acceleration": "ft"}}'}, "decode", "'ft'"),
    ({"npy": npy(motion()), "json": b'{"imu_rate": 5, "imu_channels": ["acc_x"]}'}, "shape", "names 1"),
    ({"npy": npy(motion()), "json": b'{"imu_rate": 5, "imu_channels": 6}'}, "decode", "list of names"),
    ({"npy": npy(motion()), "json": b"[1]"}, "decode", "mapping"),
    ({"csv": b"\xff\xfe\x00"}, "decode", "no text"),
    ({"csv": b"\n\n"}, "empty", "no rows"),
    ({"csv": table(motion(), NAMES).split(b"\n")[0]}, "empty", "a header and no rows"),
    ({"csv": table(motion()[:, :5], NAMES[:5])}, "missing", "no column gyr_z (columns: acc_x, acc_y"),
    ({"csv": table(motion(), NAMES)[:-25]}, "truncated", "last row"),
    ({"csv": table(motion(), NAMES).replace(b"0.", b"zero.", 30)}, "decode", "not a table of numbers"),
    ({"csv": table(np.where(np.arange(6) == 4, np.inf, motion()), NAMES)}, "not_finite", "gyr_y is inf"),
    ({"csv": table(motion(2001), NAMES)}, "too_large", "2,0"),
    ({"jpg": b"x"}, "missing", "no imu member (members: json, jpg)"),
]


@pytest.mark.parametrize("members, reason, text", BAD, ids=[f"{b[1]}-{i}" for i, b in enumerate(BAD)])
def test_bad_recordings_are_named(members, reason, text):
    with pytest.raises(SampleError) as caught:
        decode(Config(max_steps=2000), **{"json": HZ50} | members)
    assert caught.value.reason == reason and reason in REASONS
    assert text in str(caught.value) and "s.tar" in str(caught.value) and "'k'" in str(caught.value)


@pytest.mark.parametrize(
    "change, reason, text",
    [
        (lambda t: np.where(np.arange(200) == 9, t[3], t), "decode", "must ascend"),
        (lambda t: t + (np.arange(200) > 50) * 2.0, "gap", "2.02 s without a reading from 1 s on"),
        (lambda t: np.where(np.arange(200) == 9, np.nan, t), "not_finite", "time 9"),
        (lambda t: t * 1e-9, "shape", "time_unit"),
    ],
)
def test_bad_times_are_named(change, reason, text):
    times = change(np.arange(200) / 50)
    with pytest.raises(SampleError) as caught:
        decode(Config(time="t"), csv=table(np.c_[times, motion()], ["t", *NAMES]))
    assert caught.value.reason == reason and text in str(caught.value)


@pytest.mark.parametrize(
    "settings, factor, text",
    [
        ({}, 1 / G, r"declared in 'm/s\^2', has a usual length of 1.0\d* m/s\^2.*gravity is 9.81 m/s\^2 = 1 g.*as 'g'"),
        ({"acceleration": "g"}, 1.0, r"declared in 'g', has a usual length of 9\d.*as 'm/s\^2'"),
        ({"acceleration": "g"}, 1000 / G, r"as 'mg' it would be near 1 g"),
        ({}, 0.02, "has_gravity: false"),
    ],
)
def test_units_that_cannot_be_right_are_told_once(settings, factor, text):
    values = motion() * ([factor] * 3 + [1.0] * 3)
    decoder = Config(rate=50.0, **settings).build()
    raw = {"__key__": "k", "__shard__": "s.tar", "npy": npy(values)}
    with pytest.warns(UnitWarning, match=text) as told:
        decoder(raw)
    assert len(told) == 1 and "s.tar" in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder(raw)  # said once
        Config(rate=50.0, has_gravity=False, **settings).build()(raw)  # nothing to compare with


def test_angular_velocity_in_degrees_is_noticed():
    values = motion() * ([1.0] * 3 + [200.0] * 3)
    with pytest.warns(UnitWarning, match="declared in 'rad/s'.*is it in 'deg/s'"):
        decode(Config(rate=50.0), npy=npy(values))


def test_phones_at_the_waist_feel_gravity(shared_data):
    shards = open_shards([str(shared_data("hapt_imu") / "test-*.tar")])
    decoder = Config(rate=50.0, acceleration="g").build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for place in range(40):
            sample = decoder(shards.read(*shards.locate(place)))
            assert sample["imu"].shape == (128, 6) and 0 <= sample["label"] <= 5
            norm = sample["imu"][:, :3].norm(dim=1)
            if sample["label"] >= 3:  # sits, stands or lies
                assert abs(float(norm.median()) - G) < 1.0


@pytest.mark.parametrize(
    "text, match",
    [
        ("channels: [acc_x, acc_x]", "a name of its own"),
        ("columns: [a]", "names 1 columns for 6"),
        ("rate: 0.0", "rate is 0; it must be from 0.1"),
        ("acceleration: feet", "decode.acceleration is 'feet': give m/s"),
        ("angular_velocity: deg/s/0", "deg/s/0"),
        ("max_gap: 0.0", "max_gap is 0"),
        ("min_steps: 1", "min_steps is 1; it must be from 2"),
        ("min_steps: 64, max_steps: 32".replace(", ", "\n"), "min_steps 64 must lie in 2 to max_steps 32"),
    ],
)
def test_settings_that_cannot_work_are_refused(text, match):
    with pytest.raises(UserError, match=match):
        config.load(Config, text)


def test_without_pyarrow_a_parquet_file_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"foundation-pretrain\[imu\]"):
        decode(parquet=b"PAR1....PAR1", json=HZ50)
