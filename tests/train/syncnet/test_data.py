"""Which frames meet which speech, and that it depends on the number of the sample alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from latentsync.audio.mel import mel_window
from latentsync.errors import MediaError
from latentsync.manifest import ManifestClip
from latentsync.recipe.train_syncnet import NegativesTable
from latentsync.train import clips as train_clips
from latentsync.train.augment import change_pictures, change_speech
from latentsync.train.clips import ClipWindows, FeatureFiles, Region, clip_of_sample, find_clips
from latentsync.train.syncnet.data import SyncSamples, wrong_start
from tests.networks import PAPER_RECIPE
from tests.train.made_clips import FRAMES, tiny_recipe, write_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[ManifestClip]:
    return find_clips(write_clips(tmp_path_factory.mktemp("clips"), 3), held_out=("nobody",))[0]


def samples_of(clips: list[ManifestClip], negatives: NegativesTable) -> SyncSamples:
    recipe = tiny_recipe().model_copy(update={"negatives": negatives})
    features = FeatureFiles(clips[0].path.parent)
    return SyncSamples(recipe, clips, ClipWindows(5, Region(32, True), features, False))


@pytest.mark.parametrize("distance", [1, 4])
def test_wrong_starts_are_far_enough_and_all_are_drawn(distance: int) -> None:
    random = np.random.default_rng(0)
    drawn = Counter(wrong_start(5, 12, distance=distance, random=random) for _ in range(2000))
    wanted = [start for start in range(12) if abs(start - 5) >= distance]
    assert sorted(drawn) == wanted
    assert min(drawn.values()) > 0.6 * 2000 / len(wanted)


def test_a_sample_depends_on_its_number_alone(clips: list[ManifestClip]) -> None:
    samples = samples_of(clips, PAPER_RECIPE.negatives.replaced(policy="same_clip", min_distance_frames=4))
    first = {number: samples[number] for number in (5, 0, 3)}
    again = samples_of(clips, PAPER_RECIPE.negatives.replaced(policy="same_clip", min_distance_frames=4))
    for number in (0, 3, 5):
        for name in ("frames_u8", "mel", "label", "starts"):
            assert torch.equal(first[number][name], again[number][name])
    assert not torch.equal(first[0]["mel"], first[3]["mel"])


def test_every_epoch_shows_every_clip_once() -> None:
    epochs = [[clip_of_sample(e * 7 + k, clips=7, seed=1) for k in range(7)] for e in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_right_pairs_are_in_step_and_wrong_ones_are_not(clips: list[ManifestClip]) -> None:
    samples = samples_of(clips, PAPER_RECIPE.negatives.replaced(policy="same_clip", min_distance_frames=6))
    source = samples.source
    labels = []
    for number in range(24):
        sample = samples[number]
        clip = clips[clip_of_sample(number, clips=3, seed=samples.seed)]
        audio_start = int(sample["starts"][0])
        assert torch.equal(sample["mel"][0], mel_window(source.features.mel(clip), audio_start, frames=5))
        in_step = torch.from_numpy(source.frames_at(clip, audio_start))
        labels.append(float(sample["label"]))
        if labels[-1]:
            assert torch.equal(sample["frames_u8"][0], in_step)
        else:
            shown = [k for k in range(FRAMES - 4) if _is_at(source, clip, k, sample["frames_u8"][0])]
            assert any(abs(start - audio_start) >= 6 for start in shown)
    assert 6 <= sum(labels) <= 18


def _is_at(source: ClipWindows, clip: ManifestClip, start: int, frames: torch.Tensor) -> bool:
    return torch.equal(torch.from_numpy(source.frames_at(clip, start)), frames)


def test_mixed_takes_speech_of_other_clips(clips: list[ManifestClip]) -> None:
    mixed = PAPER_RECIPE.negatives.replaced(policy="mixed", min_distance_frames=4, other_clip_share=1.0)
    samples = samples_of(clips, mixed)
    foreign = 0
    for number in range(20):
        sample = samples[number]
        clip = clips[clip_of_sample(number, clips=3, seed=samples.seed)]
        own = mel_window(samples.source.features.mel(clip), int(sample["starts"][0]), frames=5)
        foreign += not torch.equal(own, sample["mel"][0])
    assert foreign > 2


def test_a_clip_that_fails_is_replaced_and_named(
    clips: list[ManifestClip], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = samples_of(clips, PAPER_RECIPE.negatives)
    read = train_clips.read_pictures
    broken = clips[clip_of_sample(0, clips=3, seed=samples.seed)]

    def failing(clip: ManifestClip, *rest: object, **more: object) -> object:
        if clip == broken:
            raise MediaError("bit rot")
        return read(clip, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(train_clips, "read_pictures", failing)
    sample = samples[0]
    assert sample["note"] == f"{broken.name} is skipped from now on: bit rot"
    monkeypatch.setattr(train_clips, "read_pictures", lambda *_, **__: failing(broken))
    with pytest.raises(MediaError, match="8 clips in a row cannot be read"):
        samples[0]


def test_the_hash_of_the_content_names_the_features(clips: list[ManifestClip]) -> None:
    features = FeatureFiles(clips[0].path.parent)
    path = features.path_of(clips[0], "mel.safetensors")
    features.mel(clips[0])
    assert path.exists() and path.name.startswith(str(clips[0].sha256))
    assert features.path_of(clips[1], "mel.safetensors") != path


def test_copies_of_a_clip_write_their_features_at_the_same_time(
    clips: list[ManifestClip], tmp_path: Path
) -> None:
    features = FeatureFiles(tmp_path)

    def save_other(part: Path) -> None:
        part.write_text("another thread")

    def save(part: Path) -> None:
        part.write_text("one thread")
        features.write(clips[0], "words.txt", save_other)  # between its write and its rename

    features.write(clips[0], "words.txt", save)
    assert features.path_of(clips[0], "words.txt").read_text() == "one thread"


def test_pictures_of_a_window_change_alike() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (16, 32, 3)).astype(np.uint8)
    window = np.stack([frame] * 4)
    how = PAPER_RECIPE.pictures.replaced(
        mirror=0.5,
        brightness=0.1,
        contrast=0.2,
        gamma=0.2,
        colour=0.1,
        blur=1.0,
        cutout=1.0,
        shift=0.05,
        scale=0.05,
    )
    changed = change_pictures(window, how, np.random.default_rng(1))
    assert changed.shape == window.shape and changed.dtype == np.uint8
    assert (changed == changed[:1]).all()
    assert not np.array_equal(changed, window)
    untouched = change_pictures(window, PAPER_RECIPE.pictures, np.random.default_rng(1))
    assert np.array_equal(untouched, window)


def test_speech_stays_in_its_range_and_masks_are_silent() -> None:
    mel = torch.randn(80, 52).clamp(-4, 4)
    how = PAPER_RECIPE.speech.replaced(noise=1.0, gain_db=20.0, time_mask=20, frequency_mask=20)
    changed = change_speech(mel, how, np.random.default_rng(2), background=torch.zeros(80, 52))
    assert changed.min() >= -4 and changed.max() <= 4
    assert (changed == -4).all(0).any() or (changed == -4).all(1).any()
    assert torch.equal(change_speech(mel, PAPER_RECIPE.speech, np.random.default_rng(2)), mel)
