"""`latentsync sync`: drive the mouth in a video with speech."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from latentsync.errors import UsageError
from latentsync_cli import console
from latentsync_cli.options import (
    DeviceOption,
    DryRunOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    ModelOption,
    QuietOption,
    RecipeOption,
    ReportOption,
    SetOption,
)

if TYPE_CHECKING:
    from latentsync.sync.run import SyncResult

_TIME = re.compile(
    r"(?:(?:(?P<hours>\d{1,4}):)?(?P<minutes>\d{1,2}):)?(?P<seconds>\d{1,9}(?:\.\d*)?|\.\d+)", re.ASCII
)

Duration = Literal["speech", "video", "loop", "ping-pong", "hold"]
Effort = Literal["fast", "draft", "standard", "best"]
PixelFormat = Literal["auto", "keep"]

VideoArgument = Annotated[
    Path, typer.Argument(metavar="VIDEO", help="A video of a talking person, or a picture.")
]
SpeechArgument = Annotated[
    Path, typer.Argument(metavar="SPEECH", help="The speech: wav, mp3, m4a, or a video's sound.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="The new video.", show_default="VIDEO_synced.mp4 in this folder"),
]
FaceOption = Annotated[
    str,
    typer.Option(metavar="CHOICE", help="largest, left, right, a number from the left (0 first), or x,y."),
]
StartOption = Annotated[
    str, typer.Option(metavar="TIME", help="Use the video from here: seconds, or HH:MM:SS(.ms).")
]
EndOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="Use the video up to here: seconds, or HH:MM:SS(.ms).")
]
VideoTrackOption = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Which video stream, 0 first.", show_default="the default one"),
]
AudioTrackOption = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="N", help="Which audio stream of SPEECH, 0 first.", show_default="the default one"
    ),
]
KeepFpsOption = Annotated[
    bool,
    typer.Option("--keep-fps", help="Repeat no frames of a video below 10 fps, though its lips then jump."),
]
PixelFormatOption = Annotated[
    PixelFormat,
    typer.Option(help="auto: yuv420p, odd sizes made even; keep: odd sizes, which few players take."),
]
DurationOption = Annotated[
    Duration,
    typer.Option(help="speech: as long as the speech, turning a shorter video round; video: as the video."),
]
EffortOption = Annotated[
    Effort | None,
    typer.Option(help="Sets --steps and --guidance for the model in use.", show_default="standard"),
]
QualityOption = Annotated[Effort | None, typer.Option("--quality", hidden=True)]  # its name before 0.1
StepsOption = Annotated[int | None, typer.Option(help="Denoising steps.", show_default="by --effort")]
GuidanceOption = Annotated[
    float | None,
    typer.Option(help="Classifier-free guidance scale; 1 turns it off.", show_default="by --effort"),
]
SeedOption = Annotated[int | None, typer.Option(help="Same seed, same video.", show_default="1247")]
CodecOption = Annotated[
    str | None, typer.Option(help="libx264, libx265, h264_nvenc or lossless.", show_default="libx264")
]
CrfOption = Annotated[int | None, typer.Option(help="0 (best) to 51 (smallest).", show_default="18")]
MaskOption = Annotated[
    Path | None,
    typer.Option(help="A picture of the mouth mask, white where kept.", show_default="the drawn one"),
]
CompareOption = Annotated[bool, typer.Option("--compare", help="Put source and result side by side.")]


def sync(
    video: VideoArgument,
    speech: SpeechArgument,
    output: OutputOption = None,
    model: ModelOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    face: FaceOption = "largest",
    start: StartOption = "0",
    end: EndOption = None,
    video_track: VideoTrackOption = None,
    audio_track: AudioTrackOption = None,
    duration: DurationOption = "speech",
    effort: EffortOption = None,
    quality: QualityOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    seed: SeedOption = None,
    codec: CodecOption = None,
    crf: CrfOption = None,
    pixel_format: PixelFormatOption = "auto",
    keep_fps: KeepFpsOption = False,
    mask: MaskOption = None,
    compare: CompareOption = False,
    recipe: RecipeOption = "sync",
    settings: SetOption = None,
    report: ReportOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Drive the mouth in VIDEO with SPEECH."""
    from latentsync.faces.choice import parse_face_choice
    from latentsync.recipe.loading import load_recipe
    from latentsync.recipe.sync import SyncRecipe
    from latentsync.sync.run import SyncJob, run

    job = SyncJob(
        video=video,
        speech=speech,
        output=output or Path(f"{video.stem}_synced.mp4"),
        model=model or "compact",
        device=device,
        dtype=dtype,
        face=parse_face_choice(face),
        start_s=_seconds("--start", start),
        end_s=None if end is None else _seconds("--end", end),
        duration=duration,
        compare=compare,
        mask=mask,
        video_track=video_track,
        audio_track=audio_track,
        keep_fps=keep_fps,
        pixel_format=pixel_format,
        report=report,
        force=force,
        dry_run=dry_run,
    )
    flags: dict[str, float | str | None] = {
        "sampling.effort": effort or quality,
        "sampling.steps": steps,
        "sampling.guidance": guidance,
        "seed": seed,
        "encoding.codec": codec,
        "encoding.crf": crf,
    }
    chosen = load_recipe(recipe, SyncRecipe, overrides=[*(settings or []), *_overrides(flags)])
    result = run(job, chosen, console.make_report(quiet))
    _show(result, as_json=as_json, quiet=quiet)


def _seconds(flag: str, text: str) -> float:
    """Read a time: seconds, or hours, minutes and seconds.

    >>> _seconds("--start", "1:02:03.5"), _seconds("--start", "90")
    (3723.5, 90.0)
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{flag} '{text}': is no time", hint="write seconds such as 2.5, or 00:01:30.250")
    hours, minutes, seconds = match["hours"] or 0, match["minutes"] or 0, match["seconds"]
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _overrides(flags: dict[str, float | str | None]) -> list[str]:
    """The flags that were given, as `--set` takes them."""
    return [f"{key}={value}" for key, value in flags.items() if value is not None]


def _show(result: SyncResult, *, as_json: bool, quiet: bool) -> None:
    paths = [] if result.output is None else [result.output]
    words = [f"{result.frames} frames in {result.took_s:.1f} s; written to:"] if paths else []
    console.show(result.as_dict(), as_json=as_json, quiet=quiet, words=words, paths=paths)
