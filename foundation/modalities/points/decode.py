"""From the bytes of one file to a point cloud: coordinates and whatever the file says of each point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from foundation.data import members
from foundation.errors import Note, SampleError, UserError
from foundation.ranges import Count, Range, check
from foundation.types import Sample
from foundation.voice import plural

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXTENSIONS = ("npy", "npz", "ply", "off", "las", "laz", "pcd", "pcd.bin", "bin", "xyz", "pts", "asc", "txt", "csv")
"""Members that count as the cloud of a sample, in the order in which they are looked for."""

_LOOKED_AT = 16384


@dataclass(frozen=True, kw_only=True)
class Config:
    """How files of points become clouds."""

    max_points: Count = 10_000_000
    """Clouds with more points (or meshes with more vertices or faces) are refused before memory is asked for."""
    min_points: Count = 64
    """Clouds with fewer different points are refused: views of them would hold more groups than points."""
    columns: Annotated[int, Range(3, 65536)] = 3
    """Numbers that a point must have at least; files with fewer are refused. Views ask for as many as they use."""
    surface_points: Count = 4096
    """Points that are drawn from the surface of a mesh (OFF), by area; the same ones each time."""
    drop_not_finite: bool = False
    """Leave out points with NaN or infinity (a scanner's rays without a return) and keep the rest of the cloud."""
    member: str | None = None
    """The cloud's member, such as ``ply`` or ``lidar.bin``; None: the first with a point file's extension."""
    label: str = "label"
    """Key of the class number in a sample's ``json`` member, used where it has no ``cls`` member."""

    def __post_init__(self) -> None:
        check(self, "decode")
        if self.min_points > self.max_points:
            raise UserError(f"decode.min_points {self.min_points} is more than decode.max_points {self.max_points}")

    def build(self) -> Callable[[Mapping[str, Any]], Sample]:
        """The function from a raw sample to a sample."""
        return partial(decode, config=self)


def decode(raw: Mapping[str, Any], config: Config | None = None) -> Sample:
    """Decodes the cloud and the label of one sample.

    Args:
        raw: members of the sample by extension (bytes), with ``__key__``, ``__shard__`` and ``__id__``.
        config: limits; the defaults when absent.

    Returns:
        ``points``: float32 [N, 3 + F], coordinates in the file's unit (metres for scans) relative to ``points_origin``,
        then F further numbers; ``points_origin``: float64 [3], what was subtracted from the coordinates before they
        became float32 (0 for clouds near zero); and ``label`` (a number, a name or several) where the sample has one,
        beside the ``__...__`` entries.

    Raises:
        SampleError: reason ``missing``, ``empty``, ``decode``, ``truncated``, ``corrupt``, ``unsafe``, ``too_large``,
            ``shape``, ``not_finite`` or ``too_short`` (fewer different points than ``min_points``).
        UserError: a LAS file, and laspy is not installed.
    """
    import torch

    config = config or Config()
    shard, key = members.origin_of(raw)
    name = members.required(raw, config.member, EXTENSIONS, "point cloud")
    from foundation.modalities.points.tables import PointError

    try:
        cloud = decode_bytes(raw[name], _extension(name), config)
    except PointError as error:
        raise SampleError(shard, key, error.reason, f"{name} ({len(raw[name])} bytes): {error}") from None
    sample: Sample = {k: v for k, v in raw.items() if k.startswith("__")}
    sample["points"], sample["points_origin"] = torch.from_numpy(cloud.points), cloud.origin
    members.note(sample, *cloud.notes)
    members.put_label(sample, raw, config.label)
    return sample


def _extension(name: str) -> str:
    return next(e for e in (*sorted(EXTENSIONS, key=len, reverse=True), "") if ("." + name.lower()).endswith("." + e))


@dataclass(frozen=True)
class Cloud:
    """One cloud.

    Attributes:
        points: float32 [N, 3 + F], finite, coordinates relative to the origin.
        origin: float64 [3] in the file's unit; 0 for a cloud that lies near zero.
        notes: what is worth knowing.
    """

    points: NDArray[np.float32]
    origin: NDArray[np.float64]
    notes: tuple[Note, ...]


def decode_bytes(data: bytes, extension: str, config: Config | None = None) -> Cloud:
    """Decodes one file.

    Args:
        data: the file.
        extension: what it is called, without a dot.
        config: limits; the defaults when absent.

    Raises:
        PointError: (a ValueError) with its reason.
    """
    import numpy as np

    from foundation.modalities.points.precision import settled
    from foundation.modalities.points.readers import READERS
    from foundation.modalities.points.tables import Limits, PointError

    config = config or Config()
    if not data:
        raise PointError("empty", "no bytes")
    reader = READERS.get(extension)
    if reader is None:
        raise PointError("decode", f"no reader for the extension {extension!r} (there are: {', '.join(READERS)})")
    table = reader(data, Limits(config.max_points, config.surface_points))
    points, origin, notes = settled(table)
    if points.shape[1] < config.columns:
        raise PointError("shape", f"points have {points.shape[1]} numbers; {config.columns} are needed")
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        if not config.drop_not_finite:
            first = int(np.flatnonzero(~finite)[0])
            bad = f"{int((~finite).sum())} of {len(points)} points"
            raise PointError(
                "not_finite", f"{bad} are not finite (first: point {first}, {table.values[first].tolist()})"
            )
        points = np.ascontiguousarray(points[finite])
    different = _different(points[:, :3], config.min_points)
    if different < config.min_points:
        repeated = f", {different} of them different" if different < len(points) else ""
        raise PointError(
            "too_short", f"{plural(len(points), 'point')}{repeated}; at least {config.min_points} are needed"
        )
    return Cloud(points, origin, notes)


def _different(xyz: Any, enough: int) -> int:
    """Number of different points, counted until there are enough: on a few first, on all only in doubt."""
    import numpy as np

    step = max(1, len(xyz) // max(_LOOKED_AT, 4 * enough))
    for rows in dict.fromkeys((step, 1)):
        found = len(np.unique(xyz[::rows], axis=0))
        if found >= enough:
            break
    return found
