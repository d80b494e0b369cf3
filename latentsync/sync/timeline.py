"""Which frame of the source is shown when: the output's timeline."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from latentsync.faces.choice import FaceChoice
from latentsync.faces.track import TrackedFrame
from latentsync.media.probe import VideoInfo
from latentsync.media.read import read_frames, read_frames_backward
from latentsync.rates import VIDEO_FPS
from latentsync.types import AffineFrame, Face, Frame

Duration = Literal["speech", "video", "loop", "ping-pong", "hold"]
LONGEST_FRAME_S = 0.101  # frames that are shown for longer, below 10 a second, are repeated
MOST_ASPECT = 4  # a pixel aspect beyond is a damaged header
_ROUNDING_FRAMES = 0.01  # a rest of the output that is shorter is no frame


def frame_count(duration_s: float, fps: float) -> int:
    """Frames that cover `duration_s`; a rest of under a hundredth of a frame is rounding.

    >>> frame_count(2.02, 25.0)
    51
    """
    return max(1, math.ceil(duration_s * fps - _ROUNDING_FRAMES))


def shown_fps(info: VideoInfo, *, keep_fps: bool) -> Fraction:
    """Frames a second of the output: the video's own, unless lips need more than it has.

    At least 25, or lips would jump: the rate of the networks.
    """
    if keep_fps or info.is_picture or info.longest_frame_s <= LONGEST_FRAME_S:
        return info.fps
    if info.is_variable:
        return max(info.fps, Fraction(VIDEO_FPS))
    return info.fps * math.ceil(VIDEO_FPS / info.fps)  # a multiple, so that each frame keeps its time


def play(
    path: Path,
    info: VideoInfo,
    *,
    policy: Duration,
    duration_s: float,
    start_s: float = 0.0,
    end_s: float | None = None,
    track: int | None = None,
    fps: Fraction | None = None,
) -> Iterator[Frame]:
    """Read the frames of the output in order, numbered and timed on the output's own clock.

    Args:
        policy: what follows when the source ends early: "speech" and "ping-pong" turn round, "loop" starts
            again, "hold" and a picture repeat the last frame, "video" ends.
        duration_s: when the output ends; one frame is given at least.
        track: which of several video streams; see `media.read.read_frames`.
        fps: as `shown_fps` says: above the video's own, frames that are shown for long are repeated.

    Source: turning round (forward, backward, forward, ...) as in the official pipeline.
    """
    frames = _source_frames(path, info, policy, duration_s, (start_s, end_s), track)
    if fps is None or fps == info.fps:
        return frames
    return _repeated(frames, duration_s, fps)


def _repeated(frames: Iterator[Frame], duration_s: float, fps: Fraction) -> Iterator[Frame]:
    """The frames until the output ends, those that are shown for long several times."""
    period_s = float(1 / fps)
    end_s = duration_s - _ROUNDING_FRAMES * period_s
    number = 0
    last: Frame | None = None
    for frame in frames:
        gap_s = 0.0 if last is None else frame.time_s - last.time_s
        if last is not None and gap_s > LONGEST_FRAME_S:
            pieces = math.ceil(gap_s * VIDEO_FPS - _ROUNDING_FRAMES)
            for piece in range(1, pieces):
                if (time_s := last.time_s + gap_s * piece / pieces) < end_s:
                    yield replace(last, index=number, time_s=time_s)
                    number += 1
        last = replace(frame, index=number)
        yield last
        number += 1
    while last is not None and (time_s := last.time_s + period_s) < end_s:
        last = replace(last, index=number, time_s=time_s)
        yield last
        number += 1


def _source_frames(
    path: Path,
    info: VideoInfo,
    policy: Duration,
    duration_s: float,
    span_s: tuple[float, float | None],
    track: int | None,
) -> Iterator[Frame]:
    period_s = float(1 / info.fps)
    end_of_output_s = duration_s - _ROUNDING_FRAMES * period_s
    number, offset_s, last = 0, 0.0, None
    for is_forward in _directions(policy, info):
        passage = read_frames if is_forward else read_frames_backward
        span_of_pass_s, first_time_s = 0.0, None
        for frame in passage(path, start_s=span_s[0], end_s=span_s[1], track=track, keeps_planes=True):
            first_time_s = frame.time_s if first_time_s is None else first_time_s
            span_of_pass_s = abs(frame.time_s - first_time_s)
            time_s = offset_s + span_of_pass_s if info.is_variable else number * period_s
            if number and time_s >= end_of_output_s:
                return
            last = replace(frame, index=number, time_s=time_s, source=frame.index)
            yield last
            number += 1
        if first_time_s is None:
            break
        offset_s += span_of_pass_s + period_s
    if last is None or (policy == "video" and not info.is_picture):
        return
    while (time_s := last.time_s + period_s if info.is_variable else number * period_s) < end_of_output_s:
        last = replace(last, index=number, time_s=time_s)
        yield last
        number += 1


def _directions(policy: Duration, info: VideoInfo) -> Iterator[bool]:
    """True for each pass that runs forward."""
    yield True
    if policy in ("video", "hold") or info.is_picture:
        return
    is_forward = True
    while True:
        is_forward = True if policy == "loop" else not is_forward
        yield is_forward


class SquarePixels:
    """Shows frames to the face networks with square pixels, and brings what they find back to the frames.

    The networks are trained on square pixels; the frames themselves stay as they are stored.
    """

    def __init__(self, info: VideoInfo) -> None:
        aspect = info.pixel_aspect if 1 / MOST_ASPECT <= info.pixel_aspect <= MOST_ASPECT else Fraction(1)
        self._width = max(1, round(info.width * aspect))
        self._stretch = self._width / info.width
        self._stored: deque[Frame] = deque()

    def choice(self, choice: FaceChoice) -> FaceChoice:
        """The choice in square pixels of a point that is given in stored ones."""
        return replace(choice, point=(choice.point[0] * self._stretch, choice.point[1]))

    def square(self, frame: Frame) -> Frame:
        """The frame with square pixels."""
        if self._stretch == 1:
            return frame
        size = (self._width, frame.picture.shape[0])
        resized = cv2.resize(frame.rgb_u8, size, interpolation=cv2.INTER_LINEAR)
        return replace(frame, picture=np.asarray(resized, np.uint8))

    def squared(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """The frames with square pixels; the stored ones are kept until they leave through `restored`."""
        for frame in frames:
            if self._stretch != 1:
                self._stored.append(frame)
            yield self.square(frame)

    def restored(self, tracked_frames: Iterator[TrackedFrame]) -> Iterator[TrackedFrame]:
        """The same frames as they are stored, with faces and crops in their pixels."""
        for tracked in tracked_frames:
            yield tracked if self._stretch == 1 else self._restore(tracked)

    def _restore(self, tracked: TrackedFrame) -> TrackedFrame:
        face, affine = tracked.face, tracked.affine
        if face is not None:
            shrink, shift = np.array([1 / self._stretch, 1]), np.array([0.5 / self._stretch - 0.5, 0])
            points = (face.points * shrink + shift).astype(np.float32)
            box = (face.box * np.tile(shrink, 2) + np.tile(shift, 2)).astype(np.float32)
            face = Face(box, face.score, points)
        if affine is not None:
            # Pixel centres are whole numbers: the left edge of the frame, -0.5, stays where it is.
            square_from_stored = np.array([[self._stretch, 0, self._stretch / 2 - 0.5], [0, 1, 0], [0, 0, 1]])
            affine = AffineFrame(affine.crop_from_frame @ square_from_stored, affine.resolution)
        return replace(tracked, frame=self._stored.popleft(), face=face, affine=affine)
