"""Following a real face (NASA's photograph of an astronaut, public domain) through made videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
import skimage.data

from latentsync.errors import FaceError
from latentsync.faces.align import control_points, fit_similarity, template
from latentsync.faces.detect import Detector
from latentsync.faces.landmarks import BundledLandmarker, load_landmarks
from latentsync.faces.track import FaceChoice, TrackedFrame, TrackSettings, parse_face_choice, track
from latentsync.types import Frame, FrameImage

WIDTH, HEIGHT = 320, 240


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


@pytest.fixture(scope="module")
def landmarker() -> BundledLandmarker:
    return load_landmarks()


def picture(shift_x: float, *, zoom: float = 0.8, shift_y: float = 0, level: float = 1.0) -> FrameImage:
    """The astronaut's head, moved by whole or half pixels from the middle."""
    matrix = np.array([[zoom, 0, 160 + shift_x - 222 * zoom], [0, zoom, 120 + shift_y - 120 * zoom]])
    frame = cv2.warpAffine(skimage.data.astronaut(), matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
    return np.clip(frame * level, 0, 255).astype(np.uint8)


def two_people() -> FrameImage:
    """A small head on the left of a large one."""
    return np.hstack([picture(0, zoom=0.5)[:, 60:260], picture(0)[:, 60:260]])


def empty() -> FrameImage:
    return np.full((HEIGHT, WIDTH, 3), 110, np.uint8)


Follow = Callable[..., list[TrackedFrame]]


@pytest.fixture
def follow(detector: Detector, landmarker: BundledLandmarker) -> Follow:
    def run(pictures: list[FrameImage], choice: str = "largest", **settings: object) -> list[TrackedFrame]:
        frames = (Frame(rgb_u8, index, index / 25) for index, rgb_u8 in enumerate(pictures))
        return list(
            track(
                frames,
                choice=parse_face_choice(choice),
                resolution=256,
                detector=detector,
                landmarker=landmarker,
                settings=TrackSettings(**settings),  # type: ignore[arg-type]
            )
        )

    return run


def face_x(row: TrackedFrame) -> float:
    """Where the crop's middle lies in the frame."""
    assert row.affine is not None
    middle = [*template(256).mean(0), 1]
    return float((cv2.invertAffineTransform(row.affine.crop_from_frame) @ middle)[0])


def test_crop_follows_a_steady_motion_without_delay(follow: Follow) -> None:
    rows = follow([picture(2 * k - 30) for k in range(30)])
    assert [row.frame.index for row in rows] == list(range(30))
    assert all(row.face is not None for row in rows)
    moved = np.array([face_x(row) for row in rows]) - [2 * k for k in range(30)]
    assert np.ptp(moved) < 3


def test_crop_is_steadier_than_the_points(follow: Follow) -> None:
    random = np.random.default_rng(1)
    rows = follow([picture(k + random.normal(0, 1)) for k in range(25)])
    alone = [fit_similarity(control_points(row.face.points), 256) for row in rows if row.face]
    steady = [row.affine.crop_from_frame for row in rows if row.affine]
    assert np.abs(np.diff(steady, 2, axis=0)).mean() < 0.5 * np.abs(np.diff(alone, 2, axis=0)).mean()


def test_a_short_gap_is_bridged_and_a_long_one_is_not(follow: Follow) -> None:
    head = picture(0, zoom=0.5)
    gap = head.copy()
    gap[80:170, 115:205] = 110
    rows = follow([head] * 8 + [gap] * 3 + [head] * 8 + [gap] * 8 + [head] * 4)
    assert [row.is_interpolated for row in rows] == [False] * 8 + [True] * 3 + [False] * 20
    assert [row.face is None for row in rows] == [False] * 19 + [True] * 8 + [False] * 4
    assert all((row.face is None) == (row.affine is None) for row in rows)


def test_smoothing_stops_at_a_cut(follow: Follow) -> None:
    other = np.ascontiguousarray(255 - picture(0)[::-1])
    other[:, :] = other // 4
    other[20:220, 10:210] = picture(0)[20:220, 60:260]
    rows = follow([picture(0)] * 8 + [other] * 8)
    centres = [face_x(row) for row in rows]
    assert np.ptp(centres[:8]) < 0.5 and np.ptp(centres[8:]) < 0.5
    assert abs(centres[7] - centres[8]) > 45


def test_the_chosen_face_is_kept(follow: Follow) -> None:
    frames = [two_people()] * 14
    assert all(face_x(row) < 200 for row in follow(frames, "left"))
    assert all(face_x(row) > 200 for row in follow(frames, "largest"))
    assert all(face_x(row) > 200 for row in follow(frames, "1"))
    assert all(face_x(row) < 200 for row in follow(frames, "100,120"))


def test_a_face_that_is_not_there_is_named(follow: Follow) -> None:
    with pytest.raises(FaceError, match=r"no face number 2.* has 2 faces"):
        follow([empty(), two_people()], "2")


def test_frames_without_a_face_pass_through(follow: Follow) -> None:
    frames = [empty()] * 5
    rows = follow(frames)
    assert [row.face for row in rows] == [None] * 5
    assert all(row.frame.rgb_u8 is frame for row, frame in zip(rows, frames, strict=True))


def test_few_frames_are_held_back(detector: Detector, landmarker: BundledLandmarker) -> None:
    asked = 0

    def frames() -> Iterator[Frame]:
        nonlocal asked
        for index in range(40):
            asked += 1
            yield Frame(picture(0), index, index / 25)

    rows = track(frames(), choice=FaceChoice(), resolution=128, detector=detector, landmarker=landmarker)
    next(rows)
    assert asked <= 13


def test_released_smoothing_is_that_of_the_points(follow: Follow) -> None:
    rows = follow([picture(0)] * 3, smoothing="released")
    assert rows[0].face is not None and rows[0].affine is not None
    alone = fit_similarity(control_points(rows[0].face.points), 256)
    np.testing.assert_allclose(rows[0].affine.crop_from_frame[:, :2], alone[:, :2])
    assert 0 < np.abs(rows[0].affine.crop_from_frame[:, 2] - alone[:, 2]).max() < 2


def test_a_still_picture_is_looked_at_once(
    follow: Follow, landmarker: BundledLandmarker, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    points = landmarker.points
    monkeypatch.setattr(
        landmarker, "points", lambda rgb_u8, square: (looks.append(square), points(rgb_u8, square))[1]
    )
    follow([picture(0)])
    once = len(looks)
    still = picture(0)
    rows = follow([still] * 30)
    assert len(looks) == 2 * once
    affines = [row.affine.crop_from_frame for row in rows if row.affine is not None]
    assert len(affines) == 30 and np.allclose(affines, affines[0], atol=1e-6)
