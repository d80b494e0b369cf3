"""`latentsync sync`: make the mouth in a video follow speech."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from latentsync.errors import UsageError
from latentsync_cli import console
from latentsync_cli.batch import BatchFlags, run_list
from latentsync_cli.options import (
    AddressOption,
    DevicesOption,
    DryRunOption,
    DtypeOption,
    EngineOption,
    ForceOption,
    JsonOption,
    ModelOption,
    QuietOption,
    RecipeOption,
    ReportOption,
    SetOption,
)

if TYPE_CHECKING:
    from latentsync.recipe.sync import SyncRecipe
    from latentsync.sync.run import SyncJob

Duration = Literal["speech", "video", "loop", "ping-pong", "hold"]
Effort = Literal["fast", "draft", "standard", "best"]
PixelFormat = Literal["auto", "keep"]
Occlusion = Literal["keep", "skip", "off"]

VideoArgument = Annotated[
    Path | None, typer.Argument(metavar="VIDEO", help="A video of a talking person, or a picture.")
]
SpeechArgument = Annotated[
    Path | None, typer.Argument(metavar="SPEECH", help="The speech: wav, mp3, m4a, or a video's audio.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="The video to write.", show_default="VIDEO_synced.mp4 in this folder"
    ),
]
FaceOption = Annotated[
    str,
    typer.Option(
        metavar="CHOICE",
        help="Which face: largest, left, right, speaker (whoever speaks), a number from the left (0 first), "
        "x,y in pixels, @TIME:x,y, or a picture.",
    ),
]
CastOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Several people with speech of their own, instead of SPEECH: a .csv with the columns who (as "
        "--face takes it), speech and from.",
    ),
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
    typer.Option("--keep-fps", help="Do not repeat frames of a video below 10 fps; the lips then jump."),
]
KeepAudioOption = Annotated[
    str,
    typer.Option(
        metavar="WAY",
        help="The video's own sound: replace, mix, mix:-6 (its level in dB), or duck (low during speech).",
    ),
]
PixelFormatOption = Annotated[
    PixelFormat,
    typer.Option(help="auto: yuv420p, odd sizes made even; keep: odd sizes, which few players take."),
]
DurationOption = Annotated[
    Duration,
    typer.Option(
        help="video: as long as the video; all others: as long as the speech, and a shorter video runs back "
        "and forth (speech, ping-pong), starts again (loop) or stays at its last frame (hold)."
    ),
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
SeedOption = Annotated[
    int | None, typer.Option(help="Random seed: the same seed gives the same video.", show_default="1247")
]
CodecOption = Annotated[
    str | None,
    typer.Option(help="Video codec: libx264, libx265, h264_nvenc or lossless.", show_default="libx264"),
]
CrfOption = Annotated[
    int | None, typer.Option(help="Constant rate factor: 0 (best) to 51 (smallest file).", show_default="18")
]
MaskOption = Annotated[
    Path | None,
    typer.Option(help="A picture of the mouth mask, white where kept.", show_default="the built-in one"),
]
OcclusionOption = Annotated[
    Occlusion | None,
    typer.Option(
        help="What is in front of the mouth: keep it; skip such frames; off: paint over it. A mouth that is "
        "mostly covered and a face that is turned away stay as they are, unless off.",
        show_default="keep",
    ),
]
BatchOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|FOLDER",
        help="Run many jobs: a .csv or .jsonl with these options as columns, or a folder of videos and sound "
        "files with the same names. -o is then a folder; the same command resumes.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="With --batch: how many jobs at a time.", show_default="one per GPU, or one"),
]
RetryOption = Annotated[bool, typer.Option("--retry-failed", help="With --batch: try failed jobs again.")]
MarkOption = Annotated[
    bool, typer.Option("--mark/--no-mark", help="Say in the file's tags that the mouth is synthetic.")
]
LabelOption = Annotated[
    str,
    typer.Option(metavar="TEXT", help="Draw this text into a corner of every frame.", show_default="none"),
]
PreviewOption = Annotated[
    bool,
    typer.Option("--preview", help="Only look: a sheet of what was found, and two seconds of the result."),
]
CompareOption = Annotated[bool, typer.Option("--compare", help="Show source and result side by side.")]


def sync(
    video: VideoArgument = None,
    speech: SpeechArgument = None,
    output: OutputOption = None,
    model: ModelOption = None,
    device: DevicesOption = "auto",
    dtype: DtypeOption = "auto",
    face: FaceOption = "largest",
    cast: CastOption = None,
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
    keep_audio: KeepAudioOption = "replace",
    mask: MaskOption = None,
    occlusion: OcclusionOption = None,
    compare: CompareOption = False,
    mark: MarkOption = True,
    label: LabelOption = "",
    preview: PreviewOption = False,
    batch: BatchOption = None,
    workers: WorkersOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    retry_failed: RetryOption = False,
    recipe: RecipeOption = "sync",
    settings: SetOption = None,
    report: ReportOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make the mouth in VIDEO follow SPEECH, or many of them with --batch."""
    from dataclasses import replace

    from latentsync.sync.options import SyncOptions, choose_recipe, make_job

    options = SyncOptions(
        face=face,
        cast=cast,
        start=start,
        end=end,
        duration=duration,
        effort=effort or quality,
        steps=steps,
        guidance=guidance,
        seed=seed,
        codec=codec,
        crf=crf,
        pixel_format=pixel_format,
        keep_fps=keep_fps,
        keep_audio=keep_audio,
        mark=mark,
        label=label,
        mask=mask,
        occlusion=occlusion,
        compare=compare,
        video_track=video_track,
        audio_track=audio_track,
        recipe=recipe,
        settings=settings or [],
        report=report,
        force=force,
        dry_run=dry_run,
    )
    if batch is not None:
        _refuse_single(batch, video, report)
        where = BatchFlags(device, dtype, engine, address, workers, retry_failed, dry_run)
        run_list(batch, output, options, model or "compact", where, as_json=as_json, quiet=quiet)
        return
    if video is None or (speech is None and cast is None):
        raise UsageError("VIDEO and SPEECH are needed", hint="for example: latentsync sync in.mp4 voice.wav")
    job = make_job(video, speech, output or Path(f"{video.stem}_synced.mp4"), options)
    job = replace(job, model=model or "compact", device=device, dtype=dtype)
    (_preview if preview else _make)(job, choose_recipe(options), as_json=as_json, quiet=quiet)


def _make(job: SyncJob, recipe: SyncRecipe, *, as_json: bool, quiet: bool) -> None:
    from latentsync.sync.run import run

    result = run(job, recipe, console.make_report(quiet))
    paths = [] if result.output is None else [result.output]
    words = [f"{result.frames} frames in {result.took_s:.1f} s; written to:"] if paths else []
    console.show(result.as_dict(), as_json=as_json, quiet=quiet, words=words, paths=paths)


def _refuse_single(batch: Path, video: Path | None, report: Path | None) -> None:
    if video is not None or report is not None:
        raise UsageError(
            f"--batch '{batch}' takes neither VIDEO and SPEECH nor --report",
            hint="write them in the list, as columns video, speech and report",
        )


def _preview(job: SyncJob, recipe: SyncRecipe, *, as_json: bool, quiet: bool) -> None:
    from latentsync.sync.preview import preview

    found = preview(job, recipe, console.make_report(quiet))
    words = [f"what was found in {len(found.looks)} frames, and {found.clip_s:.2f} s of the result:"]
    console.show(found.as_dict(), as_json=as_json, quiet=quiet, words=words, paths=[found.sheet, found.clip])
