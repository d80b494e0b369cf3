"""Metrics of moving pictures: Fréchet distances between features of short windows of two sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.metrics.metric import MetricSetup, ScoredClip, SetMetric, Side, Value
from latentsync.metrics.networks import exactly, load_program, loaded_once, pictures_unit
from latentsync.models.videomae import VideoEncoder

FIRST_FRAME, FRAMES = 20, 16  # of each video, as the reference takes them
PICTURE_PX = 224
I3D_WIDTH, VIDEOMAE_WIDTH = 400, 1408


@dataclass(frozen=True, slots=True)
class FvdI3d(SetMetric):
    """Fréchet distance between I3D features of frames 20 to 35 of each clip.

    Pictures are scaled to 224 px by averaging and stay in 0..1, where other code uses -1..1, so that numbers
    compare with the reference's, not with others'. It runs on the CPU, as there.

    Source: Unterthiner et al. (2018) as in the official evaluation; ours: the aligned crop, not MediaPipe's
    box around the face.
    """

    name: ClassVar[str] = "fvd"
    values: ClassVar[tuple[Value, ...]] = (Value("fvd", "", "lower"),)
    weights: ClassVar[str] = "i3d"
    network: Callable[[], Any]
    width: int = I3D_WIDTH

    @classmethod
    def build(cls, setup: MetricSetup) -> Self:
        return cls(loaded_once(cls.weights, load_program))

    @exactly()
    def features(self, clip: ScoredClip, side: Side) -> NDArray[np.float64]:
        window = clip.crops_u8(side)[FIRST_FRAME : FIRST_FRAME + FRAMES]
        if len(window) < FRAMES:
            return np.zeros((0, self.width))
        size = (PICTURE_PX, PICTURE_PX)
        pictures = np.stack([cv2.resize(crop, size, interpolation=cv2.INTER_AREA) for crop in window])
        # rescale and resize are off, as in the official evaluation: pictures are 224 px in 0..1 already.
        video = pictures_unit(pictures, device="cpu").movedim(0, 1)[None]  # b c f h w
        found = self.network()(video, rescale=False, resize=False, return_features=True)
        return np.asarray(found.flatten(1).double().numpy())


@dataclass(frozen=True, slots=True)
class FvdVideoMae(SetMetric):
    """Fréchet distance between VideoMAE-v2 features of all windows of 16 frames, end to end.

    Source: Ge et al. (2024) for the network, which sees motion that I3D misses; windows and name are ours.
    """

    name: ClassVar[str] = "fvd_videomae"
    values: ClassVar[tuple[Value, ...]] = (Value("fvd_videomae", "", "lower"),)
    weights: ClassVar[str] = "videomae-v2"
    network: Callable[[], VideoEncoder]
    device: torch.device
    width: int = VIDEOMAE_WIDTH

    @classmethod
    def build(cls, setup: MetricSetup) -> Self:
        from latentsync.weights.judges import videomae_from_released

        load = loaded_once(cls.weights, lambda path: videomae_from_released(path, device=setup.device))
        return cls(load, setup.device)

    @exactly()
    def features(self, clip: ScoredClip, side: Side) -> NDArray[np.float64]:
        crops_u8 = clip.crops_u8(side)
        found = [np.zeros((0, self.width))]
        for first in range(0, len(crops_u8) - FRAMES + 1, FRAMES):
            images = pictures_unit(crops_u8[first : first + FRAMES], device=self.device)
            video_pm1 = images.movedim(0, 1)[None] * 2 - 1  # b c f h w
            found.append(self.network().features(video_pm1).cpu().double().numpy())
        return np.concatenate(found)
