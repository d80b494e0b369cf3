"""Windows of a clip: what is in them, that references lie elsewhere, and that sample k is always sample k."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from latentsync.manifest import ManifestClip
from latentsync.train.clips import ClipWindows, FeatureFiles, Region, TooShort, find_clips
from latentsync.train.unet.data import (
    AudioFeatures,
    LipSamples,
    LipSource,
    balance_people,
    frame_mel,
    make_source,
)
from latentsync.train.unet.validate import UNetValidation
from tests.networks import STAGE2_RECIPE
from tests.train.made_clips import write_clip

FRAMES = 5


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[ManifestClip]:
    folder = tmp_path_factory.mktemp("data")
    for number, frames in enumerate((30, 40)):
        write_clip(folder / f"person_{number}.mp4", number, frames=frames)
    return find_clips(folder, held_out=("none",))[0]


@pytest.fixture(scope="module")
def source(clips: list[ManifestClip]) -> LipSource:
    """State s of every clip is the number s."""
    features = FeatureFiles(clips[0].path.parent)
    for clip in clips:
        states = torch.arange(80.0)[:, None, None].expand(80, 2, 3)
        path = features.path_of(clip, "whisper.safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"whisper": states.half().contiguous()}, path, {"whisper": "compact"})
    windows = ClipWindows(FRAMES, Region(32, False), features, False)
    return LipSource(windows, AudioFeatures(features, "compact"), has_states=True)


def samples(
    clips: list[ManifestClip], source: LipSource, *, seed: int = 3, count: int = 20, **windows: Any
) -> LipSamples:
    recipe = STAGE2_RECIPE.replaced(
        seed=seed,
        run=STAGE2_RECIPE.run.replaced(samples=count, batch_samples=1, micro_batch_samples=1),
        windows=STAGE2_RECIPE.windows.replaced(frames=FRAMES, **windows),
    )
    return LipSamples(clips, source, recipe)


def numbered(
    self: ClipWindows, clip: ManifestClip, start: int, frames: int | None = None
) -> NDArray[np.uint8]:
    """Stands for `frames_at`: every frame is its number."""
    numbers = np.arange(start, start + (frames or FRAMES), dtype=np.uint8)
    return numbers[:, None, None, None].repeat(3, axis=3)


def test_a_reference_of_one_frame_keeps_its_distance(
    clips: list[ManifestClip], source: LipSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClipWindows, "frames_at", numbered)
    one = make_source(
        source.windows,
        None,
        STAGE2_RECIPE.windows.replaced(reference="frame", reference_gap_frames=6),
        has_states=False,
    )
    drawn, gaps = samples(clips, one, count=60), set()
    for number in range(60):
        sample = drawn[number]
        target, reference = sample["target_u8"][:, 0, 0, 0], sample["reference_u8"][:, 0, 0, 0]
        assert len(reference) == 1
        gaps.add(int((target.long() - reference.long()).abs().min()))
    assert min(gaps) == 7 and max(gaps) > 15
    one.check(clips[0])
    with pytest.raises(TooShort, match=r"30 frames .* 32 are needed"):
        replace(one, gap=13).check(clips[0])
    assert one.farthest(clips[0], 0) == 29 and one.farthest(clips[0], 20) == 0


def test_target_and_reference_change_alike(clips: list[ManifestClip], source: LipSource) -> None:
    recipe = STAGE2_RECIPE.replaced(
        windows=STAGE2_RECIPE.windows.replaced(frames=FRAMES),
        pictures=STAGE2_RECIPE.pictures.replaced(brightness=0.3),
    )
    plain, changed = samples(clips, source, seed=recipe.seed), LipSamples(clips, source, recipe)
    for number in range(4):
        one, other = plain[number], changed[number]
        shifts = [
            float((other[name].float() - one[name].float()).median())  # type: ignore[union-attr]
            for name in ("target_u8", "reference_u8")
        ]
        assert abs(shifts[0]) > 1 and shifts[0] == pytest.approx(shifts[1], abs=2)


def test_people_with_few_clips_come_as_often(clips: list[ManifestClip]) -> None:
    people = ["many"] * 40 + ["two"] * 2 + ["one"]
    own = [replace(clips[0], name=str(number), person=person) for number, person in enumerate(people)]
    alike = balance_people(own)
    assert Counter(clip.person for clip in alike) == {"many": 40, "two": 32, "one": 16}
    assert set(alike) == set(own)


def test_a_reference_never_overlaps_the_target(
    clips: list[ManifestClip], source: LipSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClipWindows, "frames_at", numbered)
    drawn, starts = samples(clips, source), set()
    for number in range(20):
        sample = {name: value for name, value in drawn[number].items() if isinstance(value, Tensor)}
        start, other = (int(sample[name][0, 0, 0, 0]) for name in ("target_u8", "reference_u8"))
        assert abs(start - other) >= FRAMES
        starts.add(start)
        # Frame k gets ten states, of which the fifth is number 2·k; each has two layers.
        assert sample["audio"].shape == (FRAMES, 20, 3)
        assert sample["audio"][0, 8, 0] == 2 * start
        assert sample["states"][:, 0, 0].tolist() == list(range(2 * start, 2 * start + 2 * FRAMES))
        assert sample["number"] == number
    assert len(starts) > 6


def test_a_sample_is_a_pure_function_of_its_number(clips: list[ManifestClip], source: LipSource) -> None:
    one, two = samples(clips, source), samples(clips, source, count=7)
    for number in (6, 0):
        assert all(
            torch.equal(value, two[number][name]) if isinstance(value, Tensor) else True
            for name, value in one[number].items()
        )
    assert not torch.equal(one[0]["target_u8"], samples(clips, source, seed=4)[0]["target_u8"])  # type: ignore[arg-type]


def test_audio_dropout_silences_whole_windows_and_moves_nothing(
    clips: list[ManifestClip], source: LipSource
) -> None:
    whole, half = samples(clips, source), samples(clips, source, audio_dropout=0.5)
    silent = [not half[number]["audio"].any() for number in range(20)]  # type: ignore[union-attr]
    assert 4 < sum(silent) < 16
    assert [not half[number]["has_speech"] for number in range(20)] == silent
    assert torch.equal(whole[0]["target_u8"], half[0]["target_u8"])  # type: ignore[arg-type]


@pytest.mark.parametrize(("widths", "others"), [((), [0, 5, 10, 15]), ((8,), [25, 25, 25, 0])])
def test_validation_generates_from_the_window_itself_unless_it_is_warped(
    clips: list[ManifestClip],
    source: LipSource,
    monkeypatch: pytest.MonkeyPatch,
    widths: tuple[int, ...],
    others: list[int],
) -> None:
    given: list[int] = []

    class Objective:
        weights: ClassVar[dict[str, float]] = {}

        def losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            return {}

        def generate(self, model: nn.Module, batch: dict[str, Tensor]) -> NDArray[np.uint8]:
            given.append(int(batch["reference_u8"][0, 0, 0, 0, 0]))
            return batch["target_u8"][0].numpy()

    monkeypatch.setattr(ClipWindows, "frames_at", numbered)
    network = STAGE2_RECIPE.network.replaced(
        view="mouth", motion=False, adapter_dim=8 if widths else 0, warp_widths=widths
    )
    recipe = STAGE2_RECIPE.replaced(
        network=network, validation=STAGE2_RECIPE.validation.replaced(windows=4, clips=1)
    )
    validation = UNetValidation(recipe, clips[:1], source, Objective(), None)
    made = validation.generate(nn.Linear(1, 1), clips[0])
    assert made[:, 0, 0, 0].tolist() == list(range(20))
    assert given == others


def test_a_clip_without_room_for_a_reference_is_refused(clips: list[ManifestClip], source: LipSource) -> None:
    windows = ClipWindows(12, Region(32, False), source.windows.features, False)
    with pytest.raises(TooShort, match=r"30 frames .* 35 are needed"):
        LipSource(windows, None).check(clips[0])
    LipSource(windows, None).check(clips[1])


def test_a_clip_that_cannot_be_read_is_replaced_and_named(
    clips: list[ManifestClip], source: LipSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = clips[0]

    def refuse(self: LipSource, clip: ManifestClip, start: int, other: int) -> dict[str, Tensor]:
        if clip == broken:
            raise ValueError("torn")
        return {
            name: torch.zeros((FRAMES, 2, 2, 3), dtype=torch.uint8) for name in ("target_u8", "reference_u8")
        }

    monkeypatch.setattr(LipSource, "sample", refuse)
    notes = [samples(clips, source)[number]["note"] for number in (0, 1)]
    assert sorted(notes) == ["", f"{broken.name} is skipped from now on: torn"]  # type: ignore[type-var]


def test_states_of_another_whisper_are_not_taken(clips: list[ManifestClip], source: LipSource) -> None:
    audio = AudioFeatures(source.windows.features, "whisper-tiny")
    assert audio.path_of(clips[0]).name.endswith(".whisper-tiny-states.safetensors")
    assert source.audio is not None
    assert source.audio.path_of(clips[0]).name.endswith(".whisper.safetensors")


def test_states_are_computed_once(
    clips: list[ManifestClip], source: LipSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []

    def encode_speech(encoder: object, wave: object) -> Tensor:
        encoded.append(encoder)
        return torch.ones(60, 2, 3)

    monkeypatch.setattr("latentsync.train.unet.data.encode_speech", encode_speech)
    audio = AudioFeatures(source.windows.features, "/models/other.pt")
    for _ in range(2):
        audio.prepare(clips[0], "encoder", Lock())  # type: ignore[arg-type]
    assert encoded == ["encoder"]
    assert audio.tokens(clips[0], range(2)).shape == (2, 20, 3)


def test_frames_get_the_mel_around_them() -> None:
    mel = torch.arange(100.0).expand(80, 100)
    columns = frame_mel(mel, 5, frames=2)
    assert columns.shape == (2, 80, 16)
    assert columns[0, 0].tolist() == list(range(8, 24))  # frame 5 is shown at column 16
    assert frame_mel(mel, 0, frames=1)[0, 0, :9].tolist() == [0.0] * 9
