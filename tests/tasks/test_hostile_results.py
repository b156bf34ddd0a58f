"""Result files that somebody else wrote, or half: refused in a line, and nothing in them is run."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from foundation.errors import UserError
from foundation.report import side_by_side
from foundation.tasks.comparison import compare
from foundation.tasks.results import RESULT, SAMPLES, read


class Marker:
    """What would make a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def packed(**arrays):
    stream = io.BytesIO()
    parts = {"each.1": np.array([0, 1], np.float32), "keys.0": np.frombuffer(b'["a", "b"]', np.uint8)} | arrays
    np.savez_compressed(stream, **{name: value for name, value in parts.items() if value is not None})
    return stream.getvalue()


def put(folder, samples=None, **changes):
    """A result whose checksum is right, whatever its samples are."""
    samples = packed() if samples is None else samples
    score = {"metric": "<script>top1", "value": 0.5, "n": 2, "better": "more", "samples": "each.1", "keys": "keys.0"}
    content = {
        "format": 1, "kind": "evaluation", "model": "m", "name": "<script>alert(1)</script>", "modality": "image",
        "samples_sha256": hashlib.sha256(samples).hexdigest(), "data": {},
        "tasks": [{"name": "<i>knn", "scores": [score]}],
    }  # fmt: skip
    (folder / SAMPLES).write_bytes(samples)
    (folder / RESULT).write_text(json.dumps(content | changes))
    return folder


def test_names_are_text_on_the_page(tmp_path):
    result = read(put(tmp_path))
    assert "<script>" not in side_by_side.render(compare([result, result], resamples=10), 10)
    odd = read(put(tmp_path, data={"test": {"digest": ["no", "text"]}}))
    assert compare([odd, odd], resamples=10).figures


def test_what_is_pickled_is_not_read(tmp_path):
    there = Marker(tmp_path / "made")
    for samples in (packed(**{"each.1": np.array([there, there], dtype=object)}), pickle.dumps(there)):
        with pytest.raises(UserError, match="is damaged"):
            read(put(tmp_path, samples))
    assert not there.path.exists()


BAD = {
    "half": (packed()[:-30], "is damaged"),
    "not finite": (packed(**{"each.1": np.array([np.nan, 1], np.float32)}), "not finite"),
    "two axes": (packed(**{"each.1": np.zeros((2, 2), np.float32)}), "samples"),
    "keys in keys": (packed(**{"keys.0": np.frombuffer(b'[["a"], {}]', np.uint8)}), "no list of keys"),
    "groups of groups": (packed(groups=np.zeros((2, 2), np.int64)), "no list of whole numbers"),
    "groups that are no numbers": (packed(groups=np.array([np.nan, 1])), "no list of whole numbers"),
    "groups without keys": (packed(groups=np.zeros(2, np.int64)), "groups.keys"),
}


@pytest.mark.parametrize("case", BAD)
def test_damaged_samples_are_refused(case, tmp_path):
    samples, said = BAD[case]
    with pytest.raises(UserError, match=said):
        read(put(tmp_path, samples))


def test_what_unpacks_to_more_than_memory_is_refused_before(tmp_path, monkeypatch):
    monkeypatch.setattr("foundation.tasks.results._MOST_SAMPLES", 1 << 20)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("each.1.npy", bytes(1 << 22))
    with pytest.raises(UserError, match="unpacks to"):
        read(put(tmp_path, stream.getvalue()))
    stream = io.BytesIO()  # the header asks for more than there is
    with zipfile.ZipFile(stream, "w") as file, file.open("each.1.npy", "w") as array:
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 60,)}
        np.lib.format.write_array_header_1_0(array, header)
    with pytest.raises(UserError, match="is damaged"):
        read(put(tmp_path, stream.getvalue()))
