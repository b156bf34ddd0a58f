"""Shards that are cut, emptied, overwritten, compressed or not what their index says."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
from pathlib import Path

import pytest

from foundation.data.adopt import index_shards
from foundation.data.shards import ShardSet, open_shards
from foundation.data.tar import scan
from foundation.errors import SampleError, UserError
from tests.faults.conftest import found_by, good, picture, write_tar

MEMBER = 512 + 512  # a header and one block of payload


def members(number: int = 4) -> list[tuple[str, bytes]]:
    """Two members of one block each per sample, so that the places of headers are known."""
    return [(f"s{n}.{name}", bytes([n]) * 100) for n in range(number) for name in ("png", "cls")]


CUTS = {
    "payload": 5 * MEMBER + 512 + 40,
    "header": 5 * MEMBER + 200,
    "member boundary": 5 * MEMBER,
    "sample boundary": 4 * MEMBER,
}


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param("payload", marks=pytest.mark.fault(16, "shard cut inside a payload")),
        pytest.param("header", marks=pytest.mark.fault(16, "shard cut inside a header")),
        pytest.param("member boundary", marks=pytest.mark.fault(16, "shard cut between two members of a sample")),
        pytest.param("sample boundary", marks=pytest.mark.fault(16, "shard cut between two samples")),
    ],
)
@pytest.mark.parametrize("indexed", [True, False])
def test_a_cut_shard(shard, verified, happened, cut, indexed):
    path = shard(members(), indexed=indexed)
    os.truncate(path, CUTS[cut])
    findings = verified(path)
    (first, *_) = found_by(findings, "truncated")
    assert first[0] == path.name and first[1] == ("s1" if cut == "sample boundary" else "s2")
    if indexed:
        details = [detail for *_, detail in found_by(findings, "index")]
        assert any("samples, index.json says 4" in d for d in details) or cut in (
            "payload",
            "header",
            "member boundary",
        )
        assert any(f"has {CUTS[cut]:,} bytes, index.json says" in d for d in details)
        with pytest.raises(UserError, match=rf"{path.name} has {CUTS[cut]} bytes.*cut off"):
            open_shards(path)
        happened("with an index: refused at the start, bytes found and expected named")
    else:
        shards = open_shards(path)
        assert "cut off" in shards.warnings[0] and path.name in shards.warnings[0]
        if cut != "sample boundary":
            with pytest.raises(SampleError, match="s2") as caught:
                shards.read(0, 2)
            assert caught.value.reason == "truncated"
        bad = (
            "nothing tells how many are lost" if cut == "sample boundary" else "the cut sample is counted as truncated"
        )
        happened(f"without an index: warned at the start, {bad}; verify names the last sample")


@pytest.mark.fault(16, "shard cut while the run reads it")
def test_a_shard_cut_after_the_start_is_counted(shard, happened):
    path = shard(indexed=True)
    shards = open_shards(path)
    os.truncate(path, path.stat().st_size // 2)
    bad = errors_of(shards)
    assert len(bad) == 6 and {error.reason for error in bad} == {"truncated"}
    assert all(path.name in str(error) and "bytes then" in str(error) for error in bad)
    happened("each of its samples is counted as truncated, with the bytes then and now")


def errors_of(shards: ShardSet) -> list[SampleError]:
    """What reading every sample gives."""
    errors = []
    for identity in range(shards.num_samples):
        try:
            shards.read(*shards.locate(identity))
        except SampleError as error:
            errors.append(error)
    return errors


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        pytest.param(b"", "empty", "0 bytes", marks=pytest.mark.fault(17, "shard of zero bytes")),
        pytest.param(
            bytes(range(256)) * 40, "corrupt", "not a tar archive", marks=pytest.mark.fault(17, "shard of random bytes")
        ),
        pytest.param(bytes(10240), "empty", "no samples", marks=pytest.mark.fault(17, "shard of zeros only")),
    ],
)
def test_a_shard_that_is_none(shard, verified, happened, content, reason, words):
    bad = shard()
    other = shard(good(6, begin=6), name="train-000001", indexed=True)
    size = bad.stat().st_size
    bad.write_bytes(content)
    (name, _, _, detail), *_ = found_by(verified(bad, other), reason)
    assert name == bad.name and words in detail
    with pytest.raises(UserError, match=rf"{bad.name} has {len(content)} bytes.*says {size}"):
        open_shards([bad, other])
    with bad.open("ab") as file:  # damage that the size does not tell
        file.write(content[:1] * (size - len(content)) or bytes(size))
    errors = errors_of(open_shards([bad, other]))
    assert len(errors) == 6 and {error.shard for error in errors} == {str(bad)}
    assert {error.reason for error in errors} <= {"corrupt", "index"}
    happened(
        f"refused at the start by its size; filled up to the right size, its samples are counted as {errors[0].reason}"
    )


@pytest.mark.fault(18, "one bit flipped in a member's header")
def test_header_flip(shard, verified, happened):
    path = shard(members(), indexed=True)
    data = bytearray(path.read_bytes())
    data[4 * MEMBER + 3] ^= 1
    path.write_bytes(data)
    findings = verified(path)
    assert any("damaged header at byte 4096" in detail for *_, detail in found_by(findings, "corrupt"))
    assert any("has 2 samples, index.json says 4" in detail for *_, detail in found_by(findings, "index"))
    with pytest.raises(SampleError, match="damaged header at byte 4096") as caught:
        open_shards(path).read(0, 0)
    assert caught.value.reason == "corrupt"
    happened("every sample of the shard is counted as corrupt, with the byte; verify counts what is left")


@pytest.mark.fault(18, "one bit flipped in a payload")
def test_payload_flip(shard, verified, happened):
    path = shard(members(), indexed=True)
    data = bytearray(path.read_bytes())
    data[4 * MEMBER + 512 + 7] ^= 1
    path.write_bytes(data)
    findings = verified(path)
    ((_, _, _, detail),) = found_by(findings, "corrupt")
    assert "SHA-256" in detail and findings.errors == {"corrupt": 1}
    happened("verify: SHA-256 differs from the index")


@pytest.mark.fault(18, "a header overwritten with zeros, as a lost block of a disk is")
def test_a_zeroed_header_is_not_the_end(shard, verified, happened):
    path = shard(members())
    data = bytearray(path.read_bytes())
    data[4 * MEMBER : 4 * MEMBER + 512] = bytes(512)
    path.write_bytes(data)
    ((_, _, _, detail),) = found_by(verified(path), "corrupt")
    assert "more data follows the end-of-archive mark at byte 4096" in detail
    with pytest.raises(UserError, match="more data follows"):
        open_shards(path)
    happened("refused: data follows the end-of-archive mark (tar readers stop there without a word)")


@pytest.mark.fault(18, "two archives glued together with cat")
def test_glued_archives(shard, verified, happened):
    first, second = shard(), shard(good(3, 6), name="train-000001")
    first.write_bytes(first.read_bytes() + second.read_bytes())
    assert "several archives" in found_by(verified(first), "corrupt")[0][3]
    happened("refused: the second would never be read")


@pytest.mark.fault(20, "shard compressed with gzip, 1 MB that unpacks to 1 GB")
def test_a_compressed_bomb_is_never_unpacked(tmp_path, verified, happened):
    path = tmp_path / "bomb.tar"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    ((name, _, _, detail),) = found_by(verified(path), "compressed")
    assert name == "bomb.tar" and "gzip" in detail
    with pytest.raises(UserError, match="compressed with gzip"):
        open_shards(path)
    happened("refused by its first bytes, nothing is unpacked")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("missing", marks=pytest.mark.fault(18, "the index lists a shard that is gone")),
        pytest.param("extra", marks=pytest.mark.fault(18, "a shard that the index does not list")),
        pytest.param("count", marks=pytest.mark.fault(18, "the index states another number of samples")),
        pytest.param("garbage", marks=pytest.mark.fault(18, "the index is not JSON")),
        pytest.param("copied", marks=pytest.mark.fault(18, "the same shard under two names")),
    ],
)
def test_an_index_that_disagrees(shard, verified, happened, damage):
    path = shard()
    shard(good(6, 6), name="train-000001", indexed=True)
    folder = path.parent
    index = json.loads((folder / "index.json").read_text())
    if damage == "missing":
        (folder / "train-000001.tar").unlink()
        ((name, _, _, detail),) = found_by(verified(folder), "missing")
        assert name == "train-000001.tar" and "index.json" in detail
    elif damage == "extra":
        write_tar(folder / "train-000002.tar", good(2, 12))
        ((name, _, _, detail),) = found_by(verified(folder), "index")
        assert name == "train-000002.tar" and "not in" in detail
    elif damage == "count":
        index["splits"]["train"]["shards"][0]["samples"] = 8
        (folder / "index.json").write_text(json.dumps(index))
        ((name, _, _, detail),) = found_by(verified(folder), "index")
        assert (name, detail) == ("train-000000.tar", "has 6 samples, index.json says 8")
        with pytest.raises(UserError, match=r"train-000000\.tar has 6 samples, expected 8.*foundation data index"):
            open_shards(folder)
    elif damage == "garbage":
        (folder / "index.json").write_text("{")
        ((name, _, _, detail),) = found_by(verified(folder), "index")
        assert name == "index.json" and "foundation data index" in detail
        with pytest.raises(UserError, match=r"index\.json is damaged"):
            open_shards(folder)
    else:
        (folder / "train-000002.tar").write_bytes(path.read_bytes())
        ((name, _, _, detail),) = found_by(verified(folder), "duplicate")
        assert name == "train-000002.tar" and "the same bytes as" in detail
    happened(f"verify: {detail.replace(str(folder), '...')}")


@pytest.mark.slow
@pytest.mark.fault(17, "no shard, or shards without a sample")
def test_an_empty_data_set(tmp_path, foundation, happened):
    result = foundation("data", "verify", tmp_path)
    assert result.returncode == 2 and "no shards in the folder" in result.stderr
    write_tar(tmp_path / "train-000000.tar", [("README", b"nothing here")])
    with pytest.raises(UserError, match=r"no samples in 1 shard \([^,]*\): "):
        open_shards(tmp_path)
    result = foundation("data", "verify", tmp_path)
    assert result.returncode == 3 and "no samples" in result.stdout and "README" in result.stdout
    happened("refused before the first step, exit 2; verify: empty, exit 3")


@pytest.mark.fault(29, "a shard removed while the run reads others")
def test_a_shard_that_vanishes(shard, happened, monkeypatch):
    monkeypatch.setattr("foundation.data.opened._RETRIES", (0.01, 0.01))
    path, other = shard(), shard(good(6, 6), name="train-000001")
    index_shards([str(path.parent)])
    shards = open_shards([path, other])
    assert shards.read(1, 0)["__key__"] == "s006"
    path.unlink()
    with pytest.raises(SampleError) as caught:
        shards.read(0, 3)
    assert (caught.value.shard, caught.value.reason) == (str(path), "missing")
    assert shards.read(1, 5)["__key__"] == "s011"
    happened("tried again, then each of its samples is counted as missing; the other shards are read on")


def test_scanning_stops_at_a_file_that_shrinks(tmp_path):
    path = write_tar(tmp_path / "x.tar", good(40))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        whole = scan(descriptor, str(path))
        os.truncate(path, 3 * MEMBER)
        assert len(scan(descriptor, str(path)).keys) < len(whole.keys)
    finally:
        os.close(descriptor)


@pytest.mark.slow
def test_verify_writes_its_report_and_never_over_another(shard, foundation, tmp_path):
    path = shard([*good(3), ("s003.png", picture()[:-300]), ("s003.cls", b"0")], indexed=True)
    report = tmp_path / "report.json"
    result = foundation("data", "verify", path, "--decode", "--json", report)
    assert result.returncode == 3, result.stderr
    assert "s003" in result.stdout and "truncated" in result.stdout
    content = json.loads(report.read_text())
    assert (content["schema"], content["shards"], content["samples"]) == (1, 1, 4)
    assert content["errors"] == {"truncated": 1} and content["versions"]["foundation"]
    (problem,) = content["problems"]
    assert (problem["shard"], problem["key"], problem["severity"]) == (str(path), "s003", "error")
    again = foundation("data", "verify", path, "--json", report)
    assert again.returncode == 2 and "--overwrite" in again.stderr
    assert json.loads(report.read_text()) == content


@pytest.mark.slow
def test_verify_of_good_shards_finds_nothing(shard, foundation, shared_data):
    path = shard(indexed=True)
    result = foundation("data", "verify", path.parent, "--decode")
    assert result.returncode == 0 and "good" in result.stdout, result.stdout
    for name in ("photos", "hapt_imu"):
        result = foundation("data", "verify", shared_data(name), "--workers", "2")
        assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_processes_find_what_one_process_finds(tmp_path, verified):
    for number in range(5):
        members = good(3, 3 * number) + ([("/x.png", b"")] if number == 2 else [])
        path = write_tar(tmp_path / f"train-{number:06d}.tar", members)
        if number == 4:
            os.truncate(path, 2000)
    one, two = verified(tmp_path), verified(tmp_path, workers=2)
    assert one.to_json() == two.to_json() and one.errors


def test_a_tar_of_tarfile_reads_the_same_after_the_mark(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(Path(__file__), "a.py")
    assert open_shards(path).num_samples == 1


@pytest.mark.parametrize("stated", [0, -1, 5, 8, 10**9, 6.0, "6"])
@pytest.mark.fault(18, "an index that states no, fewer, more or impossible numbers of samples")
def test_an_index_never_loses_samples_in_silence(shard, happened, monkeypatch, stated):
    path = shard(indexed=True)
    index = json.loads((path.parent / "index.json").read_text())
    index["splits"]["train"]["shards"][0]["samples"] = stated
    (path.parent / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="foundation data index") as caught:
        open_shards(path)
    said = (path.name, f"{stated:,}") if type(stated) is int else ("index.json", "splits.train.shards.0.samples")
    assert all(word in str(caught.value) for word in said)
    if stated in (5, 8):  # of many or remote shards the headers are read when a shard is first needed
        monkeypatch.setattr("foundation.data.shards._COUNTED", 0)
        shards = open_shards(path)
        bad = errors_of(shards)
        assert {error.reason for error in bad} == {"index"} and len(bad) == {5: 5, 8: 2}[stated]
        assert f"expected {stated} samples, found 6" in str(bad[0]) and "foundation data index" in str(bad[0])
    happened("refused at the start, exit 2, naming shard and both numbers; of large sets when the shard is first read")


@pytest.mark.fault(18, "an index that lists a shard twice")
def test_an_index_that_lists_a_shard_twice(shard, verified, happened):
    path = shard(indexed=True)
    index = json.loads((path.parent / "index.json").read_text())
    index["splits"]["test"] = index["splits"]["train"]
    (path.parent / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"index\.json is damaged.*train-000000\.tar is listed 2 times"):
        open_shards(path)
    assert found_by(verified(path), "index")
    happened("refused, exit 2; verify names it")
