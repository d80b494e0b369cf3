"""The ranking that every metric must give, on a real talking face with the networks in the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentsync.faces.align import align, square_from_window
from latentsync.faces.choice import FaceChoice
from latentsync.faces.detect import Detector
from latentsync.faces.landmarks import load_landmarks
from latentsync.faces.track import track
from latentsync.media.read import read_frames
from latentsync.media.sound import read_audio
from latentsync.metrics import build_metrics
from latentsync.metrics.metric import ScoredClip
from latentsync.metrics.statistics import FeatureStatistics
from latentsync.metrics.sync import BUNDLED_SYNCNET

SECONDS, SIDE = 2.0, 128
LATE_FRAMES = 2


@pytest.fixture(scope="module")
def clip(media: Path) -> ScoredClip:
    video = media / "train" / "synthetic" / "vasa-1_12.mp4"
    crops, points = [], []
    rows = track(
        read_frames(video, end_s=SECONDS),
        choice=FaceChoice(),
        resolution=SIDE,
        detector=Detector(),
        landmarker=load_landmarks(),
    )
    for row in rows:
        assert row.face is not None and row.affine is not None
        matrix = square_from_window(SIDE) @ np.vstack([row.affine.crop_from_frame, [0, 0, 1]])
        points.append(np.c_[row.face.points, np.ones(68)] @ matrix[:2].T)
        crops.append(align(row.frame.rgb_u8, row.affine))
    crops_u8, found = np.stack(crops), np.stack(points).astype(np.float32)
    return ScoredClip(
        name="clip",
        made_u8=crops_u8,
        real_u8=crops_u8,
        speech=read_audio(video, end_s=SECONDS).samples,
        made_points=found,
        real_points=found,
        speaker_points=found,
    )


@pytest.mark.parametrize(
    ("name", "sign"),
    [("ssim", 1), ("psnr", 1), ("lpips", -1), ("lmd", -1), ("aperture", 1)],
)
def test_real_is_better_than_late_and_late_than_static(
    name: str, sign: int, clip: ScoredClip, first_number: Callable[[Any, ScoredClip], float]
) -> None:
    metrics, _, unavailable = build_metrics([name], device="cpu")
    if unavailable:
        pytest.skip(unavailable[0].reason)
    (metric,) = metrics
    real, late, still = (sign * first_number(metric, _with(clip, way)) for way in ("real", "late", "static"))
    assert real > late > still


@pytest.mark.skipif(not BUNDLED_SYNCNET.is_file(), reason="the compact SyncNet is not in this package")
def test_compact_syncnet_finds_the_delay_and_the_still_face(clip: ScoredClip) -> None:
    (metric,), _, _ = build_metrics(["sync_conf_compact"], device="cpu")
    real, late, still = (metric.score(_with(clip, way)) for way in ("real", "late", "static"))
    assert isinstance(real, dict) and isinstance(late, dict) and isinstance(still, dict)
    assert late["sync_offset_compact"] - real["sync_offset_compact"] == pytest.approx(LATE_FRAMES, abs=1)
    assert abs(late["sync_offset_compact"]) > abs(real["sync_offset_compact"])
    assert min(real["sync_conf_compact"], late["sync_conf_compact"]) > 3 * still["sync_conf_compact"]


@pytest.mark.parametrize("name", ["fid", "fid_clean", "fvd_videomae"])
def test_sets_rank_real_above_static(name: str, clip: ScoredClip) -> None:
    _, metrics, unavailable = build_metrics([name], device="cpu")
    if unavailable:
        pytest.skip(unavailable[0].reason)
    (metric,) = metrics
    wanted, *found = (metric.features(_with(clip, way), "made") for way in ("real", "real", "static"))
    sides = [FeatureStatistics.empty(wanted.shape[1]) for _ in range(3)]
    for side, features in zip(sides, (wanted, *found), strict=True):
        side.add(features)
    same, still = (metric.compare(side, sides[0]) for side in sides[1:])
    assert isinstance(same, float) and isinstance(still, float)
    assert same == pytest.approx(0, abs=1e-6)
    assert still > 1


def _with(clip: ScoredClip, way: str) -> ScoredClip:
    order = np.arange(len(clip.made_u8))
    frames = {"real": order, "late": np.maximum(order - LATE_FRAMES, 0), "static": 0 * order}[way]
    assert clip.made_points is not None
    return replace(clip, made_u8=clip.made_u8[frames], made_points=clip.made_points[frames])
