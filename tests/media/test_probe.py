"""What probe says about files, good and bad."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from latentsync.errors import MediaError
from latentsync.media.probe import probe, require_audio, require_video

from .conftest import MakeSound, MakeVideo, moving_picture


def test_video_facts(make_video: MakeVideo) -> None:
    info = require_video(make_video(fps=Fraction(24000, 1001)))
    assert (info.width, info.height, info.frames, info.codec) == (64, 48, 12, "h264")
    assert info.fps == Fraction(24000, 1001)
    assert info.duration_s == pytest.approx(12 * 1001 / 24000)
    assert not info.is_variable and not info.is_picture


def test_size_is_upright(make_video: MakeVideo) -> None:
    info = require_video(make_video(rotation=90))
    assert (info.width, info.height, info.rotation) == (48, 64, 90)


def test_container_without_frame_count_gives_none(make_video: MakeVideo) -> None:
    assert require_video(make_video("in.mkv")).frames is None


def test_variable_frame_rate_is_seen(make_video: MakeVideo) -> None:
    times_ms = [0, 40, 80, 200, 240, 280, 320, 500, 540, 580, 620, 660]
    assert require_video(make_video(times=times_ms)).is_variable


def test_picture(tmp_path: Path) -> None:
    path = tmp_path / "face 100%d.png"
    frame = av.VideoFrame.from_ndarray(moving_picture(0, width=31, height=20), format="rgb24")
    frame.save(tmp_path / "face.png")
    (tmp_path / "face.png").rename(path)
    info = require_video(path)
    assert info.is_picture and (info.width, info.height, info.frames) == (31, 20, 1)


def test_audio_facts(make_sound: MakeSound) -> None:
    info = require_audio(make_sound(rate_hz=44100, layout="stereo"))
    assert (info.rate_hz, info.channels, info.codec) == (44100, 2, "pcm_s16le")
    assert info.duration_s == pytest.approx(1.0)


def test_duration_of_one_track_in_matroska(make_video: MakeVideo) -> None:
    assert require_video(make_video("in.mkv")).duration_s == pytest.approx(0.48, abs=0.002)


def test_a_tag_that_is_not_utf_8_stops_nothing(make_video: MakeVideo) -> None:
    path = make_video("in.mkv")
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"Lav\xe9"))
    assert require_video(path).width == 64


def test_cover_picture_of_a_song_is_no_video(tmp_path: Path, make_sound: MakeSound) -> None:
    song = make_sound("song.mp3", codec="libmp3lame", rate_hz=22050)
    cover = tmp_path / "cover.png"
    av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24").save(cover)
    covered = tmp_path / "covered.mp3"
    with av.open(str(song)) as sound, av.open(str(cover)) as picture, av.open(str(covered), "w") as target:
        sound_copy = target.add_stream_from_template(sound.streams.audio[0])
        picture_copy = target.add_stream_from_template(picture.streams.video[0])
        for source, copy in ((picture, picture_copy), (sound, sound_copy)):
            for packet in source.demux():
                if packet.size:
                    packet.stream = copy
                    target.mux(packet)
    with av.open(str(covered)) as container:
        assert len(container.streams.video) == 1
    assert probe(covered).video is None
    with pytest.raises(MediaError, match="no video stream"):
        require_video(covered)


def test_no_audio_stream(make_video: MakeVideo) -> None:
    with pytest.raises(MediaError, match=r"in\.mp4' has no audio stream") as caught:
        require_audio(make_video())
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", "is empty"),
        ("notes.txt", b"hello, this is no video\n" * 40, "text file"),
        ("notes.mp4", "größe\n".encode() * 700, "text file"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n", "not a video|text file|has neither"),
        ("noise.mp4", bytes(np.random.default_rng(0).integers(0, 256, 5000, np.uint8)), "damaged"),
    ],
)
def test_not_media(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MediaError, match=message) as caught:
        probe(path)
    assert name in str(caught.value) and caught.value.hint
    assert "\n" not in str(caught.value)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="does not exist"):
        probe(tmp_path / "none.mp4")
    with pytest.raises(MediaError, match="is a folder"):
        probe(tmp_path)


def test_cut_off_before_the_index(make_video: MakeVideo) -> None:
    path = make_video(frames=40)
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(MediaError, match="cut off"):
        probe(path)


def test_cut_off_after_the_index(make_video: MakeVideo, tmp_path: Path) -> None:
    whole, fast = make_video(frames=40), tmp_path / "fast.mp4"
    with av.open(str(whole)) as source:
        options = {"movflags": "+faststart"}
        with av.open(str(fast), "w", container_options=options) as target:
            copy = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux():
                if packet.size:
                    packet.stream = copy
                    target.mux(packet)
    assert probe(fast).video is not None
    fast.write_bytes(fast.read_bytes()[:-200])
    with pytest.raises(MediaError, match=r"cut off: it has \d+ of at least \d+ bytes"):
        probe(fast)


@pytest.mark.parametrize("name", ["-i.mp4", "http:b.mp4", "a b'\"ü日.mp4", "clip%03d.mp4", "{a,b}*.mp4"])
def test_odd_names(make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    shutil.move(make_video(), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert require_video(Path(name)).frames == 12


def test_real_files(media: Path) -> None:
    assert require_video(media / "test" / "retalking_1.mp4").fps == Fraction(1350, 61)
    assert require_video(media / "test" / "portrait_1080x1920_1.mp4").codec == "hevc"
    assert probe(media / "test" / "silent_yongen.mp4").audio is None
