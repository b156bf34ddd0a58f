"""Groups of things built of boxes, tubes, balls and rings, as scanned point clouds: drawn by this file, so no download.

What stands there? A scan shows two to eight things of one kind out of twelve, each with proportions of its own, upright
and turned about the vertical. The group has any proportions, is stretched along its axes, turned about the vertical,
and seen from one side (the far side has fewer points or none), with noise and stray points. How the group stands and
how far it reaches say nothing about the kind: the shapes of the single things do, wherever they are. Two crops of a
scan share the kind and little else, which an encoder can learn. ``--things 1`` draws single things.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation import counter
from foundation.errors import UserError
from foundation.ranges import CountOrNone, Seed, Side, argument

CARD = {
    "title": "Solids: groups of things of simple parts, scanned",
    "licence": "CC0-1.0",
    "source": "drawn by this file",
    "citation": "none",
    "modality": "points",
    "splits": ["train", "test"],
    "layout": "npy float32 [points, 3], cls",
    "size": "1,440 + 480 clouds of 1,024 points, 28 MB",
}

Points = NDArray[np.float64]
Numbers = Callable[[str, int], NDArray[np.float64]]
"""Uniform numbers of one scan, by what they are for: (name, count) -> [count]."""
_SHAPE_DRAWS = 40
_STRETCH = 0.4
"""Along each axis of the group, the logarithm of the largest factor."""
_NOISE = 0.02
"""Standard deviation of a scan's noise, where a thing reaches about 1 from its middle."""
_AXES = {"x": (1, 2, 0), "y": (2, 0, 1), "z": (0, 1, 2)}


class _Random:
    """Hands out the numbers of one thing, one after the other, so that the code reads like the thing it makes."""

    def __init__(self, numbers: NDArray[np.float64]) -> None:
        self._numbers = iter(numbers.tolist())

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._numbers)


@dataclass(frozen=True)
class _Part:
    """A surface: its area, and points on it from uniform numbers [n, 4]."""

    area: float
    place: Callable[[NDArray[np.float64]], Points]


def _box(width: float, depth: float, height: float, at: tuple[float, float, float] = (0, 0, 0)) -> _Part:
    """Six sides around a centre."""
    sides = np.array([width, depth, height])
    areas = np.array([depth * height, width * height, width * depth])

    def place(u: NDArray[np.float64]) -> Points:
        axis = np.searchsorted(areas.cumsum() / areas.sum(), u[:, 0], side="right").clip(max=2)
        points = np.stack([u[:, 1], u[:, 2], np.round(u[:, 3])], 1) - 0.5
        order = np.array([[2, 0, 1], [0, 2, 1], [0, 1, 2]])[axis]
        return np.take_along_axis(points, order, axis=1) * sides + at

    return _Part(2 * float(areas.sum()), place)


def _tube(
    bottom: float, top: float, length: float, at: tuple[float, float, float] = (0, 0, 0), along: str = "z"
) -> _Part:
    """A cylinder or cone with its ends, around its middle."""
    slant = float(np.hypot(length, bottom - top))
    areas = np.array([np.pi * (bottom + top) * slant, np.pi * bottom**2, np.pi * top**2])

    def place(u: NDArray[np.float64]) -> Points:
        which = np.searchsorted(areas.cumsum() / areas.sum(), u[:, 0], side="right").clip(max=2)
        root = np.sqrt(bottom**2 + (top**2 - bottom**2) * u[:, 1])  # even over the slope, not along it
        along_side = (root - bottom) / (top - bottom) if abs(top - bottom) > 1e-9 else u[:, 1]
        radius = np.choose(which, [root, bottom * np.sqrt(u[:, 1]), top * np.sqrt(u[:, 1])])
        height = length * (np.choose(which, [along_side, 0 * u[:, 1], 1 + 0 * u[:, 1]]) - 0.5)
        angle = 2 * np.pi * u[:, 2]
        points = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], 1)
        return points[:, np.argsort(_AXES[along])] + at

    return _Part(float(areas.sum()), place)


def _ball(radius: float, flat: float = 1.0, at: tuple[float, float, float] = (0, 0, 0), above: float = -1.0) -> _Part:
    """A ball, flattened along z; only what lies above a share of its height."""

    def place(u: NDArray[np.float64]) -> Points:
        z = above + (1 - above) * u[:, 0]
        ring, angle = np.sqrt(1 - z**2), 2 * np.pi * u[:, 1]
        return radius * np.stack([ring * np.cos(angle), ring * np.sin(angle), flat * z], 1) + at

    return _Part(2 * np.pi * radius**2 * (1 - above), place)


def _ring(radius: float, thick: float, at: tuple[float, float, float] = (0, 0, 0), along: str = "z") -> _Part:
    def place(u: NDArray[np.float64]) -> Points:
        a, b = 2 * np.pi * u[:, 0], 2 * np.pi * u[:, 1]
        out = radius + thick * np.cos(b)
        points = np.stack([out * np.cos(a), out * np.sin(a), thick * np.sin(b)], 1)
        return points[:, np.argsort(_AXES[along])] + at

    return _Part(4 * np.pi**2 * radius * thick, place)


def _legs(r: _Random, width: float, depth: float, height: float) -> list[_Part]:
    thick = r.between(0.04, 0.08)
    x, y = width / 2 - thick, depth / 2 - thick
    return [_box(thick, thick, height, (i * x, j * y, -height / 2)) for i in (-1, 1) for j in (-1, 1)]


def _table(r: _Random) -> list[_Part]:
    width, depth = r.between(0.9, 1.8), r.between(0.6, 0.9)
    return [_box(width, depth, 0.05), *_legs(r, width, depth, r.between(0.5, 0.9))]


def _chair(r: _Random) -> list[_Part]:
    width, depth, back = r.between(0.4, 0.6), r.between(0.4, 0.6), r.between(0.4, 0.8)
    return [_box(width, depth, 0.05), _box(width, 0.05, back, (0, depth / 2, back / 2)), *_legs(r, width, depth, 0.5)]


def _stool(r: _Random) -> list[_Part]:
    radius, height = r.between(0.2, 0.35), r.between(0.4, 0.8)
    foot = r.between(0.7, 1.0) * radius
    return [
        _tube(radius, radius, 0.06),
        _tube(0.04, 0.04, height, (0, 0, -height / 2)),
        _tube(foot, foot, 0.04, (0, 0, -height)),
    ]


def _lamp(r: _Random) -> list[_Part]:
    height, wide = r.between(0.6, 1.2), r.between(0.25, 0.4)
    shade = _tube(wide, r.between(0.3, 0.6) * wide, r.between(0.25, 0.4), (0, 0, height / 2))
    return [shade, _tube(0.02, 0.02, height), _tube(0.2, 0.2, 0.03, (0, 0, -height / 2))]


def _mug(r: _Random) -> list[_Part]:
    radius, height = r.between(0.25, 0.4), r.between(0.5, 0.8)
    return [_tube(radius, radius, height), _ring(r.between(0.3, 0.4) * height, 0.04, (radius, 0, 0), "y")]


def _bottle(r: _Random) -> list[_Part]:
    radius, body, neck = r.between(0.18, 0.3), r.between(0.5, 0.8), r.between(0.2, 0.4)
    cone = 0.2
    return [
        _tube(radius, radius, body),
        _tube(radius, 0.07, cone, (0, 0, (body + cone) / 2)),
        _tube(0.07, 0.07, neck, (0, 0, body / 2 + cone + neck / 2)),
    ]


def _dumbbell(r: _Random) -> list[_Part]:
    length, radius = r.between(0.6, 1.1), r.between(0.18, 0.3)
    return [_tube(0.04, 0.04, length), *(_ball(radius, 1.0, (0, 0, end * length / 2)) for end in (-1, 1))]


def _hammer(r: _Random) -> list[_Part]:
    length, head = r.between(0.8, 1.2), r.between(0.35, 0.6)
    thick = r.between(0.08, 0.14)
    return [_tube(0.04, 0.05, length), _tube(thick, thick, head, (0, 0, length / 2), "x")]


def _aeroplane(r: _Random) -> list[_Part]:
    length, span, chord = r.between(1.0, 1.5), r.between(0.9, 1.6), r.between(0.18, 0.3)
    radius = r.between(0.07, 0.12)
    return [
        _tube(radius, radius / 2, length, along="x"),
        _box(chord, span, 0.02, (r.between(-0.1, 0.1), 0, 0)),
        _box(chord / 2, span / 3, 0.02, (length / 2, 0, 0)),
        _box(chord / 2, 0.02, span / 5, (length / 2, 0, span / 10)),
    ]


def _car(r: _Random) -> list[_Part]:
    length, width, height = r.between(1.0, 1.5), r.between(0.45, 0.6), r.between(0.2, 0.3)
    wheel = r.between(0.1, 0.15)
    wheels = [
        _tube(wheel, wheel, 0.08, (i * length / 3, j * width / 2, -height / 2), "y") for i in (-1, 1) for j in (-1, 1)
    ]
    cabin = _box(length * r.between(0.4, 0.6), width * 0.9, height, (r.between(-0.1, 0.15), 0, height))
    return [_box(length, width, height), cabin, *wheels]


def _ladder(r: _Random) -> list[_Part]:
    length, width, rungs = r.between(1.2, 1.8), r.between(0.3, 0.45), int(r.between(4, 8))
    steps = [(-0.5 + (n + 0.5) / rungs) * length for n in range(rungs)]
    rails = [_box(0.05, 0.05, length, (side * width / 2, 0, 0)) for side in (-1, 1)]
    return rails + [_tube(0.025, 0.025, width, (0, 0, z), "x") for z in steps]


def _mushroom(r: _Random) -> list[_Part]:
    stem, wide = r.between(0.4, 0.7), r.between(0.3, 0.5)
    cap = _ball(wide, r.between(0.6, 1.0), (0, 0, stem / 2), above=0.0)
    return [cap, _tube(wide, wide, 0.01, (0, 0, stem / 2)), _tube(0.12, r.between(0.07, 0.12), stem)]


_THINGS: dict[str, Callable[[_Random], list[_Part]]] = {
    "aeroplane": _aeroplane, "bottle": _bottle, "car": _car, "chair": _chair, "dumbbell": _dumbbell, "hammer": _hammer,
    "ladder": _ladder, "lamp": _lamp, "mug": _mug, "mushroom": _mushroom, "stool": _stool, "table": _table,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--points", type=argument(Side), default=1024, help="points of a cloud (default: %(default)s)")
    parser.add_argument(
        "--things",
        type=argument(Side),
        default=8,
        help="most things in a scan; the fewest are a quarter of them (default: %(default)s)",
    )
    parser.add_argument(
        "--train", type=argument(CountOrNone), default=1440, help="clouds to train on (default: %(default)s)"
    )
    parser.add_argument(
        "--test", type=argument(CountOrNone), default=480, help="clouds to test on (default: %(default)s)"
    )
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of everything that is drawn (default: 0)")


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the labels, in order."""
    return list(_THINGS)


def samples(arguments: argparse.Namespace) -> Mapping[str, _Split]:
    """The splits, drawn while they are written.

    Raises:
        UserError: an impossible number.
    """
    for name, least in (("points", 64), ("train", 1), ("test", 1)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name} must be at least {least}, got {getattr(arguments, name)}")
    if arguments.things > arguments.points // 16:
        most = arguments.points // 16
        raise UserError(f"--things {arguments.things} with --points {arguments.points}: at most {most}, 16 points each")
    # Numbers of the two splits never meet, whatever their sizes.
    return {
        split: _Split(arguments.seed, split, first, getattr(arguments, split), arguments.points, arguments.things)
        for split, first in (("train", 0), ("test", 1 << 40))
    }


@dataclass(frozen=True)
class _Split:
    seed: int
    split: str
    first: int
    count: int
    points: int
    things: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        names = list(_THINGS)
        for place in range(self.count):
            label = place % len(names)
            stream = io.BytesIO()
            np.save(stream, scan(names[label], self.points, self.seed, self.first + place, self.things))
            yield {
                "__key__": f"{self.split}-{names[label]}-{place:05d}",
                "npy": stream.getvalue(),
                "cls": str(label).encode(),
            }


def _thing(kind: str, count: int, numbers: Numbers, number: int) -> Points:
    """Points [count, 3] on one thing, turned about the vertical, 0.8 to 1.2 from its middle to its end."""
    from foundation.modalities.rotations import rotation

    how = numbers(f"thing{number}", 8)
    parts = _THINGS[kind](_Random(numbers(f"shape{number}", _SHAPE_DRAWS)))
    u = numbers(f"surface{number}", 5 * count).reshape(count, 5)
    areas = np.cumsum([part.area for part in parts])
    which = np.searchsorted(areas / areas[-1], u[:, 0], side="right").clip(max=len(parts) - 1)
    cloud = np.empty((count, 3))
    for place, part in enumerate(parts):
        cloud[which == place] = part.place(u[which == place, 1:])
    cloud -= cloud.mean(0)
    cloud *= (0.8 + 0.4 * how[3]) / np.sqrt((cloud**2).sum(1).max())
    return np.asarray(cloud @ rotation("axis", 2, 180.0, how[:3]).T)


def _spots(things: int, numbers: Numbers) -> Points:
    """Where the things lie [things, 3]: in a box of any proportions, each far from the ones before it (16 tries)."""
    sides = np.exp(0.9 * (2 * numbers("box", 3) - 1))
    sides *= 1.3 * (things / sides.prod()) ** (1 / 3)
    tries = (numbers("spots", 3 * 16 * things).reshape(things, 16, 3) - 0.5) * sides
    spots = tries[0, :1]
    for own in tries[1:]:
        near = np.linalg.norm(own[:, None] - spots, axis=2).min(1)
        spots = np.concatenate([spots, own[near.argmax()][None]])
    return spots


def scan(kind: str, count: int, seed: int, identity: int, things: int) -> NDArray[np.float32]:
    """One cloud [count, 3], mean at the origin, largest radius 1.

    Args:
        kind: of the things.
        count: points.
        seed: of the set.
        identity: number of the cloud; no two have the same.
        things: the most that lie in it; the fewest are a quarter of them.
    """
    from foundation.counter import normal
    from foundation.modalities.rotations import rotation

    def numbers(what: str, number: int) -> NDArray[np.float64]:
        return counter.uniform(seed, 0, identity, f"solids.{what}", number)[0]

    plenty = 3 * count
    how = numbers("pose", 16)
    fewest = max(1, things // 4)
    things = fewest + int(how[9] * (things - fewest + 1))
    shares = [len(part) for part in np.array_split(np.arange(plenty), things)]
    pieces = [_thing(kind, share, numbers, number) for number, share in enumerate(shares)]
    cloud = np.concatenate([a + b for a, b in zip(pieces, _spots(things, numbers), strict=True)])
    cloud = (cloud - cloud.mean(0)) * np.exp(_STRETCH * (2 * how[:3] - 1))
    cloud = cloud @ rotation("axis", 2, 180.0, how[3:6]).T
    reach = np.sqrt((cloud**2).sum(1).max())
    cloud /= reach
    # The scanner stands at +x: what faces away is seen less, down to a share that differs from scan to scan.
    chance = numbers("seen", plenty) ** (1 / (0.15 + how[6] + np.clip(cloud[:, 0] + 0.6, 0, 1)))
    cloud = cloud[np.argsort(-chance, kind="stable")[:count]]
    bell = normal(numbers("noise", 3 * count + count % 2))[: 3 * count].reshape(count, 3)
    cloud += _NOISE / reach * bell
    stray = int(0.01 * how[8] * count)  # few: farthest-point sampling finds every one of them
    cloud[:stray] = 1.4 * numbers("stray", 3 * count).reshape(count, 3)[:stray] - 0.7
    cloud -= cloud.mean(0)
    return (cloud / np.sqrt((cloud**2).sum(1).max())).astype(np.float32)
