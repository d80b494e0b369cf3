"""Tags, chapters, subtitles and further audio tracks of a video come along."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame

from latentsync.media.carry import Carried, describe_losses
from latentsync.media.write import Encoding, VideoWriter

SUBTITLES = "1\n00:00:00,200 --> 00:00:00,800\nfirst\n\n2\n00:00:01,200 --> 00:00:01,800\nsecond\n"


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Two seconds with a title, two chapters, a subtitle track and two audio tracks."""
    (tmp_path / "film.srt").write_text(SUBTITLES, encoding="utf-8")
    path = tmp_path / "film.mkv"
    with av.open(str(tmp_path / "film.srt")) as text, av.open(str(path), "w") as target:
        target.metadata["title"] = "A film"
        halves = [(0, 1000, "one"), (1000, 2000, "two")]
        target.set_chapters(
            [
                {
                    "id": number,
                    "start": start,
                    "end": end,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": title},
                }
                for number, (start, end, title) in enumerate(halves)
            ]
        )
        video = target.add_stream("libx264", 25)
        video.width = video.height = 64
        sounds = [target.add_stream("aac", rate=48000) for _ in range(2)]
        sounds[1].metadata["language"] = "fra"
        words = target.add_stream_from_template(text.streams.subtitles[0])
        for number in range(50):
            frame = VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts = number
            target.mux(video.encode(frame))
        for sound in sounds:
            frame = AudioFrame.from_ndarray(np.zeros((1, 96000), np.float32), format="flt", layout="mono")
            frame.sample_rate = 48000
            target.mux(sound.encode(frame))
        for stream in (video, *sounds):
            target.mux(stream.encode(None))
        for packet in text.demux():
            if packet.size:
                packet.stream = words
                target.mux(packet)
    return path


def write(path: Path, film: Path, start_s: float, duration_s: float) -> None:
    carried = Carried(film, start_s, duration_s)
    encoding = Encoding(preset="ultrafast")
    with VideoWriter(
        path,
        width=64,
        height=64,
        fps=Fraction(25),
        like=None,
        speech=film,
        encoding=encoding,
        carried=carried,
    ) as writer:
        for _ in range(50):
            writer.write(np.zeros((64, 64, 3), np.uint8))


def test_everything_comes_along_from_the_start_that_is_used(film: Path, tmp_path: Path) -> None:
    write(tmp_path / "out.mkv", film, start_s=0.5, duration_s=1.5)
    with av.open(str(tmp_path / "out.mkv")) as made:
        assert made.metadata["title"] == "A film"
        chapters = [
            (float(one["start"] * one["time_base"]), one["metadata"]["title"]) for one in made.chapters()
        ]
        assert chapters == [(0.0, "one"), (0.5, "two")]
        assert [len(made.streams.audio), len(made.streams.subtitles)] == [2, 1]
        assert made.streams.audio[1].metadata["language"] == "fra"
        shown = [
            (float(packet.pts * packet.time_base), bytes(packet).decode())
            for packet in made.demux(made.streams.subtitles[0])
            if packet.size
        ]
    assert shown == [(pytest.approx(0.7, abs=0.01), "second")]


def test_what_a_container_does_not_take_is_said(film: Path, tmp_path: Path) -> None:
    assert list(describe_losses(film, "matroska")) == []
    (line,) = describe_losses(film, "mp4")
    assert line.endswith("film.mkv' (subrip) cannot be kept: name the output .mkv to keep them")
    write(tmp_path / "out.mp4", film, start_s=0.0, duration_s=2.0)
    with av.open(str(tmp_path / "out.mp4")) as made:
        assert [len(made.streams.audio), len(made.streams.subtitles)] == [2, 0]
        assert (made.metadata["title"], len(made.chapters())) == ("A film", 2)
