"""Wires bent in the same way, several in each scanned cloud: drawn by this file, so no download.

In which way are they bent? Every wire has four straight pieces: up or down, on, up or down, then on, back or aside,
which makes twelve ways. A cloud shows six to ten wires of one way. Nothing but the way the corners point differs
between the ways: each wire has the same four pieces and three right angles, so that the neighbourhood of a point does
not tell, and where the wires lie is drawn. Each wire has lengths of its own and is turned and tilted a little; each
cloud has its own thickness, proportions and stray points. So two crops of a cloud share the way and little else, which
an encoder can learn. The task was chosen, on sets of ``--seed 1``, so that an encoder learns it in minutes and simple
features do not tell.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from foundation.data import generated
from foundation.data.generated import Numbers
from foundation.errors import UserError
from foundation.ranges import Side, argument

CARD = {
    "title": "Wires: wires bent in the same way, scanned",
    "licence": "CC0-1.0",
    "source": "drawn by this file",
    "citation": "none",
    "modality": "points",
    "splits": ["train", "test"],
    "layout": "npy float32 [points, 3], cls",
    "size": "960 + 480 clouds of 1,024 points, 21 MB",
}

Points = NDArray[np.float64]
_FIRST = {"up": (0, 0, 1), "down": (0, 0, -1)}
_LAST = {"on": (1, 0, 0), "back": (-1, 0, 0), "aside": (0, 1, 0)}
WAYS = {
    f"{first} {second} {last}": np.array([_FIRST[first], (1, 0, 0), _FIRST[second], _LAST[last]], np.float64)
    for first in _FIRST
    for second in _FIRST
    for last in _LAST
}
"""Directions of the four pieces [4, 3] by name of the way, before the wire is turned; the second goes on (+x)."""
_LENGTHS = (0.625, 1.6)
_TURN, _TILT = 40.0, 20.0
"""Largest turn of a wire about the vertical, and about x and y, in degrees."""
_THICKNESS = (0.03, 0.08)
"""Standard deviation of the points around the middle of a wire, where a piece is about 1 long."""
_STRETCH = 0.4
"""Along each axis of the cloud, the logarithm of the largest factor."""
_APART = 2.2
_STRAY = 0.05
"""Largest share of points that lie anywhere."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    generated.add_arguments(parser, train=960, test=480)
    parser.add_argument("--points", type=argument(Side), default=1024, help="points of a cloud (default: %(default)s)")
    parser.add_argument(
        "--wires",
        type=argument(Side),
        default=10,
        help="most wires in a cloud; the fewest are three fifths of them (default: %(default)s)",
    )


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the ways, by class number."""
    return list(WAYS)


def samples(arguments: argparse.Namespace) -> Mapping[str, generated.Split]:
    """Clouds of both splits, drawn while they are written.

    Raises:
        UserError: an impossible number.
    """
    if arguments.points < 64:
        raise UserError(f"--points must be at least 64, got {arguments.points}")
    if arguments.wires > arguments.points // 16:
        most = arguments.points // 16
        raise UserError(f"--wires {arguments.wires} with --points {arguments.points}: at most {most}, 16 points each")
    names = list(WAYS)

    def make(label: int, number: int, draw: Numbers, split: str) -> dict[str, bytes]:
        stream = io.BytesIO()
        np.save(stream, scan(names[label], arguments.points, arguments.wires, draw))
        return {"npy": stream.getvalue()}

    return generated.samples("wires", arguments, names, make)


def scan(way: str, count: int, most: int, draw: Numbers) -> NDArray[np.float32]:
    """One cloud [count, 3], mean at the origin, largest radius 1.

    Args:
        way: one of :data:`WAYS`.
        count: points.
        most: wires at most; the fewest are three fifths of them.
        draw: numbers of this cloud.
    """
    fewest = max(1, 3 * most // 5)
    wires = fewest + draw.whole(most - fewest + 1)
    thickness = draw.ratio(*_THICKNESS)
    shares = np.cumsum([draw.ratio(0.7, 1.4) for _ in range(wires)])
    counts = np.diff(np.round(count * shares / shares[-1]).astype(int), prepend=0)
    spots = places(wires, draw)
    cloud = np.concatenate(
        [wire(way, int(own), thickness, draw) + spot for own, spot in zip(counts, spots, strict=True)]
    )
    cloud = (cloud - cloud.mean(0)) * np.exp(_STRETCH * (2 * draw.many(3) - 1))
    cloud = cloud[np.argsort(draw.many(count), kind="stable")]
    low, high = cloud.min(0), cloud.max(0)
    stray = int(_STRAY * draw.between(0, 1) * count)
    cloud[:stray] = low + (high - low) * draw.many(3 * count).reshape(count, 3)[:stray]
    cloud -= cloud.mean(0)
    return (cloud / np.sqrt((cloud**2).sum(1).max())).astype(np.float32)


def wire(way: str, count: int, thickness: float, draw: Numbers) -> Points:
    """Points [count, 3] around a wire with lengths of its own, a little turned and tilted, mean at the origin."""
    from foundation.modalities.rotations import rotation

    lengths = np.array([draw.ratio(*_LENGTHS) for _ in range(4)])
    ends = np.concatenate([np.zeros((1, 3)), (lengths[:, None] * WAYS[way]).cumsum(0)])
    edges = np.concatenate([[0.0], lengths.cumsum()])
    at = draw.many(count) * edges[-1]
    points = np.stack([np.interp(at, edges, ends[:, axis]) for axis in range(3)], 1)
    points += thickness * draw.normal(3 * count).reshape(count, 3)
    points -= points.mean(0)
    for axis, degrees in ((2, _TURN), (0, _TILT), (1, _TILT)):
        points = points @ rotation("axis", axis, degrees, draw.many(3)).T
    return points


def places(wires: int, draw: Numbers) -> Points:
    """Where the wires lie [wires, 3]: in a box of any proportions, each far from the ones before it (16 tries)."""
    sides = np.array([draw.ratio(0.5, 2.0) for _ in range(3)])
    sides *= _APART * (wires / sides.prod()) ** (1 / 3)
    tries = (draw.many(3 * 16 * wires).reshape(wires, 16, 3) - 0.5) * sides
    found = tries[0, :1]
    for own in tries[1:]:
        near = np.linalg.norm(own[:, None] - found, axis=2).min(1)
        found = np.concatenate([found, own[near.argmax()][None]])
    return found
