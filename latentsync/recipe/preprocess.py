"""What a recipe of `latentsync preprocess` holds."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from latentsync.recipe.schema import Count, Duration, PatternOfOneGroup, Positive, Recipe, Share, Table
from latentsync.recipe.sync import Encoded


class Reading(Table):
    """Which files are taken, and how large their frames get.

    max_side_px   longer frames are made smaller while they are decoded: this bounds the memory of a worker
    max_pixels    frames with more are refused: decoding one would take too much
    max_fps       files that state more are refused
    max_hours     longer files are refused: their sound is held as a whole, 0.23 GB an hour
    max_gap_s     where no frame is shown for longer, one clip ends and another begins
    """

    max_side_px: Annotated[int, Field(ge=64)]
    max_pixels: Count
    max_fps: Positive
    max_hours: Positive
    max_gap_s: Positive


class Shots(Table):
    """Where a video is cut into shots."""

    threshold: Positive
    min_content: Duration
    window_frames: Count
    min_s: Duration
    picture_px: Annotated[int, Field(ge=32)]


class Cutting(Table):
    """How shots are cut into clips of `length_s` up to twice that; shorter shots are kept from `min_s` on."""

    length_s: Annotated[float, Field(gt=0, le=60)]
    min_s: Annotated[float, Field(gt=0)]


class Aligning(Table):
    """Size of the crops, and how the face is followed."""

    resolution: Annotated[int, Field(ge=64, le=1024, multiple_of=8)]
    detect_every_frames: Count
    smoothing: Literal["steady", "released", "none"]
    smoothing_s: Duration
    max_gap_frames: Annotated[int, Field(ge=0, le=12)]


class Keeping(Table):
    """Which faces are kept.

    min_px        side of the face's box, brows to chin, in pixels of the source
    max_yaw       how far the nose may lie beside the middle of the eyes, in eye distances; 0.5 is about 40°
    other_size    a second face counts from this share of the first one's side on
    other_share   of the looks that may see such a second face
    """

    min_px: Duration
    max_yaw: Positive
    other_size: Positive
    other_share: Share


class Synchrony(Table):
    """Who judges whether speech and lips belong together, what is believed, and what is done.

    adjust  "after": measured on the aligned crops, the speech is shifted to zero; "before": measured on crops
            that are not aligned; "none": measured and filtered as "after", but nothing is shifted
    """

    adjust: Literal["after", "before", "none"]
    judge: Literal["auto", "syncnet-v2", "compact"]
    min_confidence: Duration
    min_confidence_compact: Duration
    max_offset_frames: Annotated[int, Field(ge=0, le=15)]
    max_shift_frames: Annotated[int, Field(ge=1, le=31)]


class Quality(Table):
    """How good the picture must be, by the measure that is used: HyperIQA, or sharpness with blockiness."""

    measure: Literal["auto", "hyperiqa", "sharpness"]
    min_hyperiqa: Annotated[float, Field(ge=0, le=100)]
    min_sharpness: Duration
    max_blockiness: Positive


class ClipEncoding(Encoded):
    """How a clip is encoded, once."""

    codec: Literal["libx264"]
    crf: Annotated[int, Field(ge=0, le=51)]


class Splitting(Table):
    """Which clips are kept for validation: all clips of a person, or of a source, go together.

    person_pattern  a regular expression with one group, searched for in the path of the source within the raw
                    folder; where it does not match, the source is the person
    """

    by: Literal["person", "source"]
    person_pattern: PatternOfOneGroup
    validation_share: Share


class Features(Table):
    """Audio features computed for training: "tiny" is the Whisper of released models, "compact" ours."""

    mel: bool
    whisper: Literal["none", "compact", "tiny"]


class PreprocessRecipe(Recipe):
    """`latentsync preprocess`."""

    kind: ClassVar[str] = "preprocess"
    base: ClassVar[str | None] = "preprocess"

    read: Reading
    shots: Shots
    align: Aligning
    cut: Cutting
    face: Keeping
    sync: Synchrony
    quality: Quality
    encoding: ClipEncoding
    split: Splitting
    features: Features
