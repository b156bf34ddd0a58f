"""Clouds of simple things with the part that every point belongs to: tables, chairs, lamps, mugs, aeroplanes.

Every thing has its own proportions and is scanned at random places with noise; it stands upright and is turned about
the vertical. ``parts.npy`` numbers the parts of all kinds through, in the order of ``PARTS``; the kind is the class.
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
from foundation.ranges import NonNegative, Side, argument

CARD = {
    "title": "Part shapes: clouds of things with the part of every point",
    "licence": "CC0-1.0",
    "source": "drawn by this file",
    "citation": "none",
    "modality": "points",
    "splits": ["train", "test"],
    "layout": "npy float32 [points, 3], cls (kind), parts.npy (uint8 [points])",
    "size": "5 kinds, 14 parts; 400 + 200 clouds of 1,024 points, 9 MB",
}
PARTS = {
    "table": ("top", "legs"),
    "chair": ("seat", "back", "legs"),
    "lamp": ("foot", "pole", "shade"),
    "mug": ("body", "handle"),
    "aeroplane": ("fuselage", "wings", "tail", "engines"),
}
"""Parts of each kind; the number of a part is its place among all of them."""

Points = NDArray[np.float64]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    generated.add_arguments(parser, train=400, test=200)
    parser.add_argument("--points", type=argument(Side), default=1024, help="points of a cloud (default: %(default)s)")
    parser.add_argument(
        "--noise", type=argument(NonNegative), default=0.01, help="of a point, in metres (default: %(default)s)"
    )


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the kinds, by class number."""
    return list(PARTS)


def samples(arguments: argparse.Namespace) -> Mapping[str, generated.Split]:
    """Clouds of both splits.

    Raises:
        UserError: an impossible number.
    """
    if arguments.points < 64:
        raise UserError(f"part_shapes: --points must be at least 64, got {arguments.points}")
    kinds = list(PARTS)

    def make(label: int, number: int, draw: Numbers, split: str) -> dict[str, bytes]:
        points, parts = scan(kinds[label], arguments.points, arguments.noise, draw)
        files = {"npy": io.BytesIO(), "parts.npy": io.BytesIO()}
        for file, array in zip(files.values(), (points, parts), strict=True):
            np.save(file, array)
        return {name: file.getvalue() for name, file in files.items()}

    return generated.samples("part_shapes", arguments, kinds, make)


def scan(kind: str, count: int, noise: float, draw: Numbers) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Points [count, 3] of one thing, mean at the origin and largest radius 1, and their parts [count].

    Args:
        kind: one of :data:`PARTS`.
        count: points.
        noise: standard deviation of a point, metres.
        draw: numbers of the thing.
    """
    pieces = thing(kind, draw)
    areas = np.array([piece.area for _, piece in pieces])
    chosen = np.searchsorted(np.cumsum(areas) / areas.sum(), draw.many(count)).clip(max=len(pieces) - 1)
    places = draw.many(3 * count).reshape(count, 3)
    first = sum(len(PARTS[other]) for other in list(PARTS)[: list(PARTS).index(kind)])
    names = PARTS[kind]
    points, parts = np.empty((count, 3)), np.empty(count, np.uint8)
    for number, (name, piece) in enumerate(pieces):
        own = chosen == number
        points[own], parts[own] = piece.at(places[own]), first + names.index(name)
    points += noise * draw.normal(3 * count).reshape(count, 3)
    angle = draw.between(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    points = points @ turn.T
    points -= points.mean(0)
    return (points / np.sqrt((points**2).sum(1).max())).astype(np.float32), parts


class Box:
    """The surface of a box: its middle and its sides [3], metres."""

    def __init__(self, middle: tuple[float, float, float], sides: tuple[float, float, float]) -> None:
        self.middle, self.sides = np.array(middle), np.array(sides)
        a, b, c = sides
        self.faces = np.array([b * c, a * c, a * b])
        self.area = 2 * float(self.faces.sum())

    def at(self, numbers: Points) -> Points:
        """[n, 3] places on it for [n, 3] numbers in [0, 1)."""
        shares = np.cumsum(self.faces) / self.faces.sum()
        axis = np.searchsorted(shares, numbers[:, 0]).clip(max=2)
        within = (numbers[:, 0] - np.concatenate([[0.0], shares])[axis]) / (self.faces / self.faces.sum())[axis]
        flat = np.empty((len(numbers), 3))
        rows = np.arange(len(numbers))
        flat[rows, axis] = np.where(within < 0.5, -0.5, 0.5)
        flat[rows, (axis + 1) % 3] = numbers[:, 1] - 0.5
        flat[rows, (axis + 2) % 3] = numbers[:, 2] - 0.5
        return self.middle + flat * self.sides


class Round:
    """The side of a body of revolution along an axis: a cylinder, a cone, or an arc of a ring.

    Args:
        middle: of its lower end.
        axis: 0 to 2, along which it lies.
        length: along the axis.
        radii: at its lower and its upper end.
    """

    def __init__(
        self, middle: tuple[float, float, float], axis: int, length: float, radii: tuple[float, float]
    ) -> None:
        self.middle, self.axis, self.length, self.radii = np.array(middle), axis, length, radii
        self.area = float(np.pi * sum(radii) * np.hypot(length, radii[1] - radii[0]))

    def at(self, numbers: Points) -> Points:
        """[n, 3] places on it for [n, 3] numbers in [0, 1)."""
        low, high = self.radii
        share = numbers[:, 0]
        if low != high:  # evenly over the area
            share = (np.sqrt(low**2 + share * (high**2 - low**2)) - low) / (high - low)
        radius, angle = low + (high - low) * share, 2 * np.pi * numbers[:, 1]
        found = np.empty((len(numbers), 3))
        found[:, self.axis] = self.length * share
        found[:, (self.axis + 1) % 3] = radius * np.cos(angle)
        found[:, (self.axis + 2) % 3] = radius * np.sin(angle)
        return self.middle + found


class Handle:
    """Half a ring that stands out along x: its middle, the ring's radius and that of its tube."""

    def __init__(self, middle: tuple[float, float, float], radius: float, tube: float) -> None:
        self.middle, self.radius, self.tube = np.array(middle), radius, tube
        self.area = float(2 * np.pi * tube * np.pi * radius)

    def at(self, numbers: Points) -> Points:
        """[n, 3] places on it for [n, 3] numbers in [0, 1)."""
        along, around = np.pi * (numbers[:, 0] - 0.5), 2 * np.pi * numbers[:, 1]
        out = self.radius + self.tube * np.cos(around)
        return self.middle + np.stack([out * np.cos(along), self.tube * np.sin(around), out * np.sin(along)], 1)


def thing(kind: str, draw: Numbers) -> list[tuple[str, Box | Round | Handle]]:
    """Pieces of a thing and the parts that they belong to."""
    wide, deep, high = draw.between(0.8, 1.4), draw.between(0.6, 1.0), draw.between(0.5, 0.9)
    thick, leg = draw.between(0.04, 0.1), draw.between(0.04, 0.1)
    corners = [(x * (wide - leg) / 2, y * (deep - leg) / 2) for x in (-1, 1) for y in (-1, 1)]
    if kind == "table":
        legs = [("legs", Box((x, y, high / 2), (leg, leg, high))) for x, y in corners]
        return [("top", Box((0, 0, high), (wide, deep, thick))), *legs]
    if kind == "chair":
        low = 0.6 * high
        legs = [("legs", Box((0.6 * x, 0.8 * y, low / 2), (leg, leg, low))) for x, y in corners]
        back = Box((0, 0.4 * deep, low + high / 2), (0.6 * wide, thick, high))
        return [("seat", Box((0, 0, low), (0.6 * wide, 0.8 * deep, thick))), ("back", back), *legs]
    if kind == "lamp":
        foot = Round((0, 0, 0), 2, thick, (0.35 * deep, 0.3 * deep))
        pole = Round((0, 0, thick), 2, 1.5 * high, (leg / 2, leg / 2))
        shade = Round((0, 0, 1.2 * high), 2, 0.5 * high, (0.45 * deep, 0.25 * deep))
        return [("foot", foot), ("pole", pole), ("shade", shade)]
    if kind == "mug":
        body = Round((0, 0, 0), 2, high, (0.4 * deep, 0.45 * deep))
        return [("body", body), ("handle", Handle((0.42 * deep, 0, high / 2), 0.3 * high, leg / 2))]
    body = Round((-wide / 2, 0, 0), 0, 1.3 * wide, (0.1, 0.06))
    wings = Box((0.1, 0, 0), (0.25 * deep, 1.4 * wide, 0.03))
    tail = [Box((-wide / 2, 0, 0.15), (0.15, 0.03, 0.3)), Box((-wide / 2, 0, 0.02), (0.15, 0.5 * deep, 0.03))]
    engines = [Round((0.05, side * 0.4 * wide, -0.08), 0, 0.25, (0.06, 0.05)) for side in (-1, 1)]
    return [
        ("fuselage", body),
        ("wings", wings),
        *(("tail", piece) for piece in tail),
        *(("engines", piece) for piece in engines),
    ]
