"""Faces with something drawn in front of them, and where it is, for the training of the occlusion network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.errors import MediaError
from recipes.compact.labelled_clips import matches_any
from recipes.compact.occluders import KINDS, SIDE_PX, Face, Floats, Kind, Layer, Material, Random, moved

OUTSIDE_WEIGHT = 0.2  # of pixels beside the face, where nothing is pasted
MOVED_SHARE = 0.2  # of the layers
HELD_OUT_THINGS = 0.1  # of the textures
_KINDS, _SHARES = list(KINDS), np.array(list(KINDS.values())) / sum(KINDS.values())
OUTLINE = (*range(17), *range(26, 16, -1))  # of the 68 points: along the jaw, back over the brows


class Faces:
    """Aligned faces that are drawn on, of people who are trained on, or of the others.

    faces_u8  (n 128 128 3)
    points    (n 68 2) in pixels
    """

    def __init__(self, data: Path, *, only: tuple[str, ...] = ("*",), without: tuple[str, ...] = ()) -> None:
        """Read the faces of people whose names match `only` and not `without`.

        Where `only` is given the hands and textures are others than where it is not.

        Raises:
            MediaError: a file is missing, or there is no such face.
        """
        faces, hands = _read(data / "faces.npz"), _read(data / "hands.npz")
        are_wanted = [matches_any(one, only) and not matches_any(one, without) for one in faces["people"]]
        chosen = np.flatnonzero(are_wanted)
        if not len(chosen):
            raise MediaError(f"'{data}': no face of {', '.join(only)}", hint="add clips")
        self.faces_u8, self.points = faces["faces_u8"][chosen], faces["points"][chosen].astype(np.float32)
        people = faces["people"][chosen]
        _, self._person = np.unique(people, return_inverse=True)
        self._of = [np.flatnonzero(self._person == person) for person in range(self._person.max() + 1)]
        things = faces["things_u8"]
        split = round(len(things) * (1 - HELD_OUT_THINGS))
        rows = hands["rgba_u8"]
        hand_people = np.unique(hands["people"])
        few = hand_people[::5]  # a fifth of the people whose hands there are
        is_few = np.isin(hands["people"], few)
        is_held_out = only != ("*",)
        self.material = Material(
            rows[is_few if is_held_out else ~is_few], things[split:] if is_held_out else things[:split]
        )

    def face(self, random: Random) -> Face:
        """A face at 96 px, the people equally often, turned and moved and mirrored a little."""
        mine = self._of[int(random.integers(len(self._of)))]
        number = int(mine[int(random.integers(len(mine)))])
        picture, points = self.faces_u8[number], self.points[number]
        zoom = SIDE_PX / len(picture) * float(np.exp(0.08 * random.normal()))
        angle = np.radians(6 * random.normal())
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if random.random() < 0.5:
            turn = turn @ np.array([[-1.0, 0.0], [0.0, 1.0]])
        shift = SIDE_PX / 2 - turn @ np.full(2, len(picture) / 2)
        shift = shift + random.normal(0, 0.03 * SIDE_PX, 2)
        matrix = np.column_stack([turn, shift])
        cut = cv2.warpAffine(picture, matrix, (SIDE_PX, SIDE_PX), borderMode=cv2.BORDER_REPLICATE)
        return Face(cut.astype(np.float32) / 255, np.asarray(points @ turn.T + shift, np.float32))


def occluded(
    faces: Faces, random: Random, *, share: float, kinds: tuple[Kind, ...] = ()
) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """A face (h w 3), with something in front of it in `share` of the cases, of one of `kinds` if given.

    Returns:
        the picture; where something is in front (h w), 0 or 1; and what each pixel counts (h w).
    """
    face = faces.face(random)
    picture, covers = _distracted(face, random), np.zeros((SIDE_PX, SIDE_PX), np.float32)
    if random.random() < share:
        for _ in range(1 if random.random() < 0.8 else 2):
            kind = kinds or (_KINDS[int(random.choice(len(_KINDS), p=_SHARES))],)
            layer = kind[int(random.integers(len(kind)))](face, faces.material, random)
            layer = moved(layer, random) if random.random() < MOVED_SHARE else layer
            picture = composited(picture, layer, random)
            covers = np.maximum(covers, layer.covers)
    weight = np.full((SIDE_PX, SIDE_PX), OUTSIDE_WEIGHT, np.float32)
    cv2.fillPoly(weight, [np.rint(face.points[list(OUTLINE)]).astype(np.int32)], 1.0)
    return degraded(picture, random), (covers > 0.5).astype(np.float32), weight


def composited(picture: Floats, layer: Layer, random: Random) -> Floats:
    """The layer in front of the picture, with the shadow that it throws, its edge as soft as the rest."""
    alpha = cv2.GaussianBlur(layer.alpha, (0, 0), random.uniform(0.3, 1.2))[..., None]
    if random.random() < 0.35:
        shift = np.array([[1, 0, random.normal(0, 4)], [0, 1, random.uniform(0, 6)]])
        shadow = cv2.warpAffine(layer.alpha, shift, (SIDE_PX, SIDE_PX))
        shadow = cv2.GaussianBlur(shadow, (0, 0), random.uniform(1, 5))
        picture = picture * (1 - random.uniform(0.1, 0.6) * shadow[..., None])
    return np.asarray(picture * (1 - alpha) + layer.picture * alpha, np.float32)


def _distracted(face: Face, random: Random) -> Floats:
    """The face, sometimes with what is not in front of it: a shadow, a glare, a beard, lipstick."""
    picture = face.picture
    if random.random() < 0.3:
        picture = picture * (1 - random.uniform(0.15, 0.75) * _patch(random)[..., None])
    if random.random() < 0.08:
        picture = picture + random.uniform(0.1, 0.5) * _patch(random)[..., None]
    if random.random() < 0.12:
        picture = _bearded(picture, face, random)
    if random.random() < 0.08:
        lips = np.zeros((SIDE_PX, SIDE_PX), np.float32)
        cv2.fillPoly(lips, [np.rint(face.points[48:60]).astype(np.int32)], 1.0)
        cv2.fillPoly(lips, [np.rint(face.points[60:68]).astype(np.int32)], 0.0)
        lips = cv2.GaussianBlur(lips, (0, 0), 0.8)[..., None] * random.uniform(0.3, 0.8)
        colour = np.array([random.uniform(0.3, 0.9), random.uniform(0, 0.3), random.uniform(0, 0.4)])
        picture = picture * (1 - lips) + colour * lips
    return np.asarray(np.clip(picture, 0, 1), np.float32)


def _patch(random: Random) -> Floats:
    """A half plane or polygon (h w), 0..1, with an edge of any softness."""
    drawn = np.zeros((SIDE_PX, SIDE_PX), np.float32)
    corners = random.uniform(-30, SIDE_PX + 30, (int(random.integers(3, 6)), 2))
    cv2.fillPoly(drawn, [np.rint(corners).astype(np.int32)], 1.0)
    return np.asarray(cv2.GaussianBlur(drawn, (0, 0), random.uniform(0.8, 8)), np.float32)


def _bearded(picture: Floats, face: Face, random: Random) -> Floats:
    """Hair along the jaw and around the lips, dark or grey, thin or full."""
    beard = np.zeros((SIDE_PX, SIDE_PX), np.float32)
    jaw = face.points[3:14]
    upper = face.points[[54, 53, 51, 49, 48]] - [0, random.uniform(1, 6)]
    cv2.fillPoly(beard, [np.rint(np.concatenate([np.add(jaw, [0, 3]), upper])).astype(np.int32)], 1.0)
    cv2.fillPoly(beard, [np.rint(face.points[48:60]).astype(np.int32)], 0.0)
    strands = cv2.GaussianBlur(
        random.standard_normal((SIDE_PX, SIDE_PX), np.float32), (0, 0), 0.7, sigmaY=1.2
    )
    thickness = random.uniform(0.2, 0.95)
    alpha = cv2.GaussianBlur(beard, (0, 0), random.uniform(1, 3)) * np.clip(thickness + 0.8 * strands, 0, 1)
    tones = np.array([[0.05, 0.04, 0.03], [0.2, 0.12, 0.07], [0.45, 0.42, 0.4], [0.4, 0.25, 0.12]])
    tone = tones[int(random.integers(4))] * random.uniform(0.7, 1.3)
    return np.asarray(picture * (1 - alpha[..., None]) + tone * alpha[..., None], np.float32)


def degraded(picture: Floats, random: Random) -> NDArray[np.uint8]:
    """The picture (h w 3) as bad cameras and encoders show it; all of it alike, so that no seam is left."""
    if random.random() < 0.7:
        gamma = np.exp(0.3 * random.normal())
        picture = np.clip(picture, 1e-4, 1) ** np.float32(gamma)
        grey = picture.mean(2, keepdims=True)
        picture = grey + (picture - grey) * np.float32(np.exp(0.3 * random.normal()))
        gain = np.exp(0.2 * random.normal()) * np.exp(0.06 * random.normal(size=3))
        picture = picture * gain.astype(np.float32) + np.float32(0.04 * random.normal())
    kind = random.random()
    if kind < 0.25:
        picture = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.4, 1.8))
    elif kind < 0.35:  # motion
        size = int(random.integers(3, 10))
        kernel = np.zeros((size, size), np.float32)
        ends = random.uniform(0, size - 1, (2, 2))
        cv2.line(kernel, tuple(np.rint(ends[0]).astype(int)), tuple(np.rint(ends[1]).astype(int)), 1.0)
        picture = cv2.filter2D(picture, -1, kernel / kernel.sum())
    elif kind < 0.55:
        size = int(random.integers(24, 80))
        small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
        picture = cv2.resize(small, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR)
    if random.random() < 0.3:
        picture = picture + random.standard_normal(picture.shape, np.float32) * random.uniform(0.01, 0.06)
    made = np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)
    if random.random() < 0.3:
        _, data = cv2.imencode(".jpg", made, [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(20, 90))])
        made = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return made


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, ValueError, EOFError) as error:
        raise MediaError(
            f"'{path}': cannot be read ({error})", hint="see recipes/compact/README.md"
        ) from error
