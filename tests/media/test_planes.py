"""Pictures in the decoder's planes: RGB of a region, and what is written of them again."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from latentsync.media.pixels import RGBConverter
from latentsync.media.planes import Planes
from latentsync.media.probe import require_video
from latentsync.media.read import read_frames, read_frames_backward
from latentsync.media.write import Encoding, VideoWriter
from latentsync.types import Patched, Picture

from .conftest import MakeVideo

AS_IT_IS = Encoding(crf=0, preset="ultrafast")  # x264 loses nothing at 0, beyond the conversion to 4:2:0


def noisy_video(path: Path, pix_fmt: str = "yuv420p", *, colorspace: int = 5, color_range: int = 1) -> Path:
    """Four frames of noise in every plane, stored without loss."""
    rng = np.random.default_rng(3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25, width=96, height=64)
        stream.pix_fmt = pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, color_range
        for _ in range(4):
            frame = av.VideoFrame(96, 64, pix_fmt)
            frame.colorspace, frame.color_range = colorspace, color_range
            for samples in planes_of(frame):
                samples[...] = rng.integers(20, 230, samples.shape) << (2 if samples.itemsize == 2 else 0)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def planes_of(frame: av.VideoFrame) -> list[NDArray[Any]]:
    dtype = np.uint16 if "10" in frame.format.name else np.uint8
    return [np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]


def decoded(path: Path) -> Iterator[av.VideoFrame]:
    with av.open(str(path)) as container:
        yield from container.decode(video=0)


def pictures(path: Path) -> list[Picture]:
    return [frame.picture for frame in read_frames(path, keeps_planes=True)]


def rewrite(path: Path, source: Path, shown: list[Any], encoding: Encoding = AS_IT_IS) -> Path:
    like = require_video(source)
    with VideoWriter(path, width=96, height=64, fps=Fraction(25), like=like, encoding=encoding) as writer:
        for picture in shown:
            writer.write(picture)
    return path


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize(("colorspace", "color_range"), [(1, 1), (5, 2)])
def test_a_region_has_the_values_of_the_whole(
    tmp_path: Path, pix_fmt: str, colorspace: int, color_range: int
) -> None:
    path = noisy_video(tmp_path / "in.mkv", pix_fmt, colorspace=colorspace, color_range=color_range)
    whole = RGBConverter()(next(decoded(path)))
    for region in np.s_[3:20, 11:40], np.s_[0:64, 0:96], np.s_[37:80, 61:200], np.s_[5:9, 20:21]:
        picture = pictures(path)[0]
        assert isinstance(picture, Planes)
        assert (picture[region] == whole[region]).all()
        assert (picture[10:30, 12:50] == whole[10:30, 12:50]).all()
    assert picture[3:3, 0:9].shape == (0, 9, 3)


def test_pixels_far_apart_have_the_colour_of_the_frame(make_video: MakeVideo) -> None:
    path = make_video(size=(192, 128))
    whole = next(read_frames(path)).rgb_u8
    sampled = pictures(path)[0][::3, ::3]
    assert np.abs(sampled.astype(int) - whole[::3, ::3]).max() <= 3


@pytest.mark.parametrize("color_range", [1, 2])
def test_untouched_samples_are_written_as_they_were_decoded(tmp_path: Path, color_range: int) -> None:
    source = noisy_video(tmp_path / "in.mkv", color_range=color_range)
    red = np.broadcast_to(np.array([200, 30, 40], np.uint8), (15, 21, 3))
    patched = [Patched(picture, 33, 19, red) for picture in pictures(source)]
    in_planes = rewrite(tmp_path / "planes.mp4", source, patched)
    in_rgb = rewrite(tmp_path / "rgb.mp4", source, [one.rgb_u8 for one in patched])
    frames = zip(decoded(source), decoded(in_planes), decoded(in_rgb), strict=True)
    for before, after, through_rgb in frames:
        for old, new, other in zip(*map(planes_of, (before, after, through_rgb)), strict=True):
            scale = 64 // len(old)
            inside = np.zeros(old.shape, bool)
            inside[19 // scale : -(-34 // scale), 33 // scale : -(-54 // scale)] = True
            assert (new[~inside] == old[~inside]).all()
            assert (new[inside] == other[inside]).all()
            assert (new[inside] != old[inside]).mean() > 0.8


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p"])
def test_other_planes_become_those_of_the_encoder(tmp_path: Path, pix_fmt: str) -> None:
    source = noisy_video(tmp_path / "in.mkv", pix_fmt)
    nothing = np.zeros((0, 0, 3), np.uint8)
    path = rewrite(tmp_path / "out.mp4", source, [Patched(one, 0, 0, nothing) for one in pictures(source)])
    before, after = next(decoded(source)), next(decoded(path))
    assert after.format.name == "yuv420p"
    luma = planes_of(before)[0] / (4 if "10" in pix_fmt else 1)
    assert np.abs(planes_of(after)[0] - luma).max() <= 1


def test_a_writer_that_stores_otherwise_gets_rgb(tmp_path: Path) -> None:
    source = noisy_video(tmp_path / "in.mkv")
    nothing = np.zeros((0, 0, 3), np.uint8)
    lossless = Encoding(codec="lossless", preset="ultrafast")
    path = rewrite(
        tmp_path / "out.mkv", source, [Patched(one, 0, 0, nothing) for one in pictures(source)], lossless
    )
    for before, after in zip(read_frames(source), read_frames(path), strict=True):
        assert (before.rgb_u8 == after.rgb_u8).all()


@pytest.mark.parametrize(
    "odd",
    [
        {"name": "turned.mp4", "rotation": 90},
        {"name": "mirrored.mp4", "rotation": 180},
        {"name": "clear.mkv", "codec": "ffv1", "pix_fmt": "yuva420p"},
        {"name": "grey.mkv", "codec": "ffv1", "pix_fmt": "gray"},
    ],
)
def test_what_is_turned_or_transparent_becomes_rgb(make_video: MakeVideo, odd: dict[str, Any]) -> None:
    assert isinstance(pictures(make_video(**odd))[0], np.ndarray)


def test_frames_read_backward_stay_in_planes(make_video: MakeVideo) -> None:
    path = make_video()
    backward = list(read_frames_backward(path, keeps_planes=True))
    assert all(isinstance(frame.picture, Planes) for frame in backward)
    for forward, other in zip(read_frames(path), reversed(backward), strict=True):
        assert (forward.rgb_u8 == other.rgb_u8).all()
