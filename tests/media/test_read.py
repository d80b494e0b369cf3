"""Decoding forward, backward and by number, and sound as samples."""

from __future__ import annotations

import gc
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from latentsync.errors import MediaError
from latentsync.media.probe import require_video
from latentsync.media.read import read_frames, read_frames_backward, read_window
from latentsync.media.sound import read_audio

from .conftest import MakeSound, MakeVideo, moving_picture, number_of

KINDS: list[dict[str, Any]] = [
    {"name": "in.mp4"},
    {"name": "gop.mp4", "frames": 40, "keys_every": 4},
    {"name": "hevc.mp4", "codec": "libx265"},
    {"name": "ten_bits.mkv", "codec": "libx265", "pix_fmt": "yuv420p10le"},
    {"name": "av1.mp4", "codec": "libsvtav1"},
    {"name": "in.webm", "codec": "libvpx"},
    {"name": "in.ts"},
    {"name": "in.avi"},
    {"name": "raw.h264"},
    {"name": "odd.mp4", "size": (63, 47), "pix_fmt": "yuv444p"},
    {"name": "turned.mp4", "rotation": -90},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["name"])
def test_every_frame_comes_once_in_both_directions(make_video: MakeVideo, kind: dict[str, Any]) -> None:
    path = make_video(**kind)
    forward = list(read_frames(path))
    assert [frame.index for frame in forward] == list(range(kind.get("frames", 12)))
    assert forward[0].time_s == 0
    assert all(earlier.time_s < later.time_s for earlier, later in itertools.pairwise(forward))
    backward = list(read_frames_backward(path, chunk_frames=5))[::-1]
    assert len(backward) == len(forward)
    for frame, again in zip(forward, backward, strict=True):
        assert (frame.index, frame.time_s) == (again.index, pytest.approx(again.time_s))
        assert np.array_equal(frame.rgb_u8, again.rgb_u8)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["name"])
def test_window_equals_the_stream(make_video: MakeVideo, kind: dict[str, Any]) -> None:
    path = make_video(**kind)
    stream = [frame.rgb_u8 for frame in read_frames(path)]
    wanted = [7, 2, len(stream) - 1, 2, 8]
    assert np.array_equal(read_window(path, wanted), np.stack([stream[number] for number in wanted]))


def test_decoded_frames_do_not_wait_for_the_garbage_collector(make_video: MakeVideo) -> None:
    path = make_video(frames=40)
    gc.collect()
    gc.disable()
    try:
        seen = sum(1 for _ in read_frames(path))
        waiting = gc.collect()
    finally:
        gc.enable()
    assert seen == 40
    assert waiting < 40


def test_window_outside_the_video(make_video: MakeVideo) -> None:
    with pytest.raises(ValueError, match="0 to 11"):
        read_window(make_video(), [12])


@pytest.mark.parametrize("name", ["in.mp4", "in.mkv", "in.avi"])
def test_part_of_a_video(make_video: MakeVideo, name: str) -> None:
    path = make_video(name, frames=30, keys_every=7)
    part = list(read_frames(path, start_s=0.4, end_s=0.8))
    assert [number_of(frame.rgb_u8) for frame in part] == list(range(10, 20))
    assert [frame.index for frame in part] == list(range(10))
    assert part[0].time_s == 0 and part[-1].time_s == pytest.approx(0.36, abs=0.001)
    backward = [number_of(frame.rgb_u8) for frame in read_frames_backward(path, start_s=0.4, end_s=0.8)]
    assert backward == list(range(19, 9, -1))


def test_start_after_the_end(make_video: MakeVideo) -> None:
    with pytest.raises(MediaError, match=r"no frame at or after 9 s: it is 0\.48 s long"):
        list(read_frames(make_video(), start_s=9))


def test_times_of_variable_frame_rate(make_video: MakeVideo) -> None:
    times_ms = [0, 40, 80, 200, 240, 280, 320, 500, 540, 580, 620, 660]
    frames = read_frames(make_video(times=times_ms))
    assert [frame.time_s for frame in frames] == pytest.approx([time / 1000 for time in times_ms])


@pytest.mark.parametrize(("rotation", "corner"), [(90, (0, -1)), (-90, (-1, 0)), (180, (-1, -1))])
def test_rotation_is_applied(make_video: MakeVideo, rotation: int, corner: tuple[int, int]) -> None:
    path = make_video(rotation=rotation)
    frame = next(iter(read_frames(path)))
    stored = moving_picture(0, width=64, height=48)
    assert np.abs(frame.rgb_u8[0, 0].astype(int) - stored[corner]).max() < 8
    assert frame.rgb_u8.shape == ((64, 48, 3) if rotation != 180 else (48, 64, 3))


def test_mirrored_video_is_upright(tmp_path: Path) -> None:
    path = tmp_path / "mirror.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=64, height=48, options={"crf": "5"})
        stream.set_display_rotation(0, hflip=True)
        picture = av.VideoFrame.from_ndarray(moving_picture(0, width=64, height=48), format="rgb24")
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    rgb_u8 = next(iter(read_frames(path))).rgb_u8
    assert rgb_u8[..., 0][:, 0].mean() > 130 > rgb_u8[..., 0][:, -1].mean()


@pytest.mark.parametrize(("pix_fmt", "suffix"), [("rgb24", "png"), ("rgba", "png"), ("rgb24", "bmp")])
def test_picture_is_one_exact_frame(tmp_path: Path, pix_fmt: str, suffix: str) -> None:
    path = tmp_path / f"face.{suffix}"
    picture = moving_picture(3, width=33, height=21)
    if pix_fmt == "rgba":
        picture = np.dstack([picture, np.full((21, 33), 90, np.uint8)])
    with av.open(str(path), "w", format="image2", container_options={"update": "1"}) as container:
        stream = container.add_stream(suffix, rate=1, width=33, height=21)
        stream.pix_fmt = pix_fmt if suffix == "png" else "bgr24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format=pix_fmt)))
        container.mux(stream.encode(None))
    frames = list(read_frames(path, start_s=3))
    assert len(frames) == 1
    shown = picture[..., :3].astype(float)
    if pix_fmt == "rgba":  # over white
        shown = (shown * 90 + 255 * 165) / 255
    assert np.array_equal(frames[0].rgb_u8, np.rint(shown))
    assert len(list(read_frames_backward(path))) == 1


@pytest.mark.parametrize(("colorspace", "color_range"), [(1, 1), (5, 1), (6, 2), (9, 1), (2, 0)])
def test_matrix_and_range_follow_the_tags(tmp_path: Path, colorspace: int, color_range: int) -> None:
    """A flat colour, converted by the formula of ITU-R BT.601, 709 and 2020, comes back."""
    red_weight, blue_weight = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}.get(colorspace, (0.299, 0.114))
    rgb = np.array([200.0, 90.0, 40.0])
    luma = red_weight * rgb[0] + (1 - red_weight - blue_weight) * rgb[1] + blue_weight * rgb[2]
    chroma = np.array([(rgb[2] - luma) / (1 - blue_weight), (rgb[0] - luma) / (1 - red_weight)]) / 2
    limited = color_range != 2
    planes = [16 + luma * 219 / 255 if limited else luma]
    planes += [128 + value * (224 / 255 if limited else 1) for value in chroma]
    path = tmp_path / "flat.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=32, height=32, options={"crf": "0"})
        stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, color_range
        frame = av.VideoFrame(32, 32, "yuv420p")
        for plane, value in zip(frame.planes, planes, strict=True):
            plane.update(bytes([round(value)]) * plane.buffer_size)
        frame.colorspace, frame.color_range = colorspace, color_range
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    decoded = next(iter(read_frames(path))).rgb_u8
    assert np.abs(decoded.astype(float) - rgb).max() <= 2


def test_damaged_packet_in_the_middle(make_video: MakeVideo, caplog: pytest.LogCaptureFixture) -> None:
    path = make_video(frames=40, keys_every=8)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    position, size = packets[17]
    content[position : position + size] = b"\xff" * size
    path.write_bytes(content)
    numbers = [number_of(frame.rgb_u8) for frame in read_frames(path)]
    assert len(numbers) >= 38
    assert numbers[-8:] == list(range(32, 40))


def test_damage_everywhere(make_video: MakeVideo) -> None:
    path = make_video(frames=5)
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                content[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"in\.mp4' is damaged"):
        list(read_frames(path))


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz", "layout"),
    [
        ("a.wav", "pcm_s16le", 16000, "mono"),
        ("a.wav", "pcm_s24le", 48000, "stereo"),
        ("a.mp3", "libmp3lame", 44100, "stereo"),
        ("a.m4a", "aac", 44100, "mono"),
        ("a.ogg", "libopus", 48000, "stereo"),
        ("a.flac", "flac", 22050, "mono"),
    ],
)
def test_sound_becomes_mono_at_16_khz(
    make_sound: MakeSound, name: str, codec: str, rate_hz: int, layout: str
) -> None:
    track = read_audio(make_sound(name, codec=codec, rate_hz=rate_hz, layout=layout))
    assert track.rate_hz == 16000 and track.samples.dtype == np.float32
    assert track.duration_s == pytest.approx(1.0, abs=0.05)
    seconds = np.arange(2000, 14000) / 16000
    tone = 0.5 * np.sin(2 * np.pi * (200 + 300 * seconds) * seconds)
    assert np.abs(track.samples[2000:14000] - tone).mean() < 0.02


def test_part_of_a_sound_is_exact(make_sound: MakeSound) -> None:
    path = make_sound()
    whole = read_audio(path).samples
    assert np.array_equal(read_audio(path, start_s=0.25, end_s=0.5).samples, whole[4000:8000])
    before = read_audio(path, start_s=-0.1, end_s=0.1).samples
    assert np.array_equal(before, np.concatenate([np.zeros(1600, np.float32), whole[:1600]]))


def test_sound_without_samples(make_sound: MakeSound) -> None:
    with pytest.raises(MediaError, match="has no samples"):
        read_audio(make_sound(duration_s=0.0))


def test_real_video_is_complete(media: Path) -> None:
    path = media / "test" / "retalking_5.mp4"
    info = require_video(path)
    last = list(read_frames(path, start_s=4.0))
    assert info.fps == Fraction(25) and len(last) == 22
    assert np.array_equal(read_window(path, [100, 121]), np.stack([last[0].rgb_u8, last[-1].rgb_u8]))
