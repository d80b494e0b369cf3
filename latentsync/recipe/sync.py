"""What a recipe of `latentsync sync` holds."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from latentsync.recipe.schema import Count, Duration, Recipe, Table

EffortName = Literal["fast", "draft", "standard", "best"]
Steps = Annotated[int, Field(ge=1, le=1000)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Guidance = Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)]


class Sampling(Table):
    """How latents are denoised. `None` leaves a value to the effort, and then to the model.

    `cache_interval`, `guided_from` and `guided_to` are those of `latentsync.diffusion.sampling.Shortcuts`;
    mode "exact" takes none.

    effort  what steps and guidance are where they are not set here: see `Efforts`
    """

    effort: EffortName
    steps: Steps | None = None
    guidance: Guidance | None = None
    mode: Literal["blended", "exact"]
    window_frames: Count
    overlap_frames: Annotated[int, Field(ge=0)] | None = None
    resolution: Annotated[int, Field(ge=64, le=1024, multiple_of=8)] | None = None
    cache_interval: Count | None = None
    guided_from: Share | None = None
    guided_to: Share | None = None

    @model_validator(mode="after")
    def _overlap_leaves_something_new(self) -> Sampling:
        if self.overlap_frames is not None and self.overlap_frames * 2 > self.window_frames:
            raise ValueError(
                f"overlap_frames = {self.overlap_frames} is over half of window_frames = {self.window_frames}"
            )
        return self


class Effort(Table):
    """What an effort sets. `None` leaves a value to the model."""

    steps: Steps | None = None
    guidance: Guidance | None = None
    cache_interval: Count | None = None
    guided_from: Share | None = None
    guided_to: Share | None = None


class EffortSettings(Table):
    """What the other efforts set; "standard" is what the model itself states."""

    fast: Effort
    draft: Effort
    best: Effort


class Efforts(Table):
    """What each effort stands for, by kind of model.

    few_steps   models that give the clean latents at once, as compact does
    many_steps  models that predict noise, as the released ones do
    """

    few_steps: EffortSettings
    many_steps: EffortSettings


class SpeechEncoding(Table):
    """How speech is read.

    mode      how long speech passes Whisper, which takes 30 s at a time
    activity  whether loud sound that is no speech is taken for silence; sampling mode "exact" takes all
    """

    mode: Literal["overlap", "exact"]
    activity: Literal["auto", "off"]


class FaceTracking(Table):
    """How one face is followed through the video."""

    detect_every_frames: Count
    smoothing_s: Duration
    max_gap_frames: Annotated[int, Field(ge=0, le=12)]


class Pasting(Table):
    """Which pixels of the frame the generated crop may change.

    occlusion  "keep" keeps what is in front of the mouth, and the whole frame where that is most of the lips;
               "skip" every frame with anything in front of them. Not in mode "exact" and region "crop".
    """

    region: Literal["mouth", "crop"]
    occlusion: Literal["keep", "skip", "off"]
    fade_s: Duration


class Encoded(Table):
    """How the result is encoded, once."""

    codec: Literal["libx264", "libx265", "h264_nvenc", "lossless"]
    crf: Annotated[int, Field(ge=0, le=51)]
    preset: Literal[
        "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
    ]


class SyncRecipe(Recipe):
    """`latentsync sync`."""

    kind: ClassVar[str] = "sync"
    base: ClassVar[str | None] = "sync"

    sampling: Sampling
    effort: Efforts
    audio: SpeechEncoding
    faces: FaceTracking
    paste: Pasting
    encoding: Encoded

    @classmethod
    def renamed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Before version 0.1 effort was called quality."""
        values = {"effort" if name == "quality" else name: value for name, value in values.items()}
        if isinstance(sampling := values.get("sampling"), dict):
            values["sampling"] = {
                "effort" if name == "quality" else name: value for name, value in sampling.items()
            }
        return values
