"""What the writer leaves on disk, and what it leaves behind when it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest

from latentsync.errors import MediaError, ShapeError
from latentsync.media.probe import VideoInfo, require_audio, require_video
from latentsync.media.read import read_frames
from latentsync.media.sound import read_audio
from latentsync.media.write import Encoding, VideoWriter, write_video

from .conftest import MakeSound, MakeVideo, moving_picture

FAST = Encoding(preset="ultrafast")
LOSSLESS = Encoding(codec="lossless", preset="ultrafast")
SMALL: dict[str, Any] = {"width": 64, "height": 48, "fps": Fraction(25), "encoding": FAST}
WRITE_NOISE = """
import sys
from pathlib import Path
import numpy as np
from latentsync.media.write import write_video

smooth = np.random.default_rng(1).integers(0, 255, (30, 40, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
write_video(Path(sys.argv[1]), [np.roll(smooth, 3 * number, 1) for number in range(16)])
"""


def write(
    path: Path,
    *,
    frames: int = 12,
    size: tuple[int, int] = (64, 48),
    fps: Fraction = Fraction(25),
    like: VideoInfo | None = None,
    speech: Path | None = None,
    encoding: Encoding = FAST,
    duration_s: float | None = None,
    times_s: list[float] | None = None,
) -> None:
    writer = VideoWriter(
        path,
        width=size[0],
        height=size[1],
        fps=fps,
        like=like,
        speech=speech,
        encoding=encoding,
        duration_s=duration_s,
    )
    with writer:
        for number in range(frames):
            picture = moving_picture(number, width=size[0], height=size[1])
            writer.write(picture, None if times_s is None else times_s[number])


def sound_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


@pytest.mark.parametrize(
    "fps", [Fraction(25), Fraction(24000, 1001), Fraction(1350, 61), Fraction(2997, 100)]
)
def test_frame_rate_is_exact(tmp_path: Path, fps: Fraction) -> None:
    write(tmp_path / "out.mp4", fps=fps)
    info = require_video(tmp_path / "out.mp4")
    assert (info.fps, info.frames, info.is_variable) == (fps, 12, False)


def test_times_of_variable_frame_rate(tmp_path: Path) -> None:
    times_s = [0.0, 0.04, 0.13, 0.2, 0.5, 0.55]
    write(tmp_path / "out.mp4", frames=6, times_s=times_s)
    assert [frame.time_s for frame in read_frames(tmp_path / "out.mp4")] == pytest.approx(times_s, abs=2e-5)


def test_times_must_increase(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must increase"):
        write(tmp_path / "out.mp4", times_s=[0.0] * 12)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("codec", ["libx264", "libx265", "lossless"])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".MP4"])
@pytest.mark.parametrize("pixels", ["auto", "keep"])
def test_odd_size(
    tmp_path: Path,
    codec: Literal["libx264", "libx265", "lossless"],
    suffix: str,
    pixels: Literal["auto", "keep"],
) -> None:
    path = tmp_path / f"out{suffix}"
    encoding = Encoding(codec=codec, preset="ultrafast", pixels=pixels)
    write(path, size=(63, 47), frames=3, encoding=encoding)
    is_kept = codec == "lossless" or pixels == "keep"
    shapes = [frame.rgb_u8.shape for frame in read_frames(path)]
    assert shapes == [(47, 63, 3) if is_kept else (48, 64, 3)] * 3
    if codec != "lossless":
        assert require_video(path).pix_fmt == ("yuv444p" if is_kept else "yuv420p")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_lossless_is_exact(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write(path, encoding=LOSSLESS)
    for number, frame in enumerate(read_frames(path)):
        assert np.array_equal(frame.rgb_u8, moving_picture(number, width=64, height=48))


@pytest.mark.parametrize(("colorspace", "color_range"), [(1, 1), (5, 1), (6, 2), (9, 1), (2, 0)])
def test_colours_and_tags_come_back(
    tmp_path: Path, make_video: MakeVideo, colorspace: int, color_range: int
) -> None:
    like = replace(
        require_video(make_video()),
        colorspace=colorspace,
        color_range=color_range,
        color_primaries=1,
        color_trc=13,
    )
    path = tmp_path / "out.mp4"
    write(path, like=like, encoding=Encoding(crf=4, preset="veryfast"))
    info = require_video(path)
    assert (info.colorspace, info.color_primaries, info.color_trc) == (colorspace, 1, 13)
    assert info.color_range == color_range or color_range == 0
    for number, frame in enumerate(read_frames(path)):
        shift = frame.rgb_u8.astype(float) - moving_picture(number, width=64, height=48)
        # Half a step of 8-bit chroma is 1.1 levels of blue, and swscale rounds full-range chroma down;
        # a wrong matrix or range is off by 5 and more.
        assert np.abs(shift.mean((0, 1))).max() < (1.2 if color_range != 2 else 2.0)


def test_pixel_aspect_is_kept(tmp_path: Path, make_video: MakeVideo) -> None:
    like = replace(require_video(make_video()), pixel_aspect=Fraction(4, 3))
    write(tmp_path / "out.mp4", like=like)
    assert require_video(tmp_path / "out.mp4").pixel_aspect == Fraction(4, 3)


@pytest.mark.parametrize(
    ("suffix", "name", "codec", "rate_hz"),
    [
        (".mp4", "s.m4a", "aac", 44100),
        (".mp4", "s.aac", "aac", 24000),
        (".mp4", "s.mp3", "libmp3lame", 22050),
        (".mov", "s.wav", "pcm_s24le", 48000),
        (".mkv", "s.wav", "pcm_s16le", 16000),
        (".mkv", "s.ogg", "libopus", 48000),
    ],
)
def test_sound_is_copied_bit_for_bit(
    tmp_path: Path, make_sound: MakeSound, suffix: str, name: str, codec: str, rate_hz: int
) -> None:
    speech, path = make_sound(name, codec=codec, rate_hz=rate_hz, layout="stereo"), tmp_path / f"out{suffix}"
    write(path, frames=30, speech=speech)
    copied, source = b"".join(sound_packets(path)), b"".join(sound_packets(speech))
    if name == "s.aac":  # every packet of the file has a 7-byte header that mp4 keeps in one place
        source = b"".join(packet[7:] for packet in sound_packets(speech))
    assert copied == source


@pytest.mark.parametrize(
    ("rate_hz", "layout", "rate_kept_hz"),
    [(16000, "mono", 16000), (44100, "stereo", 44100), (192000, "quad", 48000)],
)
def test_plain_sound_becomes_aac_in_mp4(
    tmp_path: Path, make_sound: MakeSound, rate_hz: int, layout: str, rate_kept_hz: int
) -> None:
    speech, path = make_sound(rate_hz=rate_hz, layout=layout), tmp_path / "out.mp4"
    write(path, frames=25, speech=speech)
    info, source = require_audio(path), require_audio(speech)
    assert (info.codec, info.rate_hz, info.channels) == ("aac", rate_kept_hz, source.channels)
    assert info.duration_s == pytest.approx(1.0, abs=0.002)
    before, after = read_audio(speech).samples[1000:15000], read_audio(path).samples[1000:15000]
    assert np.corrcoef(before, after)[0, 1] > 0.99


@pytest.mark.parametrize("name", ["s.wav", "s.m4a"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_is_cut_with_the_video(tmp_path: Path, make_sound: MakeSound, name: str, suffix: str) -> None:
    speech = make_sound(name, codec="aac" if name == "s.m4a" else "pcm_s16le", layout="7.1", rate_hz=48000)
    path = tmp_path / f"out{suffix}"
    write(path, frames=15, speech=speech, duration_s=0.6)
    assert (
        0.55 < require_audio(path).duration_s < 0.602 + (0.02 if suffix == ".mkv" else 0)
    )  # counts AAC's delay


def test_speech_without_sound(tmp_path: Path, make_video: MakeVideo) -> None:
    video = make_video()
    with pytest.raises(MediaError, match="has no audio stream"):
        write(tmp_path / "out.mp4", speech=video)
    assert list(tmp_path.iterdir()) == [video]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_the_old_target_and_nothing_else(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"old")
    with pytest.raises(failure), VideoWriter(path, **SMALL) as writer:
        writer.write(moving_picture(0, width=64, height=48))
        assert path.read_bytes() == b"old"
        raise failure
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("out.mp4", b"old")]
    write(path)
    assert require_video(path).frames == 12
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, **SMALL) as first, VideoWriter(path, **SMALL) as second:
        for number in range(4):
            first.write(moving_picture(number, width=64, height=48))
        second.write(moving_picture(0, width=64, height=48))
    assert require_video(path).frames == 4
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(MediaError, match=r"out\.mp4' cannot be written: File too large") as caught:
            write_video(tmp_path / "out.mp4", [noise] * 20, encoding=LOSSLESS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "free some space" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["out.webm", "out.txt", "out", "none/out.mp4", "folder.mp4", "n" * 300 + ".mp4"]
)
def test_impossible_targets(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(MediaError, match="cannot be written") as caught:
        write(tmp_path / name)
    assert caught.value.hint
    assert [one.name for one in tmp_path.iterdir()] == ["folder.mp4"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(MediaError, match="Permission denied"):
        write(tmp_path / "out.mp4")


@pytest.mark.parametrize("name", ["-o.mp4", "http:b.mp4", "a b'\"ü日.mp4", "%03d.mkv"])
def test_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path(name), frames=3)
    assert [one.name for one in tmp_path.iterdir()] == [name]
    assert len(list(read_frames(Path(name)))) == 3


def test_no_frame_and_wrong_size(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="got no frame"):
        write(tmp_path / "out.mp4", frames=0)
    with pytest.raises(ShapeError), VideoWriter(tmp_path / "out.mp4", **SMALL) as writer:
        writer.write(moving_picture(0, width=48, height=64))
    assert not list(tmp_path.iterdir())


def test_real_round_trip(tmp_path: Path, media: Path) -> None:
    source, path = media / "test" / "retalking_1.mp4", tmp_path / "out.mp4"
    info = require_video(source)
    frames = list(read_frames(source, end_s=1.0))
    arguments = {"width": info.width, "height": info.height, "fps": info.fps, "like": info, "speech": source}
    with VideoWriter(path, encoding=Encoding(preset="veryfast"), **arguments) as writer:  # type: ignore[arg-type]
        for frame in frames:
            writer.write(frame.rgb_u8, frame.time_s)
    for frame, again in zip(frames, read_frames(path), strict=True):
        error = again.rgb_u8.astype(float) - frame.rgb_u8
        assert np.mean(error**2) < 3.0  # 43 dB
        assert again.time_s == pytest.approx(frame.time_s, abs=2e-5)
    assert sound_packets(path) == sound_packets(source)
    written, given = require_audio(path), require_audio(source)
    assert written.duration_s == pytest.approx(given.duration_s, abs=1e-3)  # mp4 counts in milliseconds
    assert written == replace(given, duration_s=written.duration_s)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_same_frames_same_bytes_whatever_memory_held(tmp_path: Path, suffix: str) -> None:
    """x264 read memory that it had not written; glibc fills new memory with a byte that we choose."""
    files = []
    for filling in ("0", "170"):
        path = tmp_path / f"{filling}{suffix}"
        subprocess.run(
            [sys.executable, "-c", WRITE_NOISE, str(path)],
            env={**os.environ, "MALLOC_PERTURB_": filling},
            check=True,
        )
        files.append(path.read_bytes())
    assert files[0] == files[1]
