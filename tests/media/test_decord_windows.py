"""Windows by decord: the frames and colours of PyAV, and PyAV where decord fails."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from latentsync.errors import MediaError
from latentsync.media import decord_windows
from latentsync.media.decord_windows import has_decord, read_window_by_decord
from latentsync.media.read import read_window
from latentsync.media.write import Encoding, VideoWriter

needs_decord = pytest.mark.skipif(not has_decord(), reason="decord has no wheel for this machine")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A photograph of a face that moves, written as `preprocess` writes clips."""
    path, photograph = tmp_path / "clip.mp4", skimage.data.astronaut()
    with VideoWriter(
        path, width=256, height=256, fps=Fraction(25), like=None, speech=None, encoding=Encoding(crf=13)
    ) as writer:
        for number in range(40):
            writer.write(np.ascontiguousarray(photograph[number : number + 256, 80 + number : 336 + number]))
    return path


@needs_decord
def test_colours_are_those_of_pyav_within_a_level(clip: Path) -> None:
    wanted = [37, 5, 6, 7, 5]
    difference = read_window_by_decord(clip, wanted).astype(int) - read_window(clip, wanted)  # f h w c
    assert np.abs(difference).mean() < 1
    assert np.abs(difference.mean((0, 1, 2))).max() < 0.75
    # A frame further on differs by far more.
    other = read_window(clip, [number + 1 for number in wanted])
    assert np.abs(other.astype(int) - read_window(clip, wanted)).mean() > 4


@needs_decord
def test_a_file_is_opened_once(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import decord

    opened: list[str] = []
    reader = decord.VideoReader
    monkeypatch.setattr(
        decord, "VideoReader", lambda path, **more: opened.append(path) or reader(path, **more)
    )
    first = read_window_by_decord(clip, [1, 2])
    assert np.array_equal(read_window_by_decord(clip, [1, 2]), first)
    assert opened == [str(clip)]


def test_pyav_reads_what_decord_cannot(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, modified_ns: int) -> None:
        raise RuntimeError("no codec")

    monkeypatch.setattr(decord_windows, "_opened", fail)
    assert np.array_equal(read_window_by_decord(clip, [3, 4]), read_window(clip, [3, 4]))


def test_frames_that_are_not_there_are_refused_alike(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it has 0 to 39"):
        read_window_by_decord(clip, [40])
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(MediaError):
        read_window_by_decord(tmp_path / "text.mp4", [0])
