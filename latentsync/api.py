"""What Python callers use: a model that is loaded once, and every command as a function.

`import latentsync` offers everything here, too. Options have the names of the command's flags; failures are
`LatentSyncError`s with a `hint`; `progress` receives the events that the command draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TypedDict, Unpack

from latentsync.errors import (
    FaceError,
    LatentSyncError,
    MediaError,
    MemoryShortage,
    RecipeError,
    UsageError,
    WeightsError,
)
from latentsync.evaluate.run import EvaluateJob, EvaluateResult, Method
from latentsync.evaluate.run import run as run_evaluate
from latentsync.events import Event, Measured, Note, Plan, Progress, ignore
from latentsync.media.arrays import Images, Samples, save_images, save_samples
from latentsync.preprocess.run import PreprocessJob, PreprocessResult
from latentsync.preprocess.run import run as run_preprocess
from latentsync.recipe.evaluate import EvaluateRecipe
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.preprocess import PreprocessRecipe
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.runtime import DeviceName, DtypeName, choose_device, choose_dtype
from latentsync.sync.job import SyncedFrames, SyncJob, SyncResult
from latentsync.sync.options import Settings, SyncOptions, as_overrides, choose_recipe, make_job
from latentsync.sync.run import make_frames
from latentsync.sync.run import run as run_sync
from latentsync.train.clips import DecodedCache
from latentsync.train.setup import TrainingJob, TrainingResult
from latentsync.train.syncnet.run import run as run_train_syncnet
from latentsync.train.unet.run import run as run_train_unet
from latentsync.types import FrameImage
from latentsync.weights.models import DEFAULT_MODEL, LipModel, find_model, load_model
from latentsync.workers.log import parse_shard
from latentsync.workers.pool import EngineName

__all__ = [
    "EvaluateResult",
    "Event",
    "FaceError",
    "LatentSyncError",
    "Measured",
    "MediaError",
    "MemoryShortage",
    "Model",
    "Note",
    "Plan",
    "PreprocessResult",
    "Progress",
    "RecipeError",
    "SyncOptions",
    "SyncResult",
    "SyncedFrames",
    "TrainingResult",
    "UsageError",
    "WeightsError",
    "evaluate",
    "load",
    "preprocess",
    "sync",
    "train_syncnet",
    "train_unet",
]
OnEvent = Callable[[Event], None]


class TrainingOptions(TypedDict, total=False):
    """Options of both trainings, by the names of the flags; see `latentsync.train.setup.TrainingJob`."""

    device: DeviceName
    workers: int | None
    decoded_cache: DecodedCache
    decoder: Literal["auto", "pyav", "decord"]
    stop_after_s: float | None
    trackers: Sequence[str]
    dry_run: bool


class Model:
    """A loaded model, for any number of videos one after the other. `load` makes it.

    A video is a path; or an array (f h w c), an iterable of (h w c) frames, or one picture (h w c), RGB in
    uint8 or in floats 0..1. Speech is a path, or an array (n,) or (n, channels). `fps` and `speech_hz` tell
    how fast arrays are played; they do not concern files.
    """

    def __init__(self, networks: LipModel) -> None:
        self.networks = networks

    @property
    def name(self) -> str:
        """What it is called in `latentsync models list`, or its path."""
        return self.networks.spec.name

    @property
    def device(self) -> str:
        """Where it runs, such as "cpu" or "cuda"."""
        return str(self.networks.device)

    @property
    def resolution(self) -> int:
        """The side of the crop that it generates, in pixels."""
        return self.networks.spec.resolution

    def __repr__(self) -> str:
        return f"latentsync.Model({self.name!r}, device={self.device!r}, resolution={self.resolution})"

    def sync(
        self,
        video: str | Path | Images,
        speech: str | Path | Samples | None,
        output: str | Path,
        *,
        fps: float = 25.0,
        speech_hz: int = 16_000,
        progress: OnEvent = ignore,
        **options: Unpack[SyncOptions],
    ) -> SyncResult:
        """Make the mouth in `video` follow `speech`, and write the result to `output`.

        It appears whole or not at all. An exception in `progress` ends the run. Speech is None for a `cast`.

        Raises:
            LatentSyncError: of the kinds that `latentsync.sync.run.run` names.
        """
        with _as_files(video, speech, fps=fps, speech_hz=speech_hz) as files:
            job = self._job(*files, output, options)
            return run_sync(job, choose_recipe(options), progress, model=self.networks)

    def frames(
        self,
        video: str | Path | Images,
        speech: str | Path | Samples | None,
        *,
        fps: float = 25.0,
        speech_hz: int = 16_000,
        progress: OnEvent = ignore,
        **options: Unpack[SyncOptions],
    ) -> SyncedFrames:
        """Give the frames of the result, each (h w c) uint8 RGB, instead of writing them.

        The inputs are checked at once, the frames are made while they are taken: leave the loop to stop.

        Raises:
            LatentSyncError: as `sync`.
        """
        with ExitStack() as stack:
            files = stack.enter_context(_as_files(video, speech, fps=fps, speech_hz=speech_hz))
            job = self._job(*files, None, options)
            made = make_frames(job, choose_recipe(options), progress, model=self.networks)
            # Arrays lie in temporary files, which must live until the last frame was taken.
            return replace(made, images=_kept_until_read(made.images, stack.pop_all()))

    def _job(
        self, video: Path, speech: Path | None, output: str | Path | None, options: SyncOptions
    ) -> SyncJob:
        return replace(make_job(video, speech, output, options), model=self.name)


def load(
    name: str | Path = DEFAULT_MODEL,
    *,
    device: DeviceName = "auto",
    dtype: DtypeName = "auto",
    resolution: int | None = None,
) -> Model:
    """Load a model once, for many videos.

    Args:
        name: a name of `latentsync models list`, or the path of a file or folder of weights.
        resolution: side of the crop in pixels, for released 512 px weights that are given by path.

    Raises:
        UsageError: the device is not there.
        WeightsError: there is no such model, or one of its files is missing or damaged.
    """
    chosen = choose_device(device)
    spec = find_model(str(name), resolution=resolution)
    return Model(load_model(spec, device=chosen, dtype=choose_dtype(dtype, chosen)))


def sync(
    video: str | Path,
    speech: str | Path | None,
    output: str | Path,
    *,
    model: str | Path = DEFAULT_MODEL,
    device: DeviceName = "auto",
    dtype: DtypeName = "auto",
    progress: OnEvent = ignore,
    **options: Unpack[SyncOptions],
) -> SyncResult:
    """Make the mouth in one video follow speech, or those of several people that of a `cast`.

    This is `latentsync sync`. For several videos, `load` a model once.

    Raises:
        LatentSyncError: of the kinds that `latentsync.sync.run.run` names.
    """
    job = make_job(video, speech, output, options)
    job = replace(job, model=str(model), device=device, dtype=dtype)
    return run_sync(job, choose_recipe(options), progress)


def preprocess(
    raw: str | Path,
    out: str | Path,
    *,
    recipe: str | Path = "preprocess",
    settings: Settings = (),
    engine: EngineName = "local",
    address: str | None = None,
    workers: int | None = None,
    shard: str = "1/1",
    device: DeviceName = "auto",
    limit_s: float = 1800.0,
    retry_failed: bool = False,
    dry_run: bool = False,
    progress: OnEvent = ignore,
) -> PreprocessResult:
    """Make training clips out of raw videos: `latentsync preprocess`. The same call again resumes.

    Workers are new processes: call it under `if __name__ == "__main__":` in a script.

    Raises:
        LatentSyncError: of the kinds that `latentsync.preprocess.run.run` names.
    """
    job = PreprocessJob(
        raw=Path(raw),
        out=Path(out),
        engine=engine,
        address=address,
        workers=workers,
        shard=parse_shard(shard),
        device=device,
        limit_s=limit_s,
        retry_failed=retry_failed,
        dry_run=dry_run,
    )
    chosen = load_recipe(recipe, PreprocessRecipe, overrides=as_overrides(settings))
    return run_preprocess(job, chosen, progress)


def evaluate(
    pairs: str | Path | None = None,
    *,
    test_set: str | Path | None = None,
    data: str | Path | None = None,
    methods: Mapping[str, str | Path] | None = None,
    output: str | Path = "evaluation",
    generate: bool = False,
    model: str | Path = DEFAULT_MODEL,
    sync_recipe: str | Path = "sync",
    metrics: Sequence[str] | None = None,
    identity_network: str | Path | None = None,
    recipe: str | Path = "evaluate",
    settings: Settings = (),
    engine: EngineName = "local",
    address: str | None = None,
    workers: int | None = None,
    limit_s: float = 1800.0,
    device: DeviceName = "auto",
    cache: str | Path | None = None,
    progress: OnEvent = ignore,
) -> EvaluateResult:
    """Score lip-synced videos beside the real ones: `latentsync evaluate`. The same call again resumes.

    Args:
        pairs: a CSV with `video,speech`; or name a `test_set` instead.
        methods: folders of finished videos by the name of what made them.

    Raises:
        LatentSyncError: of the kinds that `latentsync.evaluate.run.run` names.
    """
    job = EvaluateJob(
        test_set=None if test_set is None else str(test_set),
        pairs=_path(pairs),
        data=_path(data),
        methods=tuple(Method(name, Path(folder)) for name, folder in (methods or {}).items()),
        output=Path(output),
        generate=generate,
        model=str(model),
        sync_recipe=str(sync_recipe),
        metrics=None if metrics is None else tuple(metrics),
        identity_network=_path(identity_network),
        device=device,
        engine=engine,
        address=address,
        workers=workers,
        limit_s=limit_s,
        cache=_path(cache),
    )
    return run_evaluate(job, load_recipe(recipe, EvaluateRecipe, overrides=as_overrides(settings)), progress)


def train_syncnet(
    data: str | Path,
    output: str | Path,
    *,
    recipe: str | Path = "syncnet",
    settings: Settings = (),
    progress: OnEvent = ignore,
    **options: Unpack[TrainingOptions],
) -> TrainingResult:
    """Train the SyncNet on processed clips: `latentsync train-syncnet`. The same call again resumes.

    Raises:
        LatentSyncError: of the kinds that `latentsync.train.syncnet.run.run` names.
    """
    chosen = load_recipe(recipe, SyncNetRecipe, overrides=as_overrides(settings))
    return run_train_syncnet(TrainingJob(data=Path(data), output=Path(output), **options), chosen, progress)


def train_unet(
    data: str | Path,
    output: str | Path,
    *,
    recipe: str | Path = "stage2",
    settings: Settings = (),
    progress: OnEvent = ignore,
    **options: Unpack[TrainingOptions],
) -> TrainingResult:
    """Train the U-Net on processed clips: `latentsync train-unet`. The same call again resumes.

    Raises:
        LatentSyncError: of the kinds that `latentsync.train.unet.run.run` names.
    """
    chosen = load_recipe(recipe, UNetTrainingRecipe, overrides=as_overrides(settings))
    return run_train_unet(TrainingJob(data=Path(data), output=Path(output), **options), chosen, progress)


@contextmanager
def _as_files(
    video: str | Path | Images, speech: str | Path | Samples | None, *, fps: float, speech_hz: int
) -> Iterator[tuple[Path, Path | None]]:
    """The inputs as files: arrays are written to a folder that lasts as long as the context."""
    with ExitStack() as stack:

        def folder() -> Path:
            return Path(stack.enter_context(TemporaryDirectory(prefix="latentsync-")))

        if isinstance(speech, str | Path):
            sound: Path | None = Path(speech)
        else:
            sound = None if speech is None else save_samples(speech, folder(), rate_hz=speech_hz)
        is_video_file = isinstance(video, str | Path)
        yield Path(video) if is_video_file else save_images(video, folder(), fps=fps), sound


def _kept_until_read(images: Iterator[FrameImage], files: ExitStack) -> Iterator[FrameImage]:
    with files:
        yield from images


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
