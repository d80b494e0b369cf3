from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from latentsync.metrics.lips import (
    Aperture,
    LandmarkDistance,
    Leak,
    LipLeak,
    SilenceMotion,
    Teeth,
    best_lag,
    correlation,
    openings,
    silent_frames,
)
from latentsync.metrics.metric import Missing, ScoredClip

Change = Callable[[ScoredClip], ScoredClip]
Talking = Callable[..., ScoredClip]


def with_openings(values: list[float]) -> np.ndarray:
    """Points (f 68 2) in an upright crop of square pixels whose mouths are open so far."""
    points = np.zeros((len(values), 68, 2), np.float32)
    points[:, 36:42, 0], points[:, 42:48, 0] = 100, 180
    points[:, 62, 1] = 50
    points[:, 66, 1] = 50 + 80 * np.array(values)
    points[..., 0] /= 0.75  # the squeeze of the window to the square
    return points


def test_opening_is_the_inner_lips_over_the_eyes_in_the_upright_face() -> None:
    np.testing.assert_allclose(openings(with_openings([0.0, 0.1, 0.25])), [0.0, 0.1, 0.25], atol=1e-6)


def test_correlation_is_numpys_over_the_frames_that_both_have() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 30))
    one[3] = other[7] = np.nan
    both = np.delete(np.arange(30), [3, 7])
    expected = np.corrcoef(one[both], other[both])[0, 1]
    assert correlation(one, np.append(other, 9.0)) == pytest.approx(expected)


def test_a_still_mouth_follows_nobody_and_nine_frames_tell_nothing() -> None:
    moving = np.sin(np.arange(20.0))
    assert correlation(np.full(20, 0.1), moving) == 0
    assert np.isnan(correlation(moving[:9], moving[:9]))


def test_what_compression_leaves_of_a_still_mouth_follows_nobody(talking: Talking) -> None:
    clip = talking()
    assert clip.made_points is not None
    wobbling = with_openings((0.1 + 0.01 * openings(clip.made_points)).tolist())
    still = replace(clip, made_points=wobbling)
    found = Aperture().score(still)
    assert isinstance(found, dict)
    assert (found["aperture_r"], found["aperture_best"]) == (0, 0)
    assert isinstance(SilenceMotion().score(still), Missing)


@pytest.mark.parametrize("late", [-3, 0, 2])
def test_lag_is_positive_where_the_new_mouth_is_late(late: int) -> None:
    wanted = np.random.default_rng(0).normal(size=60)
    best, lag = best_lag(np.roll(wanted, late), wanted)
    assert lag == late
    assert best > 0.99 or late == 0


def test_aperture_finds_the_speaker_and_leak_the_input(talking: Talking) -> None:
    speaker, own = talking(1), talking(2)
    crossed = replace(own, speaker_points=speaker.made_points, input_points=own.made_points)
    follows = replace(crossed, made_points=speaker.made_points)
    right, wrong = Aperture().score(follows), Aperture().score(crossed)
    assert isinstance(right, dict) and isinstance(wrong, dict)
    assert right["aperture_r"] == pytest.approx(1)
    assert (right["aperture_best"], right["aperture_lag"]) == (pytest.approx(1), 0)
    # A video that ignores the speech reaches just what its input does.
    assert wrong["aperture_best"] == pytest.approx(right["aperture_chance"])
    leak, no_leak = Leak().score(crossed), Leak().score(follows)
    assert isinstance(leak, dict) and isinstance(no_leak, dict)
    assert leak["leak_r"] == pytest.approx(1)
    assert no_leak["leak_r"] == pytest.approx(wrong["aperture_r"])


def test_reconstruction_has_neither_leak_nor_chance(talking: Talking) -> None:
    clip = talking()
    assert isinstance(found := Leak().score(clip), Missing)
    assert found.reason == "reconstruction"
    assert "aperture_chance" not in (Aperture().score(clip) or {})


def test_lmd_is_the_mean_distance_of_centred_mouths() -> None:
    real = np.random.default_rng(0).normal(size=(4, 68, 2)).astype(np.float32)
    made = real + 5  # moved as a whole: no distance
    made[:, 48] += (3, 4)
    clip = ScoredClip(
        name="clip",
        made_u8=np.zeros((4, 128, 128, 3), np.uint8),
        speech=np.zeros(1, np.float32),
        made_points=made,
        real_points=real,
    )
    found = LandmarkDistance().score(clip)
    # One point of 20 moved by 5 px, and the centre by a 20th of that: in pixels of a 256 px crop.
    assert found == {"lmd": pytest.approx(2 * (19 / 20 * 5 + 19 * 5 / 20) / 20, rel=1e-5)}


def test_silence_motion_is_the_share_of_motion_in_silence(talking: Talking) -> None:
    clip = talking()
    moving = 0.1 * np.arange(60) % 0.3  # as much in silence as in speech
    found = SilenceMotion().score(replace(clip, made_points=with_openings(moving.tolist())))
    assert isinstance(found, dict)
    assert found["silence_motion"] == pytest.approx(1, abs=0.25)
    assert SilenceMotion().score(clip) == {"silence_motion": pytest.approx(0, abs=1e-6)}


def test_silence_motion_needs_silence_and_speech(talking: Talking, static: Change) -> None:
    clip = talking()
    for other, reason in (
        (replace(clip, speech=clip.speech + np.float32(0.3)), "no_silence"),
        (static(clip), "no_motion"),
    ):
        found = SilenceMotion().score(other)
        assert isinstance(found, Missing)
        assert found.reason == reason


def test_a_late_mouth_moves_in_silence(
    talking: Talking, shifted: Change, first_number: Callable[[Any, ScoredClip], float]
) -> None:
    assert first_number(SilenceMotion(), shifted(talking())) > first_number(SilenceMotion(), talking())


@pytest.mark.parametrize("metric", [Aperture(), Leak(), LandmarkDistance(), SilenceMotion()], ids=str)
def test_without_points_there_is_no_score(metric: Any, talking: Talking) -> None:
    found = metric.score(replace(talking(), made_points=None))
    assert found.reason == "no_points"


@pytest.mark.parametrize("metric", [Aperture(), LandmarkDistance()], ids=["aperture", "lmd"])
def test_a_face_that_is_always_lost_has_no_score(metric: Any, talking: Talking) -> None:
    found = metric.score(replace(talking(), made_points=np.full((60, 68, 2), np.nan, np.float32)))
    assert found.reason == "too_short"


RANDOM = np.random.default_rng(1)


def noise(loudness: list[tuple[int, float]]) -> np.ndarray:
    """Noise in runs of (frames, loudness)."""
    parts = [RANDOM.uniform(-1, 1, frames * 640) * loud for frames, loud in loudness]
    return np.concatenate(parts).astype(np.float32)


def test_quiet_frames_are_silent_at_any_recording_level() -> None:
    for gain in (1.0, 0.05):
        found = silent_frames(gain * noise([(20, 0.8), (15, 0.005), (20, 0.8)]), frames=55)
        # Smoothing keeps one frame at either side.
        assert np.flatnonzero(found).tolist() == list(range(21, 34))


@pytest.mark.parametrize(
    "speech",
    [noise([(20, 0.8), (15, 0.05), (20, 0.8)]), noise([(20, 0.8), (6, 0.0), (20, 0.8)])],
    ids=["24 dB is not quiet", "0.16 s is not long"],
)
def test_what_is_not_silent(speech: np.ndarray) -> None:
    assert not silent_frames(speech, frames=len(speech) // 640).any()


def test_frames_without_sound_are_silent() -> None:
    assert silent_frames(np.zeros(6400, np.float32), frames=10).all()
    assert silent_frames(np.zeros(0, np.float32), frames=10).all()
    found = silent_frames(noise([(20, 0.8)]), frames=40)
    assert np.flatnonzero(found).tolist() == list(range(21, 40))


@pytest.mark.parametrize(
    ("colour", "rate"),
    [((225, 220, 205), 0.5), ((30, 15, 15), 0.0), ((170, 60, 70), 0.0)],
    ids=["teeth", "dark", "tongue"],
)
def test_teeth_are_bright_and_colourless_between_open_lips(colour: tuple[int, int, int], rate: float) -> None:
    points = np.tile(np.array([32.0, 20.0], np.float32), (20, 68, 1))
    crops_u8 = np.full((20, 64, 64, 3), (200, 160, 140), np.uint8)
    for frame in range(10):  # open; closed in the others
        crops_u8[frame, 40:48, 24:40] = colour
        points[frame, 60:68] = [
            (24, 44),
            (28, 40),
            (32, 40),
            (36, 40),
            (39, 44),
            (36, 47),
            (32, 47),
            (28, 47),
        ]
    clip = ScoredClip(name="one", made_u8=crops_u8, speech=np.zeros(1, np.float32), made_points=points)
    assert Teeth().score(clip) == {"teeth_rate": pytest.approx(rate)}


def test_lip_leak_counts_the_silent_frames_in_which_the_mouth_is_open() -> None:
    talks = [0.1 + 0.1 * np.sin(frame) for frame in range(40)]
    speech = noise([(20, 0.8), (20, 0.0)])  # silent from frame 21 on
    clip = ScoredClip(
        name="one",
        made_u8=np.zeros((40, 8, 8, 3), np.uint8),
        speech=speech,
        made_points=with_openings([0.1] * 30 + [0.0] * 10),
        input_points=with_openings(talks),
    )
    assert LipLeak().score(clip) == {"lip_leak": pytest.approx(9 / 19)}
    assert LipLeak().score(replace(clip, made_points=with_openings([0.0] * 40))) == {"lip_leak": 0}
    shown = LipLeak().score(replace(clip, made_points=clip.input_points))
    assert isinstance(shown, dict) and shown["lip_leak"] > 0.5  # the input's own mouth, shown through
    for reason, change in {
        "no_motion": {"input_points": with_openings([0.1] * 40)},
        "no_silence": {"speech": noise([(40, 0.8)])},
        "reconstruction": {"speaker_points": clip.input_points},
        "no_points": {"made_points": None},
    }.items():
        found = LipLeak().score(replace(clip, **change))
        assert isinstance(found, Missing) and found.reason == reason
