"""Second step: cuts a stream of frames into shots."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import cv2

from latentsync.preprocess.step import Clip, Drop
from latentsync.rates import VIDEO_FPS
from latentsync.recipe.preprocess import Shots
from latentsync.types import Frame, FrameImage


@dataclass
class SplitShots:
    """Yields a clip for every shot. Holds back the few frames that the detector needs after a cut.

    Source: the official pipeline: PySceneDetect, the adaptive detector, threshold 2.
    """

    shots: Shots
    name: str = "split_shots"

    def start(self) -> None:
        pass

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        if clip.stream is None:
            raise ValueError("there are no frames to split")
        for _, shot in groupby(self._numbered(clip.stream), key=lambda numbered: numbered[0]):
            stream = (frame for _, frame in shot)
            first = next(stream)
            yield replace(clip, start_frame=first.index, stream=chain([first], stream))

    def _numbered(self, frames: Iterator[Frame]) -> Iterator[tuple[int, Frame]]:
        """Every frame with the number of its shot."""
        from scenedetect import FrameTimecode

        detector = self._detector()
        ahead: deque[Frame] = deque()
        cuts: set[int] = set()
        shot = 0
        for frame in frames:
            # The stream was brought to 25 fps before, whatever the source has.
            timecode = FrameTimecode(frame.index, float(VIDEO_FPS))
            cuts |= {cut.frame_num for cut in detector.process_frame(timecode, self._small(frame.rgb_u8))}
            ahead.append(frame)
            if len(ahead) > self.shots.window_frames:
                shot += ahead[0].index in cuts
                yield shot, ahead.popleft()
        for frame in ahead:
            shot += frame.index in cuts
            yield shot, frame

    def _detector(self) -> Any:
        from scenedetect.detectors import AdaptiveDetector

        return AdaptiveDetector(
            adaptive_threshold=self.shots.threshold,
            min_scene_len=max(1, round(self.shots.min_s * VIDEO_FPS)),
            window_width=self.shots.window_frames,
            min_content_val=self.shots.min_content,
        )

    def _small(self, rgb_u8: FrameImage) -> Any:
        """The frame as the detector expects it: BGR, and small."""
        shrink = max(1.0, rgb_u8.shape[1] / self.shots.picture_px)
        size = (max(1, round(rgb_u8.shape[1] / shrink)), max(1, round(rgb_u8.shape[0] / shrink)))
        return cv2.cvtColor(cv2.resize(rgb_u8, size, interpolation=cv2.INTER_LINEAR), cv2.COLOR_RGB2BGR)
