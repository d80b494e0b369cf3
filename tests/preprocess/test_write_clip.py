"""Writing a clip: its name, its bytes, its sound, and a disk that is full."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from latentsync.audio.mel import mel_spectrogram
from latentsync.media.probe import probe
from latentsync.media.sound import read_audio
from latentsync.preprocess import save_features
from latentsync.preprocess.save_features import SaveFeatures
from latentsync.preprocess.step import Clip, Source, SyncFacts
from latentsync.preprocess.write_clip import WriteClip
from latentsync.rates import SAMPLES_PER_FRAME
from latentsync.recipe.preprocess import Features

from .conftest import RECIPE, clip_of

FRAMES = 30
STEP = WriteClip(RECIPE.encoding.model_copy(update={"preset": "ultrafast"}), RECIPE.split)


@pytest.fixture
def clip() -> Clip:
    random = np.random.default_rng(0)
    crops_u8 = random.integers(0, 255, (FRAMES, 64, 64, 3)).astype(np.uint8)
    speech = np.zeros(60 * SAMPLES_PER_FRAME, np.float32)
    speech[20 * SAMPLES_PER_FRAME :][:400] = 0.8
    source = Source(Path("raw/id00001/a.mp4"), "id00001/a.mp4")
    return replace(
        clip_of(start_frame=10, frames=FRAMES, crops_u8=crops_u8, speech=speech, resolution=64), source=source
    )


def write(clip: Clip, out_dir: Path) -> Clip:
    (written,) = STEP.run(clip, out_dir)
    assert isinstance(written, Clip)
    return written


def test_one_file_with_pictures_and_speech_at_the_right_time(clip: Clip, tmp_path: Path) -> None:
    written = write(clip, tmp_path).written
    assert written is not None and written.name == "clips/id00001/a.mp4/000000.40-000001.60.mp4"
    assert written.person == "id00001" and written.split in ("train", "validation")
    path = tmp_path / written.name
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    info = probe(path)
    assert info.video is not None and info.audio is not None
    assert (info.video.frames, info.video.fps, info.video.height) == (FRAMES, 25, 64)
    assert (info.audio.rate_hz, info.audio.channels) == (16000, 1)
    loud = np.abs(read_audio(path).samples) > 0.4
    assert int(loud.argmax()) == pytest.approx(
        10 * SAMPLES_PER_FRAME, abs=16
    )  # 20 of the source, 10 of the clip
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_an_offset_that_is_applied_moves_the_speech(clip: Clip, tmp_path: Path) -> None:
    moved = replace(clip, sync=SyncFacts(4, 5.0, "compact", True))
    written = write(moved, tmp_path).written
    assert written is not None
    loud = np.abs(read_audio(tmp_path / written.name).samples) > 0.4
    assert int(loud.argmax()) == pytest.approx(14 * SAMPLES_PER_FRAME, abs=16)


def test_the_same_clip_gives_the_same_bytes(clip: Clip, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, second = (write(clip, folder).written for folder in (tmp_path, tmp_path / "again"))
    assert first == second


def test_sources_of_the_same_name_share_nothing(clip: Clip, tmp_path: Path) -> None:
    names = ["a/x.mp4", "b/x.mp4", "a/x.mov", "a/x", "-i.mp4", f"{'long' * 60}1.mp4", f"{'long' * 60}2.mp4"]
    clips = [replace(clip, frames=2, source=Source(Path(name), name)) for name in names]
    written = [write(replace(one, crops_u8=clip.crops_u8[:2]), tmp_path).written for one in clips]  # type: ignore[index]
    assert len({(tmp_path / one.name).parent for one in written if one is not None}) == len(names)


def test_a_full_disk_is_not_the_fault_of_the_source(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("latentsync.media.write.os.fsync", refuse)
    with pytest.raises(OSError, match="No space left") as caught:
        write(clip, tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_an_encoder_that_fails_is_not_the_fault_of_the_source(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise av.FFmpegError(errno.EIO, "Input/output error")

    monkeypatch.setattr("latentsync.media.write.VideoWriter._encodable", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        write(clip, tmp_path)


def test_features_are_those_of_the_written_sound(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(save_features, "load_whisper", lambda path, **_: path.stem)
    monkeypatch.setattr(
        save_features, "encode_speech", lambda _, samples: torch.full((len(samples) // 320, 5, 2), 0.5)
    )
    written = write(clip, tmp_path)
    step = SaveFeatures(Features(mel=True, whisper="compact"))
    step.start()
    assert list(step.run(written, tmp_path)) == [written]
    assert written.written is not None
    digest = written.written.sha256
    folder = tmp_path / "features" / digest[:2]
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{digest}.mel.safetensors",
        f"{digest}.whisper.safetensors",
    ]
    samples = read_audio(tmp_path / written.written.name).samples
    assert load_file(folder / f"{digest}.mel.safetensors")["mel"].equal(mel_spectrogram(samples))
    states = load_file(folder / f"{digest}.whisper.safetensors")["whisper"]
    assert states.shape == (len(samples) // 320, 5, 2) and states.dtype == torch.float16
