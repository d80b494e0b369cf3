"""Draws what can be in front of a face: hands, microphones, cups, captions, logos, masks, glasses, things.

Every kind gives a `Layer` of 96 px: a picture (h w 3), 0..1, and its alpha (h w). Every size is ours.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Floats = NDArray[np.float32]
Random = np.random.Generator
SIDE_PX = 96
LINE = cv2.LINE_AA
CAPTION_CHARACTERS = string.ascii_letters + string.digits + "      .,!?'-"
# Of the 68 points: the outline of a medical mask, from one cheek along the jaw to the other, and the nose.
MASK_OUTLINE = (*range(2, 15), 28)


@dataclass(frozen=True, slots=True)
class Material:
    """What layers are made of.

    hands_u8   (n h w 4) hands with alpha
    things_u8  (n h w 3) squares of frames, for textures
    """

    hands_u8: NDArray[np.uint8]
    things_u8: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Layer:
    """A picture (h w 3) and how opaque it is (h w), both 0..1; `covers` (h w) where it counts as in front."""

    picture: Floats
    alpha: Floats
    covers: Floats


@dataclass(frozen=True, slots=True)
class Face:
    """What a layer is drawn for: the picture (h w 3), 0..1, and its 68 points (68 2), in pixels."""

    picture: Floats
    points: Floats

    @property
    def mouth(self) -> Floats:
        return np.asarray(self.points[48:60].mean(0), np.float32)

    @property
    def skin(self) -> Floats:
        """The colour (3,) of a cheek."""
        x, y = np.clip(np.rint(0.5 * (self.points[2] + self.points[31])), 2, SIDE_PX - 3).astype(int)
        return np.asarray(self.picture[y - 2 : y + 3, x - 2 : x + 3].mean((0, 1)), np.float32)


def hand(face: Face, material: Material, random: Random) -> Layer:
    """A hand that was cut out of a frame, in any light."""
    return _hand_at(_aimed(face, random), random.uniform(50, 150), face, material, random)


def _hand_at(
    at: NDArray[np.floating], side_px: float, face: Face, material: Material, random: Random
) -> Layer:
    cut = material.hands_u8[int(random.integers(len(material.hands_u8)))].astype(np.float32) / 255
    if random.random() < 0.5:
        cut = cut[:, ::-1]
    matrix = _turned(at, random.uniform(-180, 180), side_px / len(cut), len(cut) / 2)
    cut = cv2.warpAffine(np.ascontiguousarray(cut), matrix, (SIDE_PX, SIDE_PX), flags=cv2.INTER_LINEAR)
    picture = cut[..., :3]
    if random.random() < 0.75:  # the hand of this person: the colour of the face, roughly
        known = cut[..., 3] > 0.5
        if known.any():
            wanted = face.skin * np.float32(np.exp(0.2 * random.normal()))
            picture = picture * np.clip(wanted / (picture[known].mean(0) + 0.05), 0.3, 3)
    return _layer(_relit(picture, random), cut[..., 3])


def drawn_hand(face: Face, material: Material, random: Random) -> Layer:
    """Fingers of the face's colour, drawn as capsules, over a palm."""
    at, width = _aimed(face, random), random.uniform(5, 14)
    angle, spread = random.uniform(0, 2 * np.pi), random.uniform(0.05, 0.35)
    alpha, depth = np.zeros((2, SIDE_PX, SIDE_PX), np.float32)
    fingers = int(random.integers(1, 6))
    across = np.array([-np.sin(angle), np.cos(angle)])
    for number in range(fingers):
        offset = number - (fingers - 1) / 2
        turn = angle + offset * spread
        along = np.array([np.cos(turn), np.sin(turn)])
        root = at + across * offset * width * random.uniform(0.9, 1.1)
        tip = root + along * width * random.uniform(1.5, 5)
        finger = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
        cv2.line(finger, _point(root - along * 2 * width), _point(tip), 255, max(2, round(width)), LINE)
        near = cv2.distanceTransform((finger > 127).astype(np.uint8), cv2.DIST_L2, 3) / (width / 2)
        depth = np.where(finger > 127, np.minimum(1, near), depth)
        alpha = np.maximum(alpha, finger / np.float32(255))
    if random.random() < 0.6:
        palm = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
        middle = at - width * 3 * np.array([np.cos(angle), np.sin(angle)])
        axes = (round(width * 3), max(2, round(width * fingers * 0.6)))
        cv2.ellipse(palm, _point(middle), axes, np.degrees(angle), 0, 360, 255, -1, LINE)
        depth = np.maximum(depth, palm / np.float32(255))
        alpha = np.maximum(alpha, palm / np.float32(255))
    shade = random.uniform(0.3, 0.75)
    skin = face.skin * np.exp(0.15 * random.normal(size=3)) * np.exp(0.2 * random.normal())
    picture = skin * (shade + (1 - shade) * np.sqrt(depth))[..., None] + _grain(random, 0.03)
    return _layer(_relit(picture, random), alpha)


def microphone(face: Face, material: Material, random: Random) -> Layer:
    """A ball or a foam windshield on a stem, most often from below."""
    mouth = face.mouth + random.normal(0, [12, 9]) + [0, random.uniform(-4, 22)]
    width, height = random.uniform(6, 22, 2)
    height = width * random.uniform(0.8, 1.6) if random.random() < 0.8 else height
    direction = random.normal(np.pi / 2, 0.6) if random.random() < 0.8 else random.uniform(0, 2 * np.pi)
    along = np.array([np.cos(direction), np.sin(direction)])
    alpha = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    stem = cv2.line(
        alpha.copy(), _point(mouth), _point(mouth + 120 * along), 255, round(random.uniform(2, width)), LINE
    )
    cv2.ellipse(
        alpha, _point(mouth), (round(height), round(width)), np.degrees(direction), 0, 360, 255, -1, LINE
    )
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    light = mouth + random.normal(0, 0.5 * width, 2)
    shade = np.exp(-((columns - light[0]) ** 2 + (rows - light[1]) ** 2) / (2 * (0.8 * width) ** 2))
    head = _colour(random, dark=0.6) * (0.5 + 0.9 * shade[..., None])
    if random.random() < 0.5:  # a mesh
        pitch = random.uniform(2, 4)
        head *= (
            1
            + 0.3
            * (np.sin(2 * np.pi * (columns + rows) / pitch) * np.sin(2 * np.pi * (columns - rows) / pitch))[
                ..., None
            ]
        )
    head += _grain(random, random.uniform(0, 0.08))
    rod = _colour(random, dark=0.7) * (0.7 + 0.5 * shade[..., None])
    is_head = alpha[..., None] / np.float32(255)
    if random.random() < 0.15:  # the stem alone, as of a headset
        return _layer(_relit(rod, random), stem / np.float32(255))
    both = np.maximum(alpha, stem) if random.random() < 0.85 else alpha
    whole = _layer(_relit(head * is_head + rod * (1 - is_head), random), both / np.float32(255))
    if random.random() < 0.5:
        return whole
    side = random.uniform(45, 110)  # of the hand that holds it
    return _over(_hand_at(mouth + along * (height + 0.25 * side), side, face, material, random), whole)


def cup(face: Face, material: Material, random: Random) -> Layer:
    """A cup, a glass, a can or a phone: a round-cornered quadrilateral, shaded across."""
    at = _aimed(face, random)
    width, height = random.uniform(16, 50), random.uniform(20, 70)
    taper, angle = random.uniform(0.6, 1.0), random.normal(0, 25)
    corners = np.array([[-1, -1], [1, -1], [taper, 1], [-taper, 1]]) * [width / 2, height / 2]
    corners = corners @ _rotation(angle).T + at
    alpha = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    cv2.fillPoly(alpha, [np.rint(corners).astype(np.int32)], 255, LINE)
    if random.random() < 0.6:  # its rim
        cv2.ellipse(
            alpha,
            _point(corners[:2].mean(0)),
            (round(width / 2), round(width / 8)),
            angle,
            0,
            360,
            255,
            -1,
            LINE,
        )
    across = (np.mgrid[:SIDE_PX, :SIDE_PX][1] - at[0]) / width + 0.5
    shade = 0.6 + 0.5 * np.sin(np.pi * np.clip(across + random.normal(0, 0.2), 0, 1))
    picture = np.broadcast_to(_colour(random, dark=0.3), (SIDE_PX, SIDE_PX, 3)).copy()
    if random.random() < 0.5:
        picture = 0.5 * picture + 0.5 * _texture(material, random)
    return _layer(_relit(picture * shade[..., None], random), alpha / np.float32(255))


def thing(face: Face, material: Material, random: Random) -> Layer:
    """A polygon, a leaf or a blob with the texture of another frame."""
    at, corners = _aimed(face, random), int(random.integers(3, 12))
    angles = np.sort(random.uniform(0, 2 * np.pi, corners))
    radius = random.uniform(8, 45) * random.uniform(0.5, 1.2, corners)
    outline = at + np.stack([np.cos(angles), np.sin(angles) * random.uniform(0.3, 1.5)], 1) * radius[:, None]
    alpha = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    cv2.fillPoly(alpha, [np.rint(outline).astype(np.int32)], 255, LINE)
    if random.random() < 0.6:  # rounded
        soft = cv2.GaussianBlur(alpha, (0, 0), random.uniform(2, 5)).astype(np.float32)
        alpha = np.clip((soft - 110) * 7, 0, 255).astype(np.uint8)
    picture = _texture(material, random)
    if random.random() < 0.4:
        picture = 0.25 * picture + 0.75 * _colour(random, dark=0.4)
    return _layer(_relit(picture, random), alpha / np.float32(255))


def arm(face: Face, material: Material, random: Random) -> Layer:
    """A sleeve, an arm, a pole, a strand or a cable across the face."""
    at, angle = _aimed(face, random), random.uniform(0, np.pi)
    along = 150 * np.array([np.cos(angle), np.sin(angle)])
    bend = at + random.normal(0, 15, 2)
    points = np.rint(np.array([at - along, bend, at + (along if random.random() < 0.5 else 0)])).astype(
        np.int32
    )
    alpha = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    width = max(2, round(float(np.exp(random.uniform(np.log(2.5), np.log(40))))))
    cv2.polylines(alpha, [points], False, 255, width, LINE)
    colour = face.skin if random.random() < 0.3 else _colour(random, dark=0.4)
    picture = 0.35 * _texture(material, random) + 0.65 * colour + _grain(random, 0.02)
    return _layer(_relit(picture, random), alpha / np.float32(255))


def caption(face: Face, material: Material, random: Random) -> Layer:
    """A line or two of text, with an outline, a shadow, or a bar behind it."""
    size_px = float(np.exp(random.uniform(np.log(6), np.log(26))))
    lines = int(random.integers(1, 3))
    text = "\n".join(_words(random, 3 + int(140 / size_px)) for _ in range(lines))
    font = _font(round(2 * size_px))
    page = Image.new("L", (2 * SIDE_PX, 2 * SIDE_PX))
    at = (face.mouth if random.random() < 0.7 else random.uniform(20, 76, 2)) + random.normal(0, 8, 2)
    ImageDraw.Draw(page).multiline_text(
        (2 * at[0], 2 * at[1]), text, 255, font, anchor="mm", align="center", spacing=size_px * 0.4
    )
    strokes = cv2.resize(np.asarray(page), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    if random.random() < 0.2:
        turn = _turned(at, random.normal(0, 15), 1.0, 0.0) @ np.array(
            [[1, 0, -at[0]], [0, 1, -at[1]], [0, 0, 1]]
        )
        strokes = cv2.warpAffine(strokes, turn, (SIDE_PX, SIDE_PX))
    letters = strokes / np.float32(255)
    gap_px = max(3, round(0.45 * size_px) | 1)
    covers = cv2.morphologyEx(
        cv2.dilate(letters, np.ones((3, 3))), cv2.MORPH_CLOSE, np.ones((gap_px, gap_px))
    )
    bright = random.random() < 0.75
    ink = np.clip(random.uniform(0.8, 1, 3) if bright else random.uniform(0, 0.25, 3), 0, 1)
    if random.random() < 0.25:
        ink = random.uniform(0, 1, 3)
    behind, alpha = np.zeros((SIDE_PX, SIDE_PX, 3), np.float32) + (0.02 if bright else 0.95), letters
    kind = random.random()
    if kind < 0.35:  # an outline
        alpha = np.maximum(letters, cv2.dilate(letters, np.ones((3, 3))) * random.uniform(0.6, 1))
    elif kind < 0.55:  # a soft shadow
        alpha = np.maximum(letters, 0.7 * cv2.GaussianBlur(letters, (0, 0), 1.5))
    elif kind < 0.8 and letters.any():  # a bar
        rows, columns = np.flatnonzero(letters.any(1)), np.flatnonzero(letters.any(0))
        pad = random.uniform(1, 5)
        top, bottom = int(max(0, rows[0] - pad)), int(rows[-1] + pad)
        is_wide = random.random() < 0.4
        left, right = (0, SIDE_PX) if is_wide else (int(max(0, columns[0] - pad)), int(columns[-1] + pad))
        bar = np.zeros((SIDE_PX, SIDE_PX), np.float32)
        bar[top : bottom + 1, left : right + 1] = 1
        behind[:] = behind[0, 0] if random.random() < 0.6 else random.uniform(0, 1, 3)
        alpha, covers = np.maximum(letters, bar * random.uniform(0.45, 1)), bar
    picture = behind * (1 - letters[..., None]) + ink * letters[..., None]
    return Layer(np.asarray(picture, np.float32), alpha, covers)


def logo(face: Face, material: Material, random: Random) -> Layer:
    """A badge: a plain or textured disc or bar with a letter or two, hard-edged, upright."""
    at = _aimed(face, random)
    width, height = random.uniform(8, 40), random.uniform(6, 24)
    half = np.array([width, height / 2])
    alpha = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    if random.random() < 0.4:
        cv2.circle(alpha, _point(at), round(height), 255, -1, LINE)
    else:
        cv2.rectangle(alpha, _point(at - half), _point(at + half), 255, -1, LINE)
    picture = np.broadcast_to(random.uniform(0, 1, 3), (SIDE_PX, SIDE_PX, 3)).astype(np.float32)
    if random.random() < 0.3:
        picture = _texture(material, random)
    letters = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    start = _point(at - [width * 0.7, -height / 4])
    cv2.putText(letters, _words(random, 4), start, cv2.FONT_HERSHEY_DUPLEX, height / 40, 255, 1, LINE)
    is_ink = letters[..., None] / np.float32(255)
    picture = picture * (1 - is_ink) + random.uniform(0, 1, 3) * is_ink
    return _layer(picture, alpha / np.float32(255) * np.float32(random.uniform(0.75, 1)))


def medical_mask(face: Face, material: Material, random: Random) -> Layer:
    """A mask over mouth and nose, with folds; sometimes pulled below the nose."""
    outline = face.points[list(MASK_OUTLINE)].copy()
    centre = outline.mean(0)
    outline = centre + (outline - centre) * random.uniform(0.85, 1.1)
    if random.random() < 0.3:
        outline[-1] = face.points[33] + [0, 1]
        outline[[0, 1, -3, -2], 1] = np.maximum(outline[[0, 1, -3, -2], 1], face.points[33][1])
    alpha = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    cv2.fillPoly(alpha, [np.rint(outline).astype(np.int32)], 255, LINE)
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    kinds = np.array([[0.65, 0.8, 0.9], [0.93, 0.93, 0.93], [0.1, 0.1, 0.12], random.uniform(0, 1, 3)])
    colour = kinds[int(random.integers(4))]
    shade = 0.75 + 0.35 * np.exp(-(((columns - centre[0]) / 30) ** 2))
    if random.random() < 0.6:
        shade = shade + 0.07 * np.sin(2 * np.pi * rows / random.uniform(6, 12))
    picture = colour * shade[..., None] + _grain(random, 0.02)
    if random.random() < 0.2:
        picture = 0.5 * picture + 0.5 * _texture(material, random)
    return _layer(_relit(picture, random), alpha / np.float32(255))


def glasses(face: Face, material: Material, random: Random) -> Layer:
    """Frames, or dark glasses, on the eyes."""
    alpha = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    eyes = face.points[36:42].mean(0), face.points[42:48].mean(0)
    between = float(np.linalg.norm(eyes[1] - eyes[0]))
    axes = (
        max(3, round(between * random.uniform(0.3, 0.45))),
        max(3, round(between * random.uniform(0.22, 0.4))),
    )
    filled = -1 if random.random() < 0.5 else max(1, round(random.uniform(1, 3)))
    for eye in eyes:
        cv2.ellipse(alpha, _point(eye), axes, 0, 0, 360, 255, filled, LINE)
    cv2.line(alpha, _point(eyes[0]), _point(eyes[1]), 255, 2, LINE)
    picture = np.broadcast_to(_colour(random, dark=0.8), (SIDE_PX, SIDE_PX, 3)).astype(np.float32)
    return _layer(picture + _grain(random, 0.02), alpha / np.float32(255))


def moved(layer: Layer, random: Random) -> Layer:
    """The layer blurred along its way, as a hand that moves."""
    length = int(random.integers(4, 15))
    kernel = np.zeros((length, length), np.float32)
    ends = np.rint(random.uniform(0, length - 1, (2, 2))).astype(int)
    cv2.line(kernel, ends[0].tolist(), ends[1].tolist(), 1.0)
    kernel /= kernel.sum()
    alpha = cv2.filter2D(layer.alpha, -1, kernel)
    picture = cv2.filter2D(layer.picture * layer.alpha[..., None], -1, kernel) / (alpha[..., None] + 1e-3)
    return Layer(np.asarray(picture, np.float32), alpha, (alpha > 0.4).astype(np.float32))


def _over(upper: Layer, lower: Layer) -> Layer:
    """Both as one layer."""
    alpha = upper.alpha + (1 - upper.alpha) * lower.alpha
    parts = upper.picture * upper.alpha[..., None]
    parts = parts + lower.picture * ((1 - upper.alpha) * lower.alpha)[..., None]
    return _layer(parts / (alpha[..., None] + 1e-3), alpha)


def _layer(picture: NDArray[np.floating], alpha: NDArray[np.floating]) -> Layer:
    opaque = np.asarray(alpha, np.float32)
    return Layer(np.asarray(np.clip(picture, 0, 1), np.float32), opaque, opaque)


def _aimed(face: Face, random: Random) -> NDArray[np.float64]:
    """A point (2,): at the mouth more often than not, else anywhere on the face."""
    if random.random() < 0.6:
        return face.mouth + random.normal(0, 12, 2) + [0, random.choice([0, 12])]
    low, high = face.points.min(0), face.points.max(0)
    return random.uniform(low, high)


def _rotation(angle_deg: float) -> NDArray[np.float64]:
    cosine, sine = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.array([[cosine, -sine], [sine, cosine]])


def _turned(to: NDArray[np.floating], angle_deg: float, zoom: float, centre: float) -> NDArray[np.float64]:
    """The affine (2, 3) that turns and scales about (centre, centre) and takes it to `to`."""
    turn = zoom * _rotation(angle_deg)
    return np.column_stack([turn, to - turn @ [centre, centre]])


def _point(at: NDArray[np.floating]) -> tuple[int, int]:
    return round(float(at[0])), round(float(at[1]))


def _colour(random: Random, *, dark: float) -> NDArray[np.float64]:
    """A colour (3,), a dark grey with this probability."""
    if random.random() < dark:
        return np.clip(random.uniform(0.02, 0.35) + random.normal(0, 0.02, 3), 0, 1)
    return random.uniform(0.05, 1, 3)


def _grain(random: Random, strength: float) -> Floats:
    return np.asarray(random.standard_normal((SIDE_PX, SIDE_PX, 1), np.float32) * np.float32(strength))


def _texture(material: Material, random: Random) -> Floats:
    """A piece (h w 3) of another frame, 0..1, turned and zoomed."""
    square = material.things_u8[int(random.integers(len(material.things_u8)))]
    side = int(random.integers(len(square) // 4, len(square) + 1))
    top, left = random.integers(0, len(square) - side + 1, 2)
    piece = cv2.resize(
        square[top : top + side, left : left + side], (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA
    )
    piece = np.rot90(piece, int(random.integers(4)))
    return np.ascontiguousarray(piece).astype(np.float32) / 255


def _relit(picture: NDArray[np.floating], random: Random) -> Floats:
    """The picture with another exposure, contrast and tint, and light that falls from one side."""
    angle, strength = random.uniform(0, 2 * np.pi), random.uniform(0, 0.4)
    ramp = np.linspace(-1, 1, SIDE_PX)
    light = 1 + strength * (np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None])
    gain = np.exp(0.15 * random.normal()) * np.exp(0.05 * random.normal(size=3))
    return np.asarray(np.clip(picture * light[..., None] * gain + 0.03 * random.normal(), 0, 1), np.float32)


def _words(random: Random, length: int) -> str:
    text = "".join(random.choice(list(CAPTION_CHARACTERS), max(1, length)))
    return text.upper() if random.random() < 0.3 else text


@lru_cache(maxsize=64)
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


# How often each is drawn.
Kind = Callable[[Face, Material, Random], Layer]
KINDS: dict[Kind, float] = {
    hand: 0.27, drawn_hand: 0.1, microphone: 0.16, cup: 0.09, thing: 0.1, arm: 0.08, caption: 0.12,
    logo: 0.03, medical_mask: 0.03, glasses: 0.02,
}  # fmt: skip
