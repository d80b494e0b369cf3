"""What each kind of recipe holds: one frozen pydantic model per kind, every field with its type and range.

A value belongs in a recipe when it would change a number in a table of results; paths and devices do not.
Defaults are those of the shipped recipe, so that an empty file is a valid one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
Duration = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Steps = Annotated[int, Field(ge=1, le=1000)]
Guidance = Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)]


class Table(BaseModel):
    """A table of a recipe: no unknown key, no quiet conversion, no change after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Recipe(Table):
    """What every recipe has: one seed, from which all named random streams are derived."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1247


class Sampling(Table):
    """How latents are denoised. `None` leaves a value to the quality, and then to the model.

    quality  what steps and guidance are where they are not set here: see `Qualities`
    """

    quality: Literal["draft", "standard", "best"] = "standard"
    steps: Steps | None = None
    guidance: Guidance | None = None
    mode: Literal["blended", "exact"] = "blended"
    window_frames: Count = 16
    overlap_frames: Annotated[int, Field(ge=0)] | None = None
    resolution: Annotated[int, Field(ge=64, le=1024, multiple_of=8)] | None = None

    @model_validator(mode="after")
    def _overlap_leaves_something_new(self) -> Sampling:
        if self.overlap_frames is not None and self.overlap_frames * 2 > self.window_frames:
            raise ValueError(
                f"overlap_frames = {self.overlap_frames} is over half of window_frames = {self.window_frames}"
            )
        return self


class Effort(Table):
    """What a quality sets. `None` leaves a value to the model."""

    steps: Steps | None = None
    guidance: Guidance | None = None


class FewSteps(Table):
    """For models that give the clean latents at once, as compact does."""

    draft: Effort = Effort(guidance=1.0)
    best: Effort = Effort(steps=2)


class ManySteps(Table):
    """For models that predict noise, as the released ones do."""

    draft: Effort = Effort(steps=10)
    best: Effort = Effort(steps=40)


class Qualities(Table):
    """What "draft" and "best" stand for, by kind of model; "standard" is what the model itself states."""

    few_steps: FewSteps = FewSteps()
    many_steps: ManySteps = ManySteps()


class Listening(Table):
    """How Whisper hears long speech."""

    mode: Literal["overlap", "exact"] = "overlap"


class Following(Table):
    """How one face is followed through the video."""

    detect_every_frames: Count = 12
    smoothing_s: Duration = 0.08
    max_gap_frames: Annotated[int, Field(ge=0, le=12)] = 5


class Pasting(Table):
    """Which pixels of the frame the generated crop may change."""

    region: Literal["mouth", "crop"] = "mouth"
    fade_s: Duration = 0.12


class Encoded(Table):
    """How the result is encoded, once."""

    codec: Literal["libx264", "libx265", "h264_nvenc", "lossless"] = "libx264"
    crf: Annotated[int, Field(ge=0, le=51)] = 18
    preset: Literal[
        "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
    ] = "medium"


class SyncRecipe(Recipe):
    """`latentsync sync`."""

    sampling: Sampling = Sampling()
    quality: Qualities = Qualities()
    audio: Listening = Listening()
    faces: Following = Following()
    paste: Pasting = Pasting()
    encoding: Encoded = Encoded()
