"""Members with hostile names, kinds and sizes, and samples whose members do not belong together."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest

from foundation.data.shard_bytes import MAX_MEMBER_BYTES, ShardError
from foundation.data.shards import open_shards
from foundation.data.tar import scan
from foundation.errors import SampleError, UserError
from tests.faults.conftest import found_by, good, picture, read_all, write_tar


def odd(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def header_with_size(name: str, size: bytes) -> bytes:
    """A ustar header with any 12 bytes as its size, and the checksum that makes it believable."""
    block = bytearray(odd(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("member", "words"),
    [
        pytest.param("/etc/cron.d/x.png", "points out", marks=pytest.mark.fault(42, "member with an absolute name")),
        pytest.param("../../x.png", "points out", marks=pytest.mark.fault(42, "member named ../../x")),
        pytest.param(
            "a\\..\\..\\x.png", "points out", marks=pytest.mark.fault(42, "member with .. between backslashes")
        ),
        pytest.param("a\x1b[2J.png", "control", marks=pytest.mark.fault(42, "control characters in a key")),
        pytest.param("s0.__shard__", "two underscores", marks=pytest.mark.fault(42, "member .__key__ or .__shard__")),
        pytest.param(
            odd("x.png", tarfile.SYMTYPE, linkname="/etc/passwd"),
            "symbolic link",
            marks=pytest.mark.fault(42, "symbolic link to /etc/passwd"),
        ),
        pytest.param(
            odd("x.png", tarfile.LNKTYPE, linkname="s000.png"), "hard link", marks=pytest.mark.fault(42, "hard link")
        ),
        pytest.param(
            odd("x.png", tarfile.CHRTYPE, devmajor=1, devminor=3), "device", marks=pytest.mark.fault(42, "device node")
        ),
        pytest.param(odd("x.png", tarfile.FIFOTYPE), "a pipe", marks=pytest.mark.fault(42, "named pipe")),
        pytest.param(odd("x.png", b"Q"), "unknown kind", marks=pytest.mark.fault(42, "member of an unknown kind")),
    ],
)
def test_hostile_members(shard, verified, happened, tmp_path, member, words):
    path = shard([*good(2), (member, b""), *good(2, begin=2)])
    before = {p for p in tmp_path.rglob("*")}
    findings = verified(path)
    ((name, _, named, detail),) = found_by(findings, "unsafe")
    assert name == path.name and named and words in detail and findings.samples == 4
    with pytest.raises(UserError, match=words) as caught:
        open_shards(path)
    assert path.name in str(caught.value) and "\x1b" not in str(caught.value)
    assert {p for p in tmp_path.rglob("*")} == before
    happened("the shard is refused, naming the member; nothing is written anywhere")


@pytest.mark.fault(42, "name that is not UTF-8")
def test_names_in_another_encoding(tmp_path, verified, happened):
    path = tmp_path / "train-000000.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        for key in ("k\xe4tzchen", "m\xf6we"):
            info = tarfile.TarInfo(f"{key}.png")
            data = picture()[:30]
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    read = read_all(path)
    assert len(read.messages) == 2
    "".join(read.messages).encode("utf-8")  # as a terminal or a log does
    assert r"k\xe4tzchen" in read.messages[0]
    assert not verified(path).errors
    happened("read under a name that any log can print")


@pytest.mark.fault(41, "members .pkl and .pth that start a program when they are unpickled")
def test_pickles_are_never_opened(shard, verified, happened, tmp_path):
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.mkdir, (str(tmp_path / "harm"),))

    harm = pickle.dumps(Harm())
    objects = io.BytesIO()
    np.save(objects, np.array([Harm()], dtype=object), allow_pickle=True)
    members = [
        (f"s{n}.{extension}", data)
        for n in range(4)
        for extension, data in (("png", picture(n)), ("pkl", harm), ("pth", harm), ("npy", objects.getvalue()))
    ]
    path = shard(members)
    assert read_all(path, workers=1).keys == ["s0", "s1", "s2", "s3"]
    findings = verified(path, decode="image")
    assert findings.warnings["unsafe"] == 8 and findings.errors == {"unsafe": 4}
    assert "never opens it" in found_by(findings, "unsafe")[0][3]
    assert any("array of objects" in detail for *_, detail in found_by(findings, "unsafe"))
    assert not (tmp_path / "harm").exists()
    happened("the pictures beside them are used, they stay bytes; verify names them; the program did not start")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("scattered", marks=pytest.mark.fault(24, "members of one sample that are not neighbours")),
        pytest.param("twice", marks=pytest.mark.fault(24, "the same key twice in a shard")),
        pytest.param("member twice", marks=pytest.mark.fault(24, "the same member twice in a sample")),
    ],
)
def test_members_that_do_not_make_samples(shard, verified, happened, case):
    extra = {"scattered": "s000.json", "twice": "s000.png", "member twice": "s002.PNG"}[case]
    reason = "scattered" if case == "scattered" else "duplicate"
    path = shard([*good(3), (extra, b"{}")] if case != "member twice" else [*good(2), ("s002.png", b""), (extra, b"")])
    ((name, key, member, _),) = found_by(verified(path), reason)
    assert (name, key, member) == (path.name, extra.partition(".")[0], extra)
    with pytest.raises(UserError, match=key):
        open_shards(path)
    happened("refused, naming shard and key; never a partial sample")


@pytest.mark.fault(24, "a shard with scattered members behind an index that was written by other means")
def test_scattered_members_met_by_a_run(shard, happened):
    path = shard(good(3), indexed=True)
    write_tar(path, [("s000.png", b"1"), ("s001.png", b"2"), ("s000.cls", b"3"), ("s002.png", bytes(2000))])
    index = json.loads((path.parent / "index.json").read_text())
    index["splits"]["train"]["shards"][0]["bytes"] = path.stat().st_size
    (path.parent / "index.json").write_text(json.dumps(index))
    shards = open_shards(path)
    for place in range(3):
        with pytest.raises(SampleError, match="'s000' are not neighbours") as caught:
            shards.read(0, place)
        assert (caught.value.shard, caught.value.reason) == (str(path), "scattered")
    happened("each sample of the shard is counted as scattered, never a partial sample")


@pytest.mark.fault(24, "samples without the member that the others have")
def test_a_missing_modality(shard, verified, happened):
    path = shard([*good(5), ("s005.cls", b"1"), ("s006.cls", b"2")])
    found = found_by(verified(path), "missing")
    assert [(name, key) for name, key, *_ in found] == [(path.name, "s005"), (path.name, "s006")]
    assert "no picture member (members: .cls); 5 of 7 samples have one" in found[0][3]
    read = read_all(path)
    assert read.skipped == {"missing": 2} and len(read.keys) == 5
    assert all(path.name in text for text in read.messages) and "s005" in read.messages[0]
    assert [key for _, key, *_ in found_by(verified(path, members=["png", "json"]), "missing")].count("s000") == 1
    happened("skipped, counted as missing, naming shard, key and the members it has")


@pytest.mark.fault(20, "GNU sparse member: 2 kB of tar that claims 1 GB")
def test_a_sparse_bomb_is_refused(tmp_path, verified, happened):
    holes = tmp_path / "big.png"
    with holes.open("wb") as file:
        file.truncate(1 << 30)
    path = tmp_path / "shards" / "train-000000.tar"
    path.parent.mkdir()
    subprocess.run(["tar", "-S", "-cf", path, "-C", tmp_path, "big.png"], check=True)
    assert path.stat().st_size < 1 << 16
    ((_, _, member, detail),) = found_by(verified(path), "unsafe")
    assert member == "big.png" and "sparse" in detail
    with pytest.raises(UserError, match="stored sparse"):
        open_shards(path)
    happened("refused by its header")


LIES = {
    "octal": b"77777777777\0",
    "binary": b"\x80" + (1 << 60).to_bytes(11, "big"),
    "past 64 bits": b"\x80" + (1 << 80).to_bytes(11, "big"),
    "negative": b"-0000001000\0",
}


@pytest.mark.slow
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.fault(20, "header that claims 8 GB, 1 EB, more than 64 bits or less than nothing")
def test_a_size_that_lies_costs_nothing(tmp_path, happened, lie):
    path = tmp_path / "train-000000.tar"
    whole = write_tar(path, good(2)).read_bytes().rstrip(b"\0")
    whole += bytes(-len(whole) % 512)
    path.write_bytes(whole + header_with_size("s009.png", LIES[lie]) + bytes(1024))
    program = f"""
import resource, sys
from foundation.data.verify_shard import check_shard
from foundation.data.shards import ShardSet
from foundation.errors import SampleError
room = 300 << 20
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + room, now + room))
check = check_shard({str(path)!r})
print(sorted({{(p.reason, p.key) for p in check.problems}}))
shards = ShardSet([{str(path)!r}], [3])
try:
    shards.read(0, 2)
except SampleError as error:
    print(error.reason)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    problems, reason = result.stdout.splitlines()
    assert reason == ("truncated" if lie in ("octal", "binary") else "corrupt"), result.stdout
    assert reason in problems
    happened(f"refused as {reason} before memory is asked for (300 MB were all it could have)")


@pytest.mark.fault(20, "a file with holes whose member really has 1 TB")
def test_a_member_with_holes(tmp_path, happened):
    path = tmp_path / "train-000000.tar"
    size = 1 << 40
    with path.open("wb") as file:
        file.write(header_with_size("s000.png", b"\x80" + size.to_bytes(11, "big")))
        try:
            file.truncate(512 + size + 1024)
        except OSError:
            pytest.skip("the file system of the temporary folder takes no file of 1 TB")
    shards = open_shards(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SampleError, match="more than") as caught:
        shards.read(0, 0)
    assert caught.value.reason == "too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    happened(f"refused as too_large: members may have {MAX_MEMBER_BYTES >> 30} GiB")


@pytest.mark.parametrize("size", ["x", "-5", "9" * 30])
def test_damaged_extended_headers(tmp_path, size):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={}) as archive:
        info = odd("s000.png")
        info.pax_headers = {"size": size, "comment": "x"}
        archive.addfile(info, io.BytesIO())
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(ShardError) as caught:
            scan(descriptor, str(path))
        assert caught.value.reason == "corrupt"
    finally:
        os.close(descriptor)


def array(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def claiming(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(64)


def wav(rate: int, samples: np.ndarray) -> bytes:
    import struct

    data = samples.astype("<f4").tobytes()
    form = struct.pack("<HHIIHH", 3, 1, rate, rate * 4, 4, 32)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


SIGNAL = np.linspace(0, 1, 300, dtype=np.float32).reshape(50, 6)
NAN = np.where(np.arange(300).reshape(50, 6) == 77, np.float32("nan"), SIGNAL)


@pytest.mark.parametrize(
    ("extension", "usual", "bad", "reason", "words"),
    [
        pytest.param(
            "npy", array(SIGNAL), array(SIGNAL.astype(np.float64)), "shape", "type float64, most others have float32",
            marks=pytest.mark.fault(21, "array of another number type"),
        ),
        pytest.param(
            "npy", array(SIGNAL), array(SIGNAL.ravel()), "shape", "[300], most others have 2 axes",
            marks=pytest.mark.fault(21, "array with another number of axes"),
        ),
        pytest.param(
            "npy", array(SIGNAL), array(SIGNAL[:, :5]), "shape", "[50, 5], most others have 6 on axis 1",
            marks=pytest.mark.fault(21, "array with another number of channels"),
        ),
        pytest.param(
            "npy", array(SIGNAL), array(NAN), "not_finite", "first at number 77",
            marks=pytest.mark.fault(21, "NaN in an array"),
        ),
        pytest.param(
            "npy", array(SIGNAL), claiming((1 << 50, 6)), "truncated", "64 are there",
            marks=pytest.mark.fault(20, "array whose header claims petabytes"),
        ),
        pytest.param(
            "npy", array(SIGNAL), b"no array", "decode", "not what its name says",
            marks=pytest.mark.fault(21, "an .npy that is none"),
        ),
        pytest.param(
            "wav", wav(16000, SIGNAL.ravel()), wav(8000, SIGNAL.ravel()), "shape", "8000 samples per second",
            marks=pytest.mark.fault(21, "sound at another rate"),
        ),
        pytest.param(
            "wav", wav(16000, SIGNAL.ravel()), wav(16000, NAN.ravel()), "not_finite", "first at number 77",
            marks=pytest.mark.fault(21, "NaN in sound"),
        ),
    ],
)  # fmt: skip
def test_arrays_and_sound_unlike_their_fellows(shard, verified, happened, extension, usual, bad, reason, words):
    members = [(f"s{n:03d}.{extension}", bad if n == 11 else usual) for n in range(30)]
    findings = verified(shard(members))
    ((name, key, member, detail),) = found_by(findings, reason)
    assert (name, key, member) == ("train-000000.tar", "s011", f"s011.{extension}") and words in detail
    assert findings.errors == {reason: 1}
    happened(f"verify: {reason}, naming shard and key")


@pytest.mark.fault(20, "npz member that unpacks to terabytes")
def test_an_npz_bomb_is_read_by_its_directory(shard, verified, happened):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", claiming((1 << 40, 6)))
    ((_, key, _, detail),) = found_by(verified(shard([("s0.npz", buffer.getvalue())])), "truncated")
    assert key == "s0" and "x:" in detail
    happened("verify: refused by its header")


def test_lengths_may_differ(shard, verified):
    members = [(f"s{n:03d}.npy", array(SIGNAL[: 20 + n])) for n in range(25)]
    assert not verified(shard(members)).errors


def test_a_set_may_mix_picture_formats(shard, verified):
    members = [(f"s{n:03d}.{'jpg' if n % 3 else 'png'}", picture(n)) for n in range(9)]
    assert not verified(shard(members)).errors


def test_members_of_no_sample_are_a_warning(shard, verified):
    findings = verified(shard([("README", b"hello"), ("a/._x.png", b"junk"), *good(2)]))
    assert not findings.errors and findings.warnings["stray"] == 2


@pytest.mark.fault(20, "a sample of 30,000 members")
def test_too_many_members_are_refused_in_no_time(tmp_path, verified, happened):
    path = tmp_path / "train-000000.tar"
    with path.open("wb") as file:
        for number in range(30_000):
            file.write(odd(f"a.{number}.png").tobuf(tarfile.USTAR_FORMAT))
        for name, data in good(1):
            info = odd(name, size=len(data))
            file.write(info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512))
        file.write(bytes(1024))
    begin = time.process_time()
    shards = open_shards(path)
    assert shards.num_samples == 2 and shards.read(0, 1)["__key__"] == "s000"
    with pytest.raises(SampleError, match=r"'a': too_large: has more than 10,000 members .*first dot"):
        shards.read(0, 0)
    assert [key for _, key, *_ in found_by(verified(path), "too_large")] == ["a"]
    assert time.process_time() - begin < 10  # looking each one up among all before it took half a minute
    happened("that sample is refused as too_large, the others are read; the time grows with the number, not its square")


def test_members_that_share_a_kind_are_told_of_unless_they_have_names(shard, verified):
    pairs = [(f"p{n}.{side}.png", picture(n)) for n in range(3) for side in ("left", "right")]
    assert not found_by(verified(shard(pairs)), "duplicate")
    cut = [(f"v{n}.{frame:03d}.png", picture(n)) for n in range(3) for frame in range(4)]
    ((_, key, _, detail),) = found_by(verified(shard(cut, name="cut")), "duplicate")
    assert key == "v0" and detail.startswith("4 members of kind picture under one key 'v0'")
    assert detail.endswith("2 more samples are like it")
