"""Which frame of the source is shown when: the output's timeline."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from latentsync.media.probe import VideoInfo
from latentsync.media.read import read_frames, read_frames_backward
from latentsync.types import Frame

Duration = Literal["speech", "video", "loop", "ping-pong", "hold"]
DURATIONS: tuple[Duration, ...] = ("speech", "video", "loop", "ping-pong", "hold")
_ROUNDING_FRAMES = 0.01  # a rest of the output that is shorter is no frame


def frame_count(duration_s: float, fps: float) -> int:
    """Frames that cover `duration_s`; a rest of under a hundredth of a frame is rounding.

    >>> frame_count(2.02, 25.0)
    51
    """
    return max(1, math.ceil(duration_s * fps - _ROUNDING_FRAMES))


def play(
    path: Path,
    info: VideoInfo,
    *,
    policy: Duration,
    duration_s: float,
    start_s: float = 0.0,
    end_s: float | None = None,
) -> Iterator[Frame]:
    """Read the frames of the output in order, numbered and timed on the output's own clock.

    Args:
        policy: what follows when the source ends early: "speech" and "ping-pong" turn round, "loop" starts
            again, "hold" and a picture repeat the last frame, "video" ends.
        duration_s: when the output ends; one frame is given at least.

    Source: turning round (forward, backward, forward, ...) as in the official pipeline.
    """
    period_s = float(1 / info.fps)
    end_of_output_s = duration_s - _ROUNDING_FRAMES * period_s
    number, offset_s, last = 0, 0.0, None
    for is_forward in _directions(policy, info):
        passage = read_frames if is_forward else read_frames_backward
        span_s, first_time_s = 0.0, None
        for frame in passage(path, start_s=start_s, end_s=end_s):
            first_time_s = frame.time_s if first_time_s is None else first_time_s
            span_s = abs(frame.time_s - first_time_s)
            time_s = offset_s + span_s if info.is_variable else number * period_s
            if number and time_s >= end_of_output_s:
                return
            last = Frame(frame.rgb_u8, number, time_s)
            yield last
            number += 1
        if first_time_s is None:
            break
        offset_s += span_s + period_s
    if last is None or (policy == "video" and not info.is_picture):
        return
    while (time_s := last.time_s + period_s if info.is_variable else number * period_s) < end_of_output_s:
        last = Frame(last.rgb_u8, number, time_s)
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
