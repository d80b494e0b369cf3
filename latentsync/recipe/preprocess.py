"""What the recipe of `latentsync preprocess` holds. Defaults are those of the shipped recipe."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from latentsync.recipe.schema import Count, Duration, Encoded, Recipe, Table

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Reading(Table):
    """Which files are taken, and how large their frames get.

    max_side_px   longer frames are made smaller while they are decoded: this bounds the memory of a worker
    max_pixels    frames with more are refused: decoding one would take too much
    max_fps       files that state more are refused
    max_hours     longer files are refused: their sound is held as a whole, 0.23 GB an hour
    max_gap_s     where no frame is shown for longer, one clip ends and another begins
    """

    max_side_px: Annotated[int, Field(ge=64)] = 3840
    max_pixels: Count = 50_000_000
    max_fps: Positive = 1000
    max_hours: Positive = 4
    max_gap_s: Positive = 0.5


class Shots(Table):
    """Where a video is cut into shots."""

    threshold: Positive = 2
    min_content: Duration = 15
    window_frames: Count = 2
    min_s: Duration = 0.6
    picture_px: Annotated[int, Field(ge=32)] = 256


class Cutting(Table):
    """How shots are cut into clips of `length_s` up to twice that; shorter shots are kept from `min_s` on."""

    length_s: Annotated[float, Field(gt=0, le=60)] = 5
    min_s: Annotated[float, Field(gt=0)] = 5


class Aligning(Table):
    """Size of the crops, and how the face is followed."""

    resolution: Annotated[int, Field(ge=64, le=1024, multiple_of=8)] = 256
    detect_every_frames: Count = 12
    smoothing: Literal["steady", "released", "none"] = "steady"
    smoothing_s: Duration = 0.08
    max_gap_frames: Annotated[int, Field(ge=0, le=12)] = 5


class Keeping(Table):
    """Which faces are kept.

    min_px        side of the face's box, brows to chin, in pixels of the source
    max_yaw       how far the nose may lie beside the middle of the eyes, in eye distances; 0.5 is about 40°
    other_size    a second face counts from this share of the first one's side on
    other_share   of the looks that may see such a second face
    """

    min_px: Duration = 64
    max_yaw: Positive = 0.5
    other_size: Positive = 0.6
    other_share: Share = 0.2


class Synchrony(Table):
    """Who judges whether speech and lips belong together, what is believed, and what is done.

    adjust  "after": measured on the aligned crops, the speech is shifted to zero; "before": measured on crops
            that are not aligned; "none": measured and filtered as "after", but nothing is shifted
    """

    adjust: Literal["after", "before", "none"] = "after"
    judge: Literal["auto", "syncnet-v2", "compact"] = "auto"
    min_confidence: Duration = 3
    min_confidence_compact: Duration = 0.4
    max_offset_frames: Annotated[int, Field(ge=0, le=15)] = 6
    max_shift_frames: Annotated[int, Field(ge=1, le=31)] = 15


class Quality(Table):
    """How good the picture must be, by the measure that is used: HyperIQA, or sharpness with blockiness."""

    measure: Literal["auto", "hyperiqa", "sharpness"] = "auto"
    min_hyperiqa: Annotated[float, Field(ge=0, le=100)] = 40
    min_sharpness: Duration = 0.005
    max_blockiness: Positive = 2.0


class ClipEncoding(Encoded):
    """How a clip is encoded, once."""

    codec: Literal["libx264"] = "libx264"
    crf: Annotated[int, Field(ge=0, le=51)] = 13


class Splitting(Table):
    """Which clips are kept for validation: all clips of a person, or of a source, go together.

    person_pattern  a regular expression with one group, searched for in the path of the source within the raw
                    folder; where it does not match, the source is the person
    """

    by: Literal["person", "source"] = "person"
    person_pattern: str = "(id[0-9]{5})/"
    validation_share: Share = 0.05

    @field_validator("person_pattern")
    @classmethod
    def _has_one_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"person_pattern = '{pattern}': {error}") from error
        if groups != 1:
            raise ValueError(f"person_pattern = '{pattern}' has {groups} groups, expected one")
        return pattern


class Features(Table):
    """What training hears, computed beforehand: "tiny" is the Whisper of released models, "compact" ours."""

    mel: bool = False
    whisper: Literal["none", "compact", "tiny"] = "none"


class PreprocessRecipe(Recipe):
    """`latentsync preprocess`."""

    read: Reading = Reading()
    shots: Shots = Shots()
    align: Aligning = Aligning()
    cut: Cutting = Cutting()
    face: Keeping = Keeping()
    sync: Synchrony = Synchrony()
    quality: Quality = Quality()
    encoding: ClipEncoding = ClipEncoding()
    split: Splitting = Splitting()
    features: Features = Features()
