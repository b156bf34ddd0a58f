"""The one table of extensions: what a member stands for."""

from __future__ import annotations

import pytest

from foundation.data.kinds import extensions_of, kind_of
from foundation.data.members import label_of


@pytest.mark.parametrize(
    "extension, modality, kind",
    [
        ("jpg", "", "picture"),
        ("avif", "", "picture"),
        ("rgb.png", "", "rgb.picture"),
        ("wav", "", "sound"),
        ("ply", "", "cloud"),
        ("mp4", "", "film"),
        ("npy", "", ".npy"),
        ("npy", "points", "cloud"),
        ("pcd.bin", "points", "cloud"),
        ("csv", "imu", "recording"),
        ("imu.npy", "imu", "recording"),
        ("gif", "", "picture"),
        ("gif", "video", "film"),
        ("cls", "image", ".cls"),
        ("xjpg", "image", ".xjpg"),
        ("jpg", "os.path", "picture"),  # an index may name anything: nothing is imported for it
    ],
)
def test_members_of_one_modality_are_of_one_kind(extension: str, modality: str, kind: str) -> None:
    assert kind_of(extension, modality) == kind


def test_no_extension_of_a_modality_is_listed_twice() -> None:
    for modality in ("image", "audio", "points", "video", "imu"):
        known = extensions_of(modality)
        assert known and len(set(known)) == len(known) and all(e == e.lower().lstrip(".") for e in known)
    assert extensions_of("paired") == ()


def test_a_label_that_an_editor_has_marked_as_unicode_is_a_number() -> None:
    assert label_of({"cls": "\ufeff3\r\n".encode()}) == (3, "")
