"""Who speaks is chosen by how well lips fit, changes at cuts and when that lasts, and may be nobody."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latentsync.faces.choice import Seen
from latentsync.faces.everyone import FaceTrack
from latentsync.faces.track import Found
from latentsync.sync.speaker import Evidence, decide, describe
from latentsync.types import Frame

POINTS = np.zeros((68, 2), np.float32)


def evidence(fits: dict[int, list[float]], shots: list[int], loud: list[bool] | None = None) -> Evidence:
    """Faces at 25 fps; NaN where one is not seen."""
    face_tracks = {}
    for number, fit in fits.items():
        seen = [frame for frame, value in enumerate(fit) if not np.isnan(value)]
        face_tracks[number] = FaceTrack(number, shots[seen[0]], {frame: POINTS + number for frame in seen})
    arrays: dict[int, NDArray[np.float64]] = {number: np.array(fit) for number, fit in fits.items()}
    is_loud = np.array(loud or [True] * len(shots))
    return Evidence(shots, [frame / 25 for frame in range(len(shots))], face_tracks, arrays, is_loud)


def people(found: Evidence) -> list[int]:
    """Who is chosen in each frame."""
    seen, _ = decide(found)
    return [0 if one.points is None else int(one.points[0, 0]) for _, one in sorted(seen.items())]


def test_the_choice_follows_whose_lips_fit() -> None:
    found = evidence({1: [0.6] * 50 + [0.0] * 50, 2: [0.0] * 50 + [0.6] * 50}, [0] * 100)
    assert people(found) == [1] * 50 + [2] * 50
    _, turns = decide(found)
    assert [(turn.start_s, turn.end_s, turn.person) for turn in turns] == [(0, 2, 1), (2, 3.96, 2)]


def test_a_moment_does_not_change_the_choice_a_cut_does() -> None:
    steady = [0.6] * 40 + [0.3] * 5 + [0.6] * 40
    moment = [0.1] * 40 + [0.7] * 5 + [0.1] * 40
    assert people(evidence({1: steady, 2: moment}, [0] * 85)) == [1] * 85
    nan = [np.nan]
    before, after = [0.6] * 40 + nan * 12, nan * 40 + [0.6] * 12
    assert people(evidence({1: before, 2: after}, [0] * 40 + [1] * 12)) == [1] * 40 + [2] * 12


def test_where_nobody_fits_nobody_is_chosen_and_pauses_keep_the_last() -> None:
    listening = evidence({1: [0.6] * 50 + [np.nan] * 50, 2: [np.nan] * 50 + [0.05] * 50}, [0] * 50 + [1] * 50)
    assert people(listening) == [1] * 50 + [0] * 50
    _, turns = decide(listening)
    assert describe(turns) == "1 turn of 1 face; for 2.0 s nobody's lips fit the sound: left unchanged"
    pause = evidence({1: [0.6] * 50 + [0.0] * 50}, [0] * 100, [True] * 50 + [False] * 50)
    assert people(pause) == [1] * 100


def test_a_frame_shows_the_face_of_its_source_frame() -> None:
    found = Found({0: Seen(POINTS, 1), 1: Seen(POINTS + 1, 1), 2: Seen(POINTS + 2, 2)})
    frame = np.zeros((4, 4, 3), np.uint8)
    sights = [found.see(Frame(frame, n, n / 25, source)) for n, source in enumerate([0, 1, 2, 2, 1, 0, 9])]
    shown = [None if sight.points is None else int(sight.points[0, 0]) for sight in sights]
    assert shown == [0, 1, 2, 2, 1, 0, None]
    assert [sight.is_new for sight in sights] == [True, False, True, False, True, False, True]
