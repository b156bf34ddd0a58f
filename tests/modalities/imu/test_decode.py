"""Recordings of inertial sensors: declared columns, units and rate, and every way in which files are bad."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import numpy as np
import pytest

from foundation import config
from foundation.data.shards import open_shards
from foundation.errors import REASONS, SampleError, UserError
from foundation.modalities.imu.decode import Config

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


def test_a_recording_without_a_rate_names_every_place_that_may_say_it():
    with pytest.raises(
        SampleError, match=r"how many readings a second: .*views\.decode\.rate\), nor data build \(--rate\)"
    ):
        decode(npy=npy(motion()))


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
    ({"npy": npy(np.where(np.arange(6) == 2, np.nan, motion()))}, "not_finite", "acc_z is nan"),
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
        (lambda t: t * 0 + 1.7e9, "decode", "all 200 readings have the same time (1700000000.0 s)"),
        (lambda t: t + (np.arange(200) > 99) * 2.0 + (np.arange(200) > 149) * 2.0, "gap", "after reading 99 at 1.98 s"),
        (lambda t: t * np.nan, "not_finite", "no reading has all its numbers and a time"),
        (lambda t: t * 1e-9, "shape", "time_unit"),
        (lambda t: t * 1000, "shape", "time_unit"),
    ],
)
def test_bad_times_are_named(change, reason, text):
    times = change(np.arange(200) / 50)
    with pytest.raises(SampleError) as caught:
        decode(Config(time="t", max_gap=0.3), csv=table(np.c_[times, motion()], ["t", *NAMES]))
    assert caught.value.reason == reason and text in str(caught.value)


START = 1_700_000_000_000_000_000
"""Nanoseconds since 1970."""


def _parquet(times: np.ndarray, values: np.ndarray) -> bytes:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    file = io.BytesIO()
    columns = {"timestamp": times} | {name: values[:, i] for i, name in enumerate(NAMES)}
    pyarrow.parquet.write_table(arrow.table(columns), file)
    return file.getvalue()


def _csv(times: np.ndarray, values: np.ndarray) -> bytes:
    rows = (
        f"{t}," + ",".join("" if np.isnan(v) else repr(float(v)) for v in row)
        for t, row in zip(times, values, strict=True)
    )
    return ("timestamp," + ",".join(NAMES) + "\n" + "\n".join(rows) + "\n").encode()


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(
    "spot, reason, text, kept",
    [
        ("repeated", "duplicate", "1 readings whose time was there before are left out (first: reading 100 at", 200),
        ("swapped", "gap", "1 readings out of order are put in order (first: reading 100 at", 200),
        (
            "stray",
            "gap",
            "1 readings with a time far from that of their neighbours are left out (first: reading 100",
            200,
        ),
        ("empty", "not_finite", "1 readings in which a number is missing are left out (first: reading 100 at", 200),
        ("hole", "gap", "3.02 s without a reading after reading 119 at 1700000002380000000 ns (max_gap = 0.5 s)", 120),
        ("set back", "gap", "the clock goes back by 99.98 s after reading 119 at 1700000002380000000 ns", 120),
    ],
)
@pytest.mark.fault(23, "a recording with one bad spot: a time twice, rows swapped, a stray time, an empty cell, a gap")
def test_a_bad_spot_costs_the_spot_and_is_said(form, spot, reason, text, kept, happened):
    times, values = START + np.arange(200) * 20_000_000, motion()
    if spot == "repeated":
        times[100] = times[99]
    elif spot == "swapped":
        times[[99, 100]], values[[99, 100]] = times[[100, 99]], values[[100, 99]]
    elif spot == "stray":
        times[100] += 10**15
    elif spot == "empty":
        values[100, 3] = np.nan
    elif spot == "hole":
        times[120:] += 3_000_000_000
    else:
        times[120:] -= 100_000_000_000
    sample = decode(**{form: _csv(times, values) if form == "csv" else _parquet(times, values)})
    notes = {note.reason: note.detail for note in sample["__notes__"]}
    assert text in notes[reason], notes
    assert len(sample["imu"]) == kept and sample["imu_rate"] == pytest.approx(50.0)
    assert np.abs(sample["imu"].numpy() - motion()[:kept]).max() < 0.06
    happened("the spot is left out or the recording broken there, with row and time")


def test_large_times_keep_their_digits():
    times = START + 1 + np.arange(200) * 10_003  # 100 kHz, told apart only by the last digits
    for data in ({"csv": _csv(times, motion())}, {"parquet": _parquet(times, motion())}):
        sample = decode(**data)
        assert len(sample["imu"]) == 200 and sample["imu_rate"] == pytest.approx(1e9 / 10_003, rel=1e-9)
        assert np.abs(sample["imu"].numpy() - motion()).max() < 1e-5 and "__notes__" not in sample


@pytest.mark.parametrize(
    "name, times, settings",
    [
        ("timestamp", [str(START + 20_000_000 * i) for i in range(200)], {}),
        ("t", [str(START // 1000 + 20_000 * i) for i in range(200)], {}),
        ("Time", [str(START // 10**6 + 20 * i) for i in range(200)], {}),
        ("epoch", [f"{START / 1e9 + i / 50:.2f}" for i in range(200)], {}),
        ("time_ms", [str(20 * i) for i in range(200)], {}),
        ("Time [us]", [str(20_000 * i) for i in range(200)], {}),
        ("clock", [str(20 * i) for i in range(200)], {"time": "clock", "time_unit": "ms"}),
        ("datetime", [f"2023-11-14T22:13:{20 + i // 50:02d}.{i % 50 * 2:02d}Z" for i in range(200)], {}),
        ("timestamp", [f"2023-11-14 23:13:{20 + i // 50:02d}.{i % 50 * 2:02d}+01:00" for i in range(200)], {}),
    ],
)
def test_times_in_any_unit_and_in_words(name, times, settings):
    sample = decode(Config(**settings), csv=_csv(np.array(times), motion()).replace(b"timestamp", name.encode(), 1))
    assert sample["imu_rate"] == pytest.approx(50.0) and len(sample["imu"]) == 200
    if name not in ("time_ms", "Time [us]", "clock"):
        assert sample["imu_start"] + 0.01 == pytest.approx(START / 1e9, abs=1e-5)


PHYPHOX = [
    f"{sensor} {axis} ({unit})"
    for sensor, unit in (("Acceleration", "m/s^2"), ("Gyroscope", "rad/s"))
    for axis in "xyz"
]


@pytest.mark.parametrize(
    "names, factors, sign",
    [
        (["Time (s)", *PHYPHOX], (1, 1), ","),
        (["time", "ax", "ay", "az", "gx", "gy", "gz"], (1, 1), "\t"),
        (["t", *(f"{s}{a}" for s in ("accel", "gyro") for a in "XYZ")], (1, 1), ";"),
        (
            ["Time (s)", *(f"Acc {a} [g]" for a in "XYZ"), *(f"Gyro {a} [°/s]" for a in "XYZ")],
            (1 / G, 180 / np.pi),
            ",",
        ),
        (["t", *(f"acc_{a} (mg)" for a in "xyz"), *(f"gyr_{a} (dps)" for a in "xyz")], (1000 / G, 180 / np.pi), ";"),
        (["Time", *(f"Accel-{a} (g)" for a in "XYZ"), *(f"Gyro-{a} (d/s)" for a in "XYZ")], (1 / G, 180 / np.pi), ","),
    ],
)
@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_columns_are_found_by_what_loggers_call_them(names, factors, sign, quoted, coding):
    values = np.c_[np.arange(200) / 50, motion() * ([factors[0]] * 3 + [factors[1]] * 3)]
    text = table(values, [f'"{name}"' if quoted else name for name in names], sign).decode()
    if sign == ";":
        text = text.replace(".", ",")
    sample = decode(csv=text.encode(coding))
    assert np.abs(sample["imu"].numpy() - motion()).max() < 2e-5 and sample["imu_rate"] == pytest.approx(50.0)


def test_comments_are_passed_over_and_names_in_one_are_read():
    body = table(np.c_[np.arange(200) / 50, motion()], [])
    for head in (b"# made by a logger\n#t,ax,ay,az,gx,gy,gz\n", b"sep=,\n# words, and words\nt,ax,ay,az,gx,gy,gz\n"):
        sample = decode(csv=head + body)
        assert np.abs(sample["imu"].numpy() - motion()).max() < 2e-5 and sample["imu_rate"] == pytest.approx(50.0)


@pytest.mark.fault(23, "times that jump at every row; a grid that would have millions of points for each reading")
def test_times_that_are_none_cost_nothing(happened):
    jumping = np.arange(60_000) // 2 % 2 * 3600.0 + np.arange(60_000) / 50
    uneven = np.cumsum(np.where(np.arange(3000) % 3, 1e-5, 0.4))
    for times, text in (
        (jumping, "decode: csv: the times jump 29,999 times"),
        (uneven, "shape: csv: steps of 1e-05 s to"),
    ):
        with pytest.raises(SampleError, match=text):
            decode(Config(time="t"), csv=table(np.c_[times, np.resize(motion(), (len(times), 6))], ["t", *NAMES]))
    happened("refused before memory is asked for")


def test_columns_that_cannot_be_told_are_named():
    values = np.c_[np.arange(200) / 50, motion(), motion()[:, :1]]
    with pytest.raises(SampleError, match=r"conflict: csv: ax and Acceleration x \(g\) could both be acc_x") as caught:
        decode(csv=table(values, ["t", "ax", *NAMES[1:], "Acceleration x (g)"]))
    assert "set decode.columns" in str(caught.value)
    with pytest.raises(SampleError, match=r"missing: csv: no column acc_x \(columns: t, linear x, acc_y"):
        decode(csv=table(values[:, :7], ["t", "linear x", *NAMES[1:]]))
    with pytest.raises(SampleError, match=r"conflict: csv: a column's name says g, decode\.acceleration says mg"):
        decode(Config(acceleration="mg"), csv=table(values[:, :7], ["t", *(f"a{a} (g)" for a in "xyz"), *NAMES[3:]]))


def test_missing_rows_of_arrays_are_left_out_like_those_of_tables():
    values = motion()
    values[50:53, 1] = np.nan
    sample = decode(npy=npy(values), json=HZ50)
    (note,) = sample["__notes__"]
    assert note.reason == "not_finite" and "3 readings in which a number is missing" in note.detail
    assert np.abs(sample["imu"].numpy() - motion()).max() < 0.2 and len(sample["imu"]) == 200
    huge = motion()
    huge[50, 0] = 1e300  # finite until it is float32
    with pytest.raises(SampleError, match="not_finite: npy: reading 50 of acc_x is 1e\\+300"):
        decode(npy=npy(huge), json=HZ50)


def test_a_table_that_ends_within_its_last_row_loses_that_row():
    whole = table(motion(), NAMES)
    sample = decode(Config(rate=50.0), csv=whole[:-25])
    assert len(sample["imu"]) == len(decode(Config(rate=50.0), csv=whole)["imu"]) - 1
    assert [note.reason for note in sample["__notes__"]] == ["truncated"]


@pytest.mark.parametrize(
    "settings, factor, text",
    [
        ({}, 1 / G, r"declared in 'm/s\^2', has a usual length of 1.0\d* m/s\^2.*gravity is 9.81 m/s\^2 = 1 g.*as 'g'"),
        ({"acceleration": "g"}, 1.0, r"declared in 'g', has a usual length of 9\d.*as 'm/s\^2'"),
        ({"acceleration": "g"}, 1000 / G, r"as 'mg' it would be near 1 g"),
        ({}, 0.02, "has_gravity: false"),
    ],
)
def test_units_that_cannot_be_right_are_told(settings, factor, text):
    values = motion() * ([factor] * 3 + [1.0] * 3)
    (note,) = decode(Config(rate=50.0, **settings), npy=npy(values))["__notes__"]
    assert note.reason == "units" and re.search(text, note.detail)
    without = Config(rate=50.0, has_gravity=False, **settings)
    assert "__notes__" not in decode(without, npy=npy(values)), "nothing to compare with"


def test_angular_velocity_in_degrees_is_noticed():
    values = motion() * ([1.0] * 3 + [200.0] * 3)
    (note,) = decode(Config(rate=50.0), npy=npy(values))["__notes__"]
    assert re.search("declared in 'rad/s'.*is it in 'deg/s'", note.detail)


def test_phones_at_the_waist_feel_gravity(shared_data):
    shards = open_shards([str(shared_data("hapt_imu") / "test-*.tar")])
    decoder = Config(rate=50.0, acceleration="g").build()
    for index in range(40):
        sample = decoder(shards.read(*shards.locate(index)))
        assert sample["imu"].shape == (128, 6) and 0 <= sample["label"] <= 5 and "__notes__" not in sample
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
