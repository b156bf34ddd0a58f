"""Meshes to points: the OFF format, and points spread over a surface by area."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation import counter
from foundation.modalities.points.tables import Limits, PointError, bounded, parse_numbers


def read_off_mesh(data: bytes, limits: Limits) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices and triangles of an OFF file; polygons are cut into fans.

    Args:
        data: the file.
        limits: of vertices and of faces.

    Returns:
        vertices [V, 3], triangles [F, 3].

    Raises:
        PointError: no OFF file, truncated, or a face that names a vertex which is not there.
    """
    if not data.startswith(b"OFF"):
        raise PointError("decode", "no OFF file: it does not begin with 'OFF'")
    body = data[3:]
    if b"#" in body:
        body = b"\n".join(line.partition(b"#")[0] for line in body.split(b"\n"))
    lines = [line for line in body.split(b"\n") if line.strip()]
    counts = lines[0].split() if lines else []
    if len(counts) < 2 or not all(word.isdigit() and len(word) < 12 for word in counts[:2]):
        raise PointError("decode", "the OFF file does not say how many vertices and faces it has")
    vertex_count, face_count = int(counts[0]), int(counts[1])
    bounded(vertex_count, limits, "vertices")
    bounded(face_count, limits, "faces")
    if len(lines) < 1 + vertex_count + face_count:
        raise PointError(
            "truncated", f"{len(lines) - 1} lines, but {vertex_count} vertices and {face_count} faces are announced"
        )
    rows = lines[1 : 1 + vertex_count]
    width = len(rows[0].split()) if rows else 3
    numbers = parse_numbers(b"\n".join(rows))
    if width < 3 or len(numbers) != vertex_count * width:
        raise PointError("decode", "vertices of an OFF file must all have x, y and z")
    triangles = _triangles(lines[1 + vertex_count : 1 + vertex_count + face_count])
    if len(triangles) and not 0 <= int(triangles.min()) <= int(triangles.max()) < vertex_count:
        raise PointError("corrupt", f"a face names a vertex that is not among the {vertex_count}")
    return numbers.reshape(vertex_count, width)[:, :3], triangles


def _triangles(rows: list[bytes]) -> NDArray[np.int64]:
    """[F, 3] from lines ``count a b c ...``, which may end in a colour."""
    if rows and all(row.split(None, 1)[0] == b"3" for row in rows):
        widths = {len(row.split()) for row in rows}
        if widths == {4}:
            return parse_numbers(b"\n".join(rows)).reshape(-1, 4)[:, 1:].astype(np.int64)
    triangles: list[tuple[int, int, int]] = []
    try:
        for row in rows:
            corners = [int(word) for word in row.split()[: 1 + int(row.split(None, 1)[0])]]
            if len(corners) != corners[0] + 1:
                raise ValueError
            triangles += [(corners[1], b, c) for b, c in pairwise(corners[2:])]
    except ValueError:
        raise PointError("decode", f"a face of the OFF file is not understood: {row[:60]!r}") from None
    return np.array(triangles, np.int64).reshape(-1, 3)


def sample_surface(
    vertices: NDArray[Any], triangles: NDArray[np.int64], count: int, source: bytes
) -> NDArray[np.float64]:
    """Points spread over a mesh, each area alike (Osada et al. 2002, "Shape distributions").

    Args:
        vertices: [V, 3].
        triangles: [F, 3] places of vertices.
        count: points to draw.
        source: bytes whose digest the draws depend on, so that a file always gives the same points.

    Returns:
        [count, 3].

    Raises:
        PointError: ``not_finite``, or ``shape`` where the mesh has no area.
    """
    corners = vertices[triangles].astype(np.float64)  # [F, 3, 3]
    if not np.isfinite(corners).all():
        raise PointError("not_finite", "a vertex of the mesh is not finite")
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    total = areas.cumsum()
    if not (len(total) and np.isfinite(total[-1]) and total[-1] > 0):
        raise PointError("shape", "the mesh has no area")
    identity = int.from_bytes(hashlib.blake2b(source, digest_size=7).digest(), "little")
    draws = counter.uniform(0, 0, identity, "points.surface", 3 * count).reshape(count, 3)
    faces = np.searchsorted(total, draws[:, 0] * total[-1], side="right").clip(max=len(total) - 1)
    root = np.sqrt(draws[:, 1])  # even over the triangle, not crowded at its first corner
    weights = np.stack([1 - root, root * (1 - draws[:, 2]), root * draws[:, 2]], 1)
    return np.asarray(np.einsum("nk,nkd->nd", weights, corners[faces]))
