from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from latentsync.metrics.identity import FACE_TEMPLATE, FIVE_OF_68, Csim, Identity, aligned_face
from latentsync.metrics.metric import ScoredClip

Talking = Callable[..., ScoredClip]


def colours(faces: Tensor) -> Tensor:
    """Stands in for a face network."""
    assert faces.shape[1:] == (3, 112, 112)
    assert -1 <= faces.min() <= faces.max() <= 1
    return faces.mean((2, 3))


def metric(batch_frames: int = 32) -> Identity:
    return Identity(lambda: colours, torch.device("cpu"), "1", batch_frames)


def test_the_face_is_laid_on_the_template() -> None:
    """Dots at a face's five places, turned and squeezed to the square, come back to those of the template."""
    turned = (FACE_TEMPLATE - 56) @ np.array([[0.9, 0.3], [-0.3, 0.9]]) * 1.4 + (90, 128)
    squeezed = turned / (0.75, 1)
    crop = np.zeros((256, 256, 3), np.uint8)
    points = np.zeros((68, 2), np.float32)
    for index, (group, point) in enumerate(zip(FIVE_OF_68, squeezed, strict=True)):
        points[list(group)] = point
        cv2.circle(crop, tuple(np.round(point).astype(int).tolist()), 4, (50 * index + 50,) * 3, -1)
    face = aligned_face(crop, points)
    for index, (x, y) in enumerate(FACE_TEMPLATE):
        assert face[round(y), round(x), 0] == 50 * index + 50


def test_the_same_face_is_1_and_another_less(talking: Talking) -> None:
    clip = talking(1)
    tinted = replace(clip, made_u8=clip.made_u8 // np.array([1, 2, 4], np.uint8))
    assert metric().score(clip) == {"identity": pytest.approx(1)}
    found = metric().score(tinted)
    assert isinstance(found, dict)
    assert found["identity"] < 0.98
    assert found == {"identity": pytest.approx(metric(batch_frames=7).score(tinted)["identity"], abs=1e-6)}


def test_frames_without_a_face_are_left_out(talking: Talking) -> None:
    clip = talking(1)
    assert clip.made_points is not None
    points, crops_u8 = clip.made_points.copy(), clip.made_u8.copy()
    points[5:9], crops_u8[5:9] = np.nan, 0
    assert metric().score(replace(clip, made_points=points, made_u8=crops_u8)) == {
        "identity": pytest.approx(1)
    }
    lost = metric().score(replace(clip, made_points=np.full_like(points, np.nan)))
    assert getattr(lost, "reason", "") == "face_lost"


def test_csim_needs_no_landmarks_and_sees_faces_of_160_px(talking: Talking) -> None:
    def embed(faces: Tensor) -> Tensor:
        assert faces.shape[1:] == (3, 160, 160)
        assert -1 <= faces.min() <= faces.max() < 1  # FaceNet's (value - 127.5) / 128
        return torch.nn.functional.normalize(faces.mean((2, 3)))

    clip = replace(talking(1), made_points=None, input_points=None)
    assert Csim(lambda: embed, torch.device("cpu"), 7).score(clip) == {"csim": pytest.approx(1)}
    tinted = replace(clip, made_u8=clip.made_u8 // np.array([1, 2, 4], np.uint8))
    found = Csim(lambda: embed, torch.device("cpu")).score(tinted)
    assert isinstance(found, dict) and found["csim"] < 0.98
