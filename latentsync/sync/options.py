"""What `sync` takes besides its two inputs, under one name each: for the flags, Python, and lists of jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict  # pydantic reads the one of `typing` only from Python 3.12 on

from latentsync.errors import UsageError
from latentsync.faces.choice import parse_face_choice
from latentsync.media.mix import parse_keep_audio
from latentsync.media.write import PixelFormat
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.sync import EffortName, SyncRecipe
from latentsync.sync.cast import Cast, read_cast
from latentsync.sync.job import SyncJob
from latentsync.sync.timeline import Duration
from latentsync.times import seconds_from

Settings = Mapping[str, object] | Sequence[str]
_RECIPE_KEYS = {
    "effort": "sampling.effort",
    "steps": "sampling.steps",
    "guidance": "sampling.guidance",
    "seed": "seed",
    "codec": "encoding.codec",
    "crf": "encoding.crf",
    "occlusion": "paste.occlusion",
}
_JOB_FIELDS = (
    "duration",
    "compare",
    "video_track",
    "audio_track",
    "keep_fps",
    "pixel_format",
    "mark",
    "label",
    "force",
    "dry_run",
)


class SyncOptions(TypedDict, total=False):
    """The options of `latentsync sync`, as docs/sync.md explains them.

    start, end  seconds, or a text such as "00:01:30.250"
    cast        who says what from when: a CSV, or (who, speech, from) triples; then without a speech
    settings    other keys of the recipe: {"paste.region": "crop"}, or ["paste.region=crop"]
    """

    face: str
    cast: Cast | None
    start: float | str
    end: float | str | None
    duration: Duration
    effort: EffortName | None
    steps: int | None
    guidance: float | None
    seed: int | None
    codec: str | None
    crf: int | None
    pixel_format: PixelFormat
    keep_fps: bool
    keep_audio: str
    mark: bool
    label: str
    mask: str | Path | None
    occlusion: Literal["keep", "skip", "off"] | None
    compare: bool
    video_track: int | None
    audio_track: int | None
    recipe: str | Path
    settings: Settings
    report: str | Path | None
    force: bool
    dry_run: bool


def make_job(
    video: str | Path, speech: str | Path | None, output: str | Path | None, options: SyncOptions
) -> SyncJob:
    """The job that inputs and options stand for; where it runs stays open.

    Raises:
        UsageError: an option cannot be read.
    """
    cast = options.get("cast")
    lines = () if cast is None else read_cast(cast)
    if (speech is None) is not bool(lines):
        raise UsageError(
            "neither speech nor a cast" if speech is None else f"'{speech}': a cast brings its own speech",
            hint="give either SPEECH or --cast",
        )
    if lines and options.get("face", "largest") != "largest":
        raise UsageError("--face and --cast exclude each other", hint="name the faces in the cast")
    start, end = options.get("start", 0.0), options.get("end")
    mask, report = options.get("mask"), options.get("report")
    return SyncJob(
        video=Path(video),
        speech=lines[0].speech if speech is None else Path(speech),
        cast=lines,
        output=None if output is None else Path(output),
        face=parse_face_choice(options.get("face", "largest")),
        start_s=seconds_from("--start", start),
        end_s=None if end is None else seconds_from("--end", end),
        mask=None if mask is None else Path(mask),
        keep_audio=parse_keep_audio(options.get("keep_audio", "replace")),
        report=None if report is None else Path(report),
        **{name: options[name] for name in _JOB_FIELDS if name in options},  # type: ignore[literal-required]
    )


def choose_recipe(options: SyncOptions) -> SyncRecipe:
    """The recipe that the options name, with the keys that they set: single options win over `settings`.

    Raises:
        RecipeError: there is no such recipe or key, or a value does not fit it.
    """
    flags = [
        f"{key}={options[name]}"  # type: ignore[literal-required]
        for name, key in _RECIPE_KEYS.items()
        if options.get(name) is not None
    ]
    # Later ones win, so the single options come last.
    overrides = [*as_overrides(options.get("settings", ())), *flags]
    return load_recipe(options.get("recipe", "sync"), SyncRecipe, overrides=overrides)


def as_overrides(settings: Settings) -> list[str]:
    """Settings as `--set` takes them.

    >>> as_overrides({"paste.region": "crop", "sampling.steps": 4})
    ['paste.region="crop"', 'sampling.steps=4']
    """
    if isinstance(settings, Mapping):
        return [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return list(settings)
