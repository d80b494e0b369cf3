"""Whether the person stays the same, by FaceNet, or by a face network that the user gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from latentsync.errors import LatentSyncError, WeightsError
from latentsync.faces.align import WINDOW_HEIGHT, WINDOW_WIDTH
from latentsync.faces.landmarks import EYES, NOSE_TIP
from latentsync.files import sha256_of
from latentsync.metrics.metric import ClipMetric, MetricSetup, Missing, Need, Points, ScoredClip, Value
from latentsync.metrics.networks import exactly, load_program, loaded_once, pictures_unit
from latentsync.models.facenet import FACE_PX as FACENET_PX
from latentsync.weights.judges import facenet_from_released

FACE_PX = 112
# Eyes, nose and corners of the mouth in a picture of 112 px. Source: the alignment of ArcFace, with which
# face networks are commonly trained.
FACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
FIVE_OF_68 = (*EYES, (NOSE_TIP,), (48,), (54,))
BATCH_FRAMES = 32


@dataclass(frozen=True, slots=True)
class Identity(ClipMetric):
    """Cosine between the embeddings of generated and input face, the mean over frames.

    `network` takes faces (n 3 112 112), RGB in -1..1, aligned as ArcFace does it, and gives (n d).

    Source: CSIM as in common use, with ArcFace's alignment (Deng et al., 2019).
    """

    name: ClassVar[str] = "identity"
    values: ClassVar[tuple[Value, ...]] = (Value("identity", "", "higher"),)
    needs: ClassVar[tuple[Need, ...]] = ("input", "points")
    network: Callable[[], Any]
    device: torch.device
    network_sha256: str
    batch_frames: int = BATCH_FRAMES

    @classmethod
    def build(cls, setup: MetricSetup) -> Self:
        path = setup.identity_network
        if path is None:
            raise ValueError("identity needs a face network: see `unavailable_reason`")
        return cls(cache(lambda: load_program(path, device=setup.device)), setup.device, _hash_of(path))

    @classmethod
    def unavailable_reason(cls, setup: MetricSetup) -> str:
        return "give a face network with --identity-network" if setup.identity_network is None else ""

    @property
    def version(self) -> str:
        """Changes with the network, so that scores by another one are not taken for its."""
        return f"1-{self.network_sha256[:12]}"

    @exactly()
    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        if clip.input_u8 is None:
            return Missing("no_input", "the crops of the input video are not known")
        if clip.made_points is None or clip.input_points is None:
            return Missing("no_points", "no landmarks were found")
        stacks = (clip.made_u8, clip.input_u8, clip.made_points, clip.input_points)
        frames = [
            frame
            for frame in range(min(len(stack) for stack in stacks))
            if np.isfinite([clip.made_points[frame], clip.input_points[frame]]).all()
        ]
        if not frames:
            return Missing("face_lost", "no frame has landmarks in both videos")
        cosines = []
        for first in range(0, len(frames), self.batch_frames):
            chosen = frames[first : first + self.batch_frames]
            made = self._embed(clip.made_u8[chosen], clip.made_points[chosen])
            own = self._embed(clip.input_u8[chosen], clip.input_points[chosen])
            cosines.append(functional.cosine_similarity(made, own))
        return {"identity": float(torch.cat(cosines).mean())}

    def _embed(self, crops_u8: NDArray[np.uint8], points: Points) -> Tensor:
        faces = np.stack([aligned_face(*pair) for pair in zip(crops_u8, points, strict=True)])
        found: Tensor = self.network()(pictures_unit(faces, device=self.device) * 2 - 1)
        return found.flatten(1).cpu().double()


@dataclass(frozen=True, slots=True)
class Csim(ClipMetric):
    """Cosine between FaceNet's embeddings of generated and input face, the mean over frames.

    Source: CSIM as in common use; FaceNet (Schroff et al. 2015), trained on VGGFace2 with faces cut by MTCNN.
    Ours: the aligned crop, a face box squeezed to a square, stands for MTCNN's, which is cut alike.
    """

    name: ClassVar[str] = "csim"
    values: ClassVar[tuple[Value, ...]] = (Value("csim", "", "higher"),)
    needs: ClassVar[tuple[Need, ...]] = ("input",)
    weights: ClassVar[str] = "facenet"
    network: Callable[[], Any]
    device: torch.device
    batch_frames: int = BATCH_FRAMES

    @classmethod
    def build(cls, setup: MetricSetup) -> Self:
        load = loaded_once(cls.weights, lambda path: facenet_from_released(path, device=setup.device))
        return cls(load, setup.device)

    @exactly()
    def score(self, clip: ScoredClip) -> dict[str, float] | Missing:
        if clip.input_u8 is None:
            return Missing("no_input", "the crops of the input video are not known")
        length = min(len(clip.made_u8), len(clip.input_u8))
        if not length:
            return Missing("too_short", "0 frames")
        cosines = []
        for first in range(0, length, self.batch_frames):
            frames = slice(first, min(first + self.batch_frames, length))
            made, own = (self._embed(crops_u8[frames]) for crops_u8 in (clip.made_u8, clip.input_u8))
            cosines.append((made * own).sum(1))
        return {"csim": float(torch.cat(cosines).mean())}

    def _embed(self, crops_u8: NDArray[np.uint8]) -> Tensor:
        size = (FACENET_PX, FACENET_PX)
        faces = np.stack([cv2.resize(crop, size, interpolation=cv2.INTER_AREA) for crop in crops_u8])
        # FaceNet's own range: (value - 127.5) / 128.
        found: Tensor = self.network()((pictures_unit(faces, device=self.device) * 255 - 127.5) / 128)
        return found.cpu().double()


def _hash_of(network: Path) -> str:
    try:
        return sha256_of(network)
    except (OSError, LatentSyncError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        message = f"cannot read {str(network)!r}: {reason}"
        raise WeightsError(message, hint="check the path of the network") from error


def aligned_face(crop_u8: NDArray[np.uint8], points: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The face (112 112 c) of a square crop (h w c), laid so that its points (68 2) fit `FACE_TEMPLATE`.

    The squeeze from the upright face box to the square is undone in the same step.
    """
    # ArcFace's template has a face's own proportions.
    unsqueeze = np.array([WINDOW_WIDTH / WINDOW_HEIGHT, 1.0])
    five = np.stack([points[list(group)].mean(0) for group in FIVE_OF_68]) * unsqueeze
    matrix = _similarity(five, FACE_TEMPLATE)
    # It was fitted to unsqueezed points, and is applied to the squeezed crop.
    matrix[:, :2] *= unsqueeze
    return np.asarray(cv2.warpAffine(crop_u8, matrix, (FACE_PX, FACE_PX), flags=cv2.INTER_LINEAR), np.uint8)


def _similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The similarity (2, 3) that takes one set of points (n 2) nearest to another, by least squares.

    With points as complex numbers, zoom and turn together are one factor.
    """
    flat, wanted = (points[:, 0] + 1j * points[:, 1] for points in (source, target))
    centred = flat - flat.mean()
    # vdot conjugates its first argument: the least-squares factor is <source, target> / <source, source>.
    factor = np.vdot(centred, wanted - wanted.mean()) / np.vdot(centred, centred)
    shift = wanted.mean() - factor * flat.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])
