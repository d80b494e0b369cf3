from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from latentsync.errors import MediaError, WeightsError
from latentsync.faces.align import align
from latentsync.faces.choice import FaceChoice
from latentsync.faces.detect import Detector
from latentsync.faces.landmarks import choose_landmarker
from latentsync.faces.track import track
from latentsync.media.read import read_frames
from latentsync.media.sound import read_audio
from latentsync.metrics.metric import MetricSetup, ScoredClip
from latentsync.metrics.sync import (
    BUNDLED_SYNCNET,
    CompactSyncConfidence,
    SyncConfidence,
    SyncJudge,
    SyncNetJudge,
    SyncNetV2Judge,
    choose_judge,
    distance_per_offset,
    score_sync,
    v2_picture,
)
from latentsync.models.syncnet import build_syncnet
from latentsync.models.syncnet_v2 import SyncNetV2
from latentsync.recipe.networks import TowerConfig
from latentsync.weights import named
from latentsync.weights.checkpoints import save_checkpoint
from tests.networks import PAPER_SYNCNET

TINY = PAPER_SYNCNET.replaced(
    visual=TowerConfig(channels=(8, 8), factors=((4, 8), 4), attention=()),
    audio=TowerConfig(channels=(8, 8), factors=((5, 4), (16, 4)), attention=()),
    frames=5,
    resolution=32,
    norm_groups=4,
)
CPU = torch.device("cpu")
FRAMES = np.zeros((1, 1, 1, 3), np.uint8)
SPEECH = np.zeros(1, np.float32)


class GivenJudge:
    """Finds the vectors it was given."""

    def __init__(self, visual: Tensor, audio: Tensor, name: str = "given") -> None:
        self.name, self.visual, self.audio = name, visual, audio

    def embed_crops(self, crops_u8: NDArray[np.uint8]) -> Tensor:
        return self.visual

    def embed_speech(self, samples: NDArray[np.float32]) -> Tensor:
        return self.audio

    def distances(self, visual: Tensor, audio: Tensor) -> Tensor:
        return functional.pairwise_distance(visual, audio)


def vectors(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 16, generator=torch.Generator().manual_seed(seed))


def test_golden_offset_and_confidence(golden: Path, synthetic: ModuleType) -> None:
    facts = json.loads((golden / "syncnet_v2.json").read_text())
    case = facts["distance_case"]
    visual = synthetic.synthetic_input("pdist/lip", (60, 16), facts["salt"])
    noise = synthetic.synthetic_input("pdist/aud", (60, 16), facts["salt"])
    judge = GivenJudge(visual, torch.roll(visual, 3, 0) + 0.1 * noise, "syncnet-v2")
    distances = distance_per_offset(judge, judge.visual, judge.audio, max_shift_frames=15)
    assert list(distances) == list(range(15, -16, -1))
    assert list(distances.values()) == pytest.approx(case["mean_distance_per_shift"], rel=1e-4)
    score = score_sync(judge, FRAMES, SPEECH)
    assert score.offset_frames == case["av_offset"]
    assert score.distance == pytest.approx(case["min_distance"], rel=1e-4)
    assert score.confidence == pytest.approx(case["confidence"], rel=1e-4)


@pytest.mark.parametrize("offset", [-4, 0, 4])
@pytest.mark.parametrize("name", ["syncnet-v2", "given"])
def test_early_speech_has_a_positive_offset(offset: int, name: str) -> None:
    moments = vectors(40)
    visual, audio = (
        moments[4:34],
        moments[4 + offset : 34 + offset],
    )  # the audio at 0 belongs to the frame at `offset`
    score = score_sync(GivenJudge(visual, audio, name), FRAMES, SPEECH)
    assert score.offset_frames == offset
    assert score.confidence > 0.5


def test_short_clips_are_shifted_by_half_their_length_at_most() -> None:
    judge = GivenJudge(vectors(6), vectors(6))
    distances = distance_per_offset(judge, judge.visual, judge.audio, max_shift_frames=15)
    assert list(distances) == [3, 2, 1, 0, -1, -2, -3]


def test_speech_longer_than_the_frames_is_used_to_its_end() -> None:
    judge = GivenJudge(vectors(4), torch.cat([vectors(12, seed=1), vectors(4)]))
    assert score_sync(judge, FRAMES, SPEECH).offset_frames == -12


def test_an_independent_judge_is_taken_where_the_package_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, talking: Callable[..., ScoredClip]
) -> None:
    judge = tmp_path / "judge.safetensors"
    monkeypatch.setattr("latentsync.metrics.sync.INDEPENDENT_SYNCNET", judge)
    assert CompactSyncConfidence.judge_file() == BUNDLED_SYNCNET
    torch.manual_seed(0)
    state = build_syncnet(TINY).state_dict()
    save_checkpoint(judge, state, kind="syncnet", config=TINY)
    assert CompactSyncConfidence.judge_file() == judge
    metric = CompactSyncConfidence.build(MetricSetup(CPU))
    assert isinstance(metric.judge(), SyncNetJudge)
    found = metric.score(talking())
    assert isinstance(found, dict)
    assert found.keys() == {"sync_conf_compact", "sync_distance_compact", "sync_offset_compact"}
    state["visual_encoder.conv_in.bias"] += 1
    save_checkpoint(judge, state, kind="syncnet", config=TINY)
    assert CompactSyncConfidence.build(MetricSetup(CPU)).version != metric.version


def test_too_short() -> None:
    with pytest.raises(MediaError, match="give 3 windows, too few"):
        score_sync(GivenJudge(vectors(9), vectors(3)), FRAMES, SPEECH)


@pytest.fixture
def compact() -> SyncNetJudge:
    torch.manual_seed(0)
    return SyncNetJudge(build_syncnet(TINY).eval(), CPU)


def crops(frames: int, side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)


def test_compact_windows(compact: SyncNetJudge) -> None:
    speech = np.random.default_rng(0).normal(0, 0.1, 70 * 640).astype(np.float32)
    visual, audio = compact.embed_crops(crops(70, 32)), compact.embed_speech(speech)
    assert visual.shape == audio.shape == (66, 8)  # one more than a batch: its seam is passed
    alone = compact.embed_crops(crops(70, 32)[65:])
    torch.testing.assert_close(visual[65:], alone)
    assert compact.embed_speech(speech[: 5 * 640]).shape == (1, 8)
    assert len(compact.embed_speech(speech[: 4 * 640])) == 0
    distances = compact.distances(visual, audio)
    assert distances.min() >= 0 and distances.max() <= 1


def test_compact_resizes_crops(compact: SyncNetJudge) -> None:
    large = crops(6, 32).repeat(2, axis=1).repeat(2, axis=2)
    torch.testing.assert_close(compact.embed_crops(large), compact.embed_crops(crops(6, 32)))


def test_v2_counts_windows_as_the_reference() -> None:
    judge = SyncNetV2Judge(SyncNetV2().eval(), CPU)
    speech = np.random.default_rng(0).normal(0, 0.1, 9 * 640).astype(np.float32)
    score = score_sync(judge, crops(9, 32), speech)
    assert score.judge == "syncnet-v2"
    assert judge.embed_crops(crops(9, 32)).shape == judge.embed_speech(speech).shape == (4, 1024)


def test_v2_picture_holds_the_crop_upright_and_in_bgr() -> None:
    crop = np.full((256, 256, 3), (10, 20, 30), np.uint8)
    picture = v2_picture(crop)
    assert picture.shape == (224, 224, 3)
    is_crop = (picture == (30, 20, 10)).all(-1)
    assert (picture[~is_crop] == 110).all()
    rows, columns = np.flatnonzero(is_crop.any(1)), np.flatnonzero(is_crop.any(0))
    assert len(columns) / len(rows) == pytest.approx(75 / 100, abs=0.01)
    assert columns.min() == pytest.approx(223 - columns.max(), abs=1)
    assert rows.min() == 10


def test_choosing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path))
    monkeypatch.setattr(named, "BUNDLED", tmp_path)
    with pytest.raises(WeightsError, match=r"syncnet\.safetensors"):
        choose_judge("compact")
    with pytest.raises(WeightsError, match="'syncnet-v2' is missing"):
        choose_judge("syncnet-v2")
    path = tmp_path / "syncnet.safetensors"
    save_checkpoint(path, build_syncnet(TINY).state_dict(), kind="syncnet", config=TINY)
    assert choose_judge("auto").name == choose_judge("compact").name == "syncnet-compact"
    from latentsync.weights.catalog import find_entry
    from latentsync.weights.hub import path_of

    path = path_of(find_entry("syncnet-v2"))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(SyncNetV2().state_dict(), path)
    assert choose_judge("auto").name == choose_judge("syncnet-v2").name == "syncnet-v2"


REAL_CLIPS = ("grid_s1/bbaf2n.mpg", "assorted/voxceleb_01.mp4", "assorted/voxceleb_05.mp4")
SPEECH_FRAMES = 75
SpeechVideo = tuple[Tensor, NDArray[np.float32]]


@pytest.fixture(scope="module", params=REAL_CLIPS)
def speech_video(request: pytest.FixtureRequest, media: Path, bundled: SyncJudge) -> SpeechVideo:
    """What the bundled judge sees in three seconds of a real clip at 25 fps, and the speech of six."""
    path = media / "train" / request.param
    rows = track(
        islice(read_frames(path), SPEECH_FRAMES),
        choice=FaceChoice("largest"),
        resolution=128,
        detector=Detector(),
        landmarker=choose_landmarker(),
    )
    crops_u8 = np.stack([align(row.frame.rgb_u8, row.affine) for row in rows if row.affine])
    return bundled.embed_crops(crops_u8), read_audio(path, rate_hz=16000, end_s=3.0).samples


@pytest.fixture(scope="module")
def bundled() -> SyncJudge:
    return choose_judge("compact")


def moved(samples: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """Speech moved to later frames, or with a negative number to earlier ones, at its old length."""
    silence = np.zeros(abs(frames) * 640, np.float32)
    if frames < 0:
        return np.concatenate([samples[len(silence) :], silence])
    return np.concatenate([silence, samples])[: len(samples)]


@pytest.mark.parametrize("delay_frames", [-6, 3])
def test_bundled_judge_finds_how_far_speech_was_moved(
    speech_video: SpeechVideo, bundled: SyncJudge, delay_frames: int
) -> None:
    visual, samples = speech_video
    straight, late = (
        distance_per_offset(
            bundled, visual, bundled.embed_speech(moved(samples, frames)), max_shift_frames=15
        )
        for frames in (0, delay_frames)
    )
    offset, late_offset = (min(found, key=lambda each: found[each]) for found in (straight, late))
    assert abs(offset) <= 2
    assert abs(late_offset - offset + delay_frames) <= 1
    # Where speech lies as it was delivered, it fits less.
    assert late[offset] > straight[offset] + 0.1


def test_bundled_judge_is_surest_of_its_own_speech(speech_video: SpeechVideo, bundled: SyncJudge) -> None:
    visual, samples = speech_video

    def confidence(speech: NDArray[np.float32]) -> float:
        found = distance_per_offset(bundled, visual, bundled.embed_speech(speech), max_shift_frames=15)
        return statistics.median(found.values()) - min(found.values())

    straight = confidence(samples)
    assert straight > confidence(moved(samples, 20)) + 0.1  # no offset that is tried reaches so far
    assert straight > confidence(samples[::-1].copy()) + 0.1


Change = Callable[[ScoredClip], ScoredClip]
Talking = Callable[..., ScoredClip]


class Loudness:
    """Stands in for a judge: compares how red the mouth is with how loud the speech is, over five frames."""

    name = "loudness"

    def embed_crops(self, crops_u8: NDArray[np.uint8]) -> Tensor:
        mouth = crops_u8[:, 32:56, 16:48].astype(float)
        return self._windows((mouth[..., 0] - mouth[..., 1]).mean((1, 2)))

    def embed_speech(self, samples: NDArray[np.float32]) -> Tensor:
        return self._windows(np.abs(samples).reshape(-1, 640).mean(1))

    def distances(self, visual: Tensor, audio: Tensor) -> Tensor:
        return (visual - audio).square().mean(1)

    def _windows(self, by_frame: NDArray[np.float64]) -> Tensor:
        scaled = (by_frame - by_frame.mean()) / (by_frame.std() + 1e-9)
        return torch.from_numpy(scaled).unfold(0, 5, 1)


METRIC = SyncConfidence(Loudness)


def test_real_is_nearer_than_shifted_and_clearer_than_static(
    talking: Talking, shifted: Change, static: Change
) -> None:
    clip = talking()
    real, late, still = (METRIC.score(change(clip)) for change in (lambda same: same, shifted, static))
    assert isinstance(real, dict) and isinstance(late, dict) and isinstance(still, dict)
    assert list(real) == ["sync_conf", "lse_d", "sync_offset"]
    # Confidence does not mind a constant shift: the offset beside it tells.
    assert (real["sync_offset"], late["sync_offset"]) == (0, 4)
    assert min(real["sync_conf"], late["sync_conf"]) > still["sync_conf"] + 0.5
    assert real["lse_d"] < still["lse_d"]


def test_a_clip_that_is_too_short_has_no_score(talking: Talking) -> None:
    clip = talking()
    found = METRIC.score(replace(clip, made_u8=clip.made_u8[:7]))
    assert getattr(found, "reason", "") == "too_short"


def test_scores_do_not_depend_on_the_order_of_clips(talking: Talking) -> None:
    clips = [talking(seed) for seed in range(3)]
    there, back = [METRIC.score(clip) for clip in clips], [METRIC.score(clip) for clip in clips[::-1]]
    assert there == back[::-1]
