"""`latentsync sync`: drive the mouth in a video with speech."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentsync_cli import console
from latentsync_cli.options import (
    Device,
    DeviceOption,
    DryRunOption,
    Dtype,
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


class Duration(StrEnum):
    """How long the output is, and what follows where the video is shorter than the speech."""

    speech = "speech"
    video = "video"
    loop = "loop"
    ping_pong = "ping-pong"
    hold = "hold"


class Quality(StrEnum):
    """How much work is spent on the mouth."""

    draft = "draft"
    standard = "standard"
    best = "best"


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
StartOption = Annotated[float, typer.Option(metavar="S", help="Use the video from here, in seconds.")]
EndOption = Annotated[float | None, typer.Option(metavar="S", help="Use the video up to here, in seconds.")]
DurationOption = Annotated[
    Duration,
    typer.Option(help="speech: as long as the speech, turning a shorter video round; video: as the video."),
]
QualityOption = Annotated[
    Quality | None,
    typer.Option(help="Sets --steps and --guidance for the model in use.", show_default="standard"),
]
StepsOption = Annotated[int | None, typer.Option(help="Denoising steps.", show_default="by --quality")]
GuidanceOption = Annotated[
    float | None, typer.Option(help="Stress on the speech; 1 is off.", show_default="by --quality")
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
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    face: FaceOption = "largest",
    start: StartOption = 0.0,
    end: EndOption = None,
    duration: DurationOption = Duration.speech,
    quality: QualityOption = None,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    seed: SeedOption = None,
    codec: CodecOption = None,
    crf: CrfOption = None,
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
    from latentsync.recipe.schema import SyncRecipe
    from latentsync.sync.run import SyncJob, run

    job = SyncJob(
        video=video,
        speech=speech,
        output=output or Path(f"{video.stem}_synced.mp4"),
        model=model or "compact",
        device=device.value,
        dtype=dtype.value,
        face=parse_face_choice(face),
        start_s=start,
        end_s=end,
        duration=duration.value,
        compare=compare,
        mask=mask,
        report=report,
        force=force,
        dry_run=dry_run,
    )
    flags: dict[str, float | str | None] = {
        "sampling.quality": quality and quality.value,
        "sampling.steps": steps,
        "sampling.guidance": guidance,
        "seed": seed,
    }
    flags |= {"encoding.codec": codec, "encoding.crf": crf}
    overrides = [f"{key}={value}" for key, value in flags.items() if value is not None]
    chosen = load_recipe(recipe, SyncRecipe, overrides=[*(settings or []), *overrides])
    _show(run(job, chosen, console.make_report(quiet)), as_json=as_json, quiet=quiet)


def _show(result: SyncResult, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        console.show_json(result.as_dict())
    elif result.output is not None:
        if not quiet:
            console.say(f"{result.frames} frames in {result.took_s:.1f} s; written to:")
        console.wrote(result.output)
