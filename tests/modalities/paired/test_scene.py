"""Frames and readings of one motion agree: checked by physics, not by the formulas that made them."""

from __future__ import annotations

import numpy as np
import pytest

from foundation.modalities.paired.scene import (
    ACTIVITIES,
    LONGEST,
    Camera,
    Coordinate,
    Room,
    Sensor,
    Trajectory,
    trajectory,
)

G = 9.80665
FINE = np.arange(0, 3, 1e-4)


@pytest.mark.parametrize("activity", ACTIVITIES)
def test_readings_integrate_to_the_motion(activity):
    """Strapdown navigation: the gyroscope alone gives the attitude, with it the accelerometer gives the place."""
    path = trajectory(activity, 3.0, 0, 5, "train")
    step = FINE[1]
    turns, force = path.angular_velocity(FINE + step / 2), path.specific_force(FINE + step / 2)
    attitude, velocity, place = path.rotation(FINE[:1])[0], path.position(FINE[:1], 1)[0], path.position(FINE[:1])[0]
    for omega, felt in zip(turns, force, strict=True):
        angle = np.linalg.norm(omega) * step
        x, y, z = omega / max(np.linalg.norm(omega), 1e-12)
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        middle = attitude @ (np.eye(3) + 0.5 * angle * cross)
        change = middle @ felt - np.array([0, 0, G])
        place = place + velocity * step + 0.5 * change * step**2
        velocity, attitude = velocity + change * step, attitude @ turn
    end = np.array([FINE[-1] + step])
    assert np.abs(attitude - path.rotation(end)[0]).max() < 1e-4
    assert np.abs(velocity - path.position(end, 1)[0]).max() < 2e-3
    assert np.abs(place - path.position(end)[0]).max() < 2e-3


def test_activities_feel_as_they_should():
    times = (np.arange(300) + 0.5) / 100
    felt = {
        activity: [
            Sensor(100.0, 0, n, "train").record(trajectory(activity, 3.0, 0, n, "train"), times) for n in range(6)
        ]
        for activity in ACTIVITIES
    }
    norm = {a: [np.linalg.norm(r[:, :3], axis=1) for r in parts] for a, parts in felt.items()}
    for still in norm["still"]:
        assert abs(still.mean() - G) < 0.15 and still.std() < 0.1
    for activity in ("walk", "stairs", "turn", "nod"):
        assert np.mean([abs(n.mean() - G) for n in norm[activity]]) < 0.6
    swing = {a: np.mean([n.std() for n in parts]) for a, parts in norm.items()}
    assert swing["still"] < swing["walk"] < swing["run"] and swing["jump"] > swing["stairs"]
    for turn in felt["turn"]:
        assert abs(turn[:, 3:].mean(0)).max() > 0.4  # turns one way all the time
    for nod in felt["nod"]:
        assert nod[:, 4].std() > 0.5 and nod[:, 4].std() > 5 * nod[:, 5].std()
    walks = [np.abs(np.fft.rfft(r[:, 2] - r[:, 2].mean())) for r in felt["walk"]]
    assert all(1.3 <= spectrum[1:30].argmax() / 3 + 1 / 3 <= 2.4 for spectrum in walks)  # steps per second


def test_a_turning_camera_sees_the_room_glide_by_as_the_gyroscope_says():
    path = Trajectory(
        (Coordinate(0.5), Coordinate(-1.0), Coordinate(1.6)), (Coordinate(0.3, 0.5), Coordinate(), Coordinate())
    )
    camera, room = Camera(128), Room(0, 0, "test")
    first, later = (camera.picture(path, room, t).astype(float) for t in (0.0, 0.2))
    angle = path.angular_velocity(np.array([0.1]))[0, 2] * 0.2  # to the left
    assert angle == pytest.approx(0.1)
    row = 64  # at the height of the eyes a turn is a pure shift
    columns = np.arange(40, 100)
    sight = np.arctan((columns + 0.5 - 64) / camera.focal)  # to the right, rad
    before = np.tan(sight - angle) * camera.focal + 64 - 0.5  # what is seen now lay further left
    for channel in range(3):
        moved = np.interp(before, np.arange(128), first[row, :, channel])
        same = np.abs(moved - later[row, columns, channel]).mean()
        assert same < 6 and same < 0.4 * np.abs(first[row, columns, channel] - later[row, columns, channel]).mean()


def test_a_walking_camera_sees_what_lies_ahead_grow():
    path = Trajectory((Coordinate(0.0, 1.0), Coordinate(), Coordinate(1.6)), (Coordinate(), Coordinate(), Coordinate()))
    camera, room = Camera(129, field=15.0), Room(0, 1, "train")
    far, near = (camera.picture(path, room, t).astype(float) for t in (0.0, 4.0))
    factor = (14.0 - 0.0) / (14.0 - 4.0)  # the wall ahead is 14 m, then 10 m away
    reach = np.arange(-60, 61)
    for channel in range(3):
        moved = np.interp(64 + reach / factor, np.arange(129), far[64, :, channel])
        assert np.abs(moved - near[64, 64 + reach, channel]).mean() < 8


def test_every_sample_stays_inside_and_differs():
    times = np.linspace(0, LONGEST, 200)
    seen = []
    for number in range(40):
        path = trajectory(ACTIVITIES[number % len(ACTIVITIES)], LONGEST, 1, number, "test")
        place = path.position(times)
        assert (np.abs(place[:, :2]) < 13.5).all() and (place[:, 2] > 0.3).all() and (place[:, 2] < 3.1).all()
        seen.append(place[0])
    assert len(np.unique(np.round(seen, 6), axis=0)) == 40
    a, b = (trajectory("walk", 3.0, 0, 1, split).position(times) for split in ("train", "test"))
    assert not np.allclose(a, b)
    picture = Camera(32).picture(trajectory("still", 3.0, 0, 0, "train"), Room(0, 0, "train"), 0.0)
    assert picture.dtype == np.uint8 and picture.std() > 20
    assert not np.array_equal(
        picture, Camera(32).picture(trajectory("still", 3.0, 0, 0, "train"), Room(0, 1, "train"), 0.0)
    )
