"""`latentsync sync`: drive the mouth in a video with speech."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

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


class Duration(StrEnum):
    """How long the output is, and what follows where the video is shorter than the speech."""

    speech = "speech"
    video = "video"
    loop = "loop"
    ping_pong = "ping-pong"
    hold = "hold"


def sync(
    video: Annotated[
        Path, typer.Argument(metavar="VIDEO", help="A video of a talking person, or a picture.")
    ],
    speech: Annotated[
        Path, typer.Argument(metavar="SPEECH", help="The speech: wav, mp3, m4a, or a video's sound.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The new video.", show_default="VIDEO_synced.mp4 in this folder"),
    ] = None,
    model: ModelOption = None,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    face: Annotated[
        str,
        typer.Option(
            metavar="CHOICE", help="largest, left, right, a number from the left (0 first), or x,y."
        ),
    ] = "largest",
    start: Annotated[float, typer.Option(metavar="S", help="Use the video from here, in seconds.")] = 0.0,
    end: Annotated[
        float | None, typer.Option(metavar="S", help="Use the video up to here, in seconds.")
    ] = None,
    duration: Annotated[
        Duration,
        typer.Option(
            help="speech: as long as the speech, turning a shorter video round; video: as long as the video."
        ),
    ] = Duration.speech,
    steps: Annotated[
        int | None,
        typer.Option(help="Denoising steps.", show_default="the model's own: compact 1, released 20"),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="How much the speech is stressed; 1 is off.", show_default="the model's own"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same video.", show_default="1247")] = None,
    codec: Annotated[
        str | None,
        typer.Option(help="libx264, libx265, h264_nvenc or lossless.", show_default="libx264"),
    ] = None,
    crf: Annotated[int | None, typer.Option(help="0 (best) to 51 (smallest).", show_default="18")] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="A picture of the mouth mask, white where kept.", show_default="the drawn one"),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Put source and result side by side.")] = False,
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
    from latentsync.sync import SyncJob, run
    from latentsync.weights.store import DEFAULT_MODEL

    flags = {
        "sampling.steps": steps,
        "sampling.guidance": guidance,
        "seed": seed,
        "encoding.codec": codec,
        "encoding.crf": crf,
    }
    overrides = [f"{key}={value}" for key, value in flags.items() if value is not None]
    job = SyncJob(
        video=video,
        speech=speech,
        output=output or Path(f"{video.stem}_synced.mp4"),
        model=model or DEFAULT_MODEL,
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
    result = run(
        job,
        load_recipe(recipe, SyncRecipe, overrides=[*(settings or []), *overrides]),
        report=console.make_report(quiet),
    )
    console.end_bars()
    if as_json:
        console.show_json(result.as_dict())
    elif result.output is not None:
        if not quiet:
            console.say(f"{result.frames} frames in {result.took_s:.1f} s; written to:")
        console.wrote(result.output)
