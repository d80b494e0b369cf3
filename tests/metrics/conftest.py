"""Clips whose faces are drawn: the mouth opens with the loudness of the speech."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from latentsync.metrics.metric import ScoredClip
from latentsync.metrics.statistics import FeatureStatistics

SIDE = 64
FRAMES = 60
SILENT = slice(26, 40)  # frames of every clip

Talking = Callable[..., ScoredClip]


def drawn(opening: float, tone: int, turn: float) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A face (h w c) whose mouth is open by a share of the distance of its eyes, and its 68 points."""
    picture = np.full((SIDE, SIDE, 3), tone, np.uint8)
    left, right = np.array([20 + turn, 20.0]), np.array([44 + turn, 20.0])
    middle, tall = np.array([32 + turn, 44.0]), 24 * 0.75 * opening
    for eye in (left, right):
        cv2.circle(picture, (round(eye[0]), round(eye[1])), 3, (30, 20, 10), -1)
    axes = (10 * 16, round((1 + tall / 2) * 16))
    centre = (round(middle[0] * 16), round(middle[1] * 16))
    cv2.ellipse(picture, centre, axes, 0, 0, 360, (150, 30, 40), -1, cv2.LINE_AA, 4)
    points = np.tile(middle, (68, 1))
    points[36:42], points[42:48], points[27:36] = left, right, middle - [0, 12]
    round_mouth = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    points[48:68] = middle + np.stack([10 * np.cos(round_mouth), tall / 2 * np.sin(round_mouth)], 1)
    points[62], points[66], half = middle, middle, tall / 2
    points[62:67:4, 1] += [-half, half]
    return picture, points.astype(np.float32)


def loudness(seed: int) -> NDArray[np.float64]:
    """How loud each frame is, 0..1: slow waves, and nothing in the silence."""
    waves = np.random.default_rng(seed).uniform(0, 2 * np.pi, 2)
    time = np.arange(FRAMES)
    loud = 0.55 + 0.25 * np.sin(time * 0.35 + waves[0]) + 0.2 * np.sin(time * 0.23 + waves[1])
    loud[SILENT] = 0
    return loud


@pytest.fixture(scope="session")
def talking() -> Talking:
    def make(seed: int = 0) -> ScoredClip:
        """A perfect result: the generated video is the real one."""
        random = np.random.default_rng(seed)
        loud, tone = loudness(seed), int(random.integers(120, 200))
        turns = 1.5 * np.sin(np.arange(FRAMES) * 0.2 + seed)
        frames = [drawn(0.5 * each, tone, turn) for each, turn in zip(loud, turns, strict=True)]
        crops_u8, points = np.stack([one for one, _ in frames]), np.stack([two for _, two in frames])
        speech = np.repeat(loud, 640) * random.uniform(-0.5, 0.5, FRAMES * 640)
        return ScoredClip(
            name=f"clip {seed}",
            made_u8=crops_u8,
            real_u8=crops_u8,
            speech=speech.astype(np.float32),
            made_points=points,
            real_points=points,
            speaker_points=points,
            input_points=points,
            input_u8=crops_u8,
        )

    return make


def _remade(clip: ScoredClip, frames: NDArray[np.int64]) -> ScoredClip:
    assert clip.made_points is not None
    return replace(clip, made_u8=clip.made_u8[frames], made_points=clip.made_points[frames])


@pytest.fixture(scope="session")
def shifted() -> Callable[[ScoredClip], ScoredClip]:
    """Makes the generated video four frames late."""
    return lambda clip: _remade(clip, np.roll(np.arange(len(clip.made_u8)), 4))


@pytest.fixture(scope="session")
def static() -> Callable[[ScoredClip], ScoredClip]:
    """Makes the generated video stand still at its tenth frame."""
    return lambda clip: _remade(clip, np.full(len(clip.made_u8), 10))


@pytest.fixture(scope="session")
def first_number() -> Callable[[Any, ScoredClip], float]:
    """What a metric of clips says first."""
    return lambda metric, clip: next(iter(metric.score(clip).values()))


def distance(metric: Any, clips: list[ScoredClip]) -> float:
    """What a metric of sets says of clips."""
    sides = [FeatureStatistics.empty(metric.width) for _ in range(2)]
    for clip in clips:
        for side, statistics in zip(("made", "real"), sides, strict=True):
            statistics.add(metric.features(clip, side))
    return float(metric.compare(*sides))
