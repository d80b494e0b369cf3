"""Scores lip-synced videos beside the real ones, and judges SyncNets: the `evaluate` command's core."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from latentsync import __version__
from latentsync.errors import LatentSyncError, MediaError, UsageError, WeightsError
from latentsync.evaluate import syncnet
from latentsync.evaluate.cache import Cache, content_hash, key_of
from latentsync.evaluate.findings import Findings, as_dict
from latentsync.evaluate.page import write_page
from latentsync.evaluate.pairs import Pair, load_set, match_files, pairs_of_set, read_pairs
from latentsync.evaluate.running import (
    Metrics,
    WorkerOptions,
    all_metrics,
    choose_scorer,
    make_scorer,
    points_by,
    score_all,
)
from latentsync.evaluate.score import REAL, Assignment, Made
from latentsync.evaluate.table import write_csv, write_text
from latentsync.evaluate.totals import total
from latentsync.events import Event, Note, Plan, Progress, Report
from latentsync.manifest import ManifestClip, read_manifest
from latentsync.media.probe import require_audio, require_video
from latentsync.metrics import build_metrics
from latentsync.metrics.sync import own_judge
from latentsync.models.syncnet import SyncNet
from latentsync.recipe.evaluate import SETTINGS, EvaluateRecipe, SetRecipe
from latentsync.recipe.loading import dump_recipe, load_recipe
from latentsync.recipe.schema import SyncRecipe
from latentsync.runtime import DeviceName, choose_device, choose_dtype
from latentsync.sync.run import SyncJob
from latentsync.sync.run import run as run_sync
from latentsync.weights.hub import cache_folder
from latentsync.weights.judges import load_syncnet
from latentsync.weights.models import DEFAULT_MODEL, LipModel, find_model, load_model

PAGE, TABLE, NUMBERS = "report.html", "scores.csv", "report.json"
SYNCNET_PAGE, SYNCNET_NUMBERS = "syncnet.html", "syncnet.json"
LISTED = "generated"  # the method of videos that a list of pairs names itself
Split = Literal["auto", "train", "validation", "all"]


@dataclass(frozen=True, slots=True)
class Method:
    """A folder of finished videos and what it is called."""

    name: str
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateJob:
    """What to score, where, and with how many workers.

    test_set     name or file of a `SetRecipe`; or else `pairs`, a CSV
    data         folder of the set's videos, or where the paths in `pairs` begin
    generate     run `sync` with `model` over all pairs first
    sync_recipe  of that
    metrics      None: all that can be measured here
    workers      None: one for a GPU, else one per core
    cache        where scores are kept; None: in the cache folder
    """

    test_set: str | None = None
    pairs: Path | None = None
    data: Path | None = None
    methods: tuple[Method, ...] = ()
    output: Path = Path("evaluation")
    generate: bool = False
    model: str = DEFAULT_MODEL
    sync_recipe: str = "sync"
    metrics: tuple[str, ...] | None = None
    identity_network: Path | None = None
    device: DeviceName = "auto"
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    workers: int | None = None
    limit_s: float = 1800.0
    cache: Path | None = None


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """What was found, and the files that say so."""

    findings: Findings
    page: Path
    table: Path
    numbers: Path
    took_s: float

    def as_dict(self) -> dict[str, object]:
        """The result in values that JSON can hold."""
        files = {"page": str(self.page), "table": str(self.table), "numbers": str(self.numbers)}
        return as_dict(self.findings) | files | {"took_s": round(self.took_s, 2)}


def run(
    job: EvaluateJob, recipe: EvaluateRecipe, report: Report, *, metrics: Metrics | None = None
) -> EvaluateResult:
    """Score every method's video of every pair, and the real videos; write table, numbers and page.

    What is in the cache is not measured again, so the same command goes on where a run was stopped.

    Args:
        metrics: to be used instead of those that `job.metrics` names; then everything runs in this process.

    Raises:
        UsageError: flags or columns do not fit together.
        MediaError: the set, a method's folder or the output cannot be used. A clip that cannot
            is listed instead.
        WeightsError: a network that was asked for is damaged.
    """
    started = time.monotonic()
    test_set, pairs = _pairs(job)
    chosen = len({pair.video for pair in pairs})
    title = test_set.title if test_set else str(job.pairs)
    if test_set is not None and test_set.clips is not None and chosen < test_set.clips:
        title = f"{title}, {chosen} of {test_set.clips} clips"
        report(Note(f"{title} are there: means are not the set's", "warning"))
    device = choose_device(job.device)
    _make_folder(job.output)
    made = _find_made(job, pairs)
    if job.generate:
        made = _with_generated(job, pairs, made, report)
    settings = recipe.prepare, _cache_folder(job)
    options = WorkerOptions(
        engine=job.engine,
        address=job.address,
        workers=1 if metrics else job.workers,
        device=device.type,
        limit_s=job.limit_s,
    )
    if metrics is None:
        network = job.identity_network
        metrics = build_metrics(job.metrics, device=device.type, identity_network=network)
        make = partial(choose_scorer, job.metrics, *settings, device=device.type, identity_network=network)
    else:
        make = partial(make_scorer, metrics, *settings)
    assignments = [Assignment(pair, tuple(made[pair.setting, pair.name])) for pair in pairs]
    report(Plan(_plan_lines(job, test_set, assignments, metrics, options)))
    scores = score_all(assignments, make, options, report)
    cache = Cache(_cache_folder(job))
    totals = total(scores, metrics, cache, recipe.intervals, seed=recipe.seed)
    findings = Findings(
        title=f"Lip sync on {title}",
        facts=_facts(job, recipe, test_set, metrics, chosen),
        totals=totals,
        scores=tuple(scores),
        paper=test_set.paper if test_set else (),
        paper_settings=dict(test_set.paper_settings) if test_set else None,
        paper_source=test_set.paper_source if test_set else "",
    )
    return _written(job, findings, cache, time.monotonic() - started)


def _pairs(job: EvaluateJob) -> tuple[SetRecipe | None, list[Pair]]:
    if (job.test_set is None) == (job.pairs is None):
        raise UsageError("give either --set or --pairs", hint="for example --set hdtf, or --pairs pairs.csv")
    if job.pairs is not None:
        return None, read_pairs(job.pairs, data=job.data)
    test_set = load_set(str(job.test_set))
    return test_set, pairs_of_set(test_set, job.data or Path("data") / test_set.data)


def _make_folder(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(f"'{output}': is a file", hint="name a folder with -o")
    with _explained(output):
        output.mkdir(parents=True, exist_ok=True)


@contextmanager
def _explained(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MediaError(
            f"'{output}': cannot be written ({error.strerror})", hint="name another folder with -o"
        ) from error


MadeOfPairs = dict[tuple[str, str], list[Made]]


def _find_made(job: EvaluateJob, pairs: Sequence[Pair]) -> MadeOfPairs:
    """Every method's video of every pair."""
    names = Counter(method.name for method in job.methods)
    for name, count in names.items():
        if count > 1 or name in (REAL, LISTED):
            why = "is there twice" if count > 1 else "is taken"
            raise UsageError(f"--method {name}=…: this name {why}", hint="give every method its own name")
    made: MadeOfPairs = {(pair.setting, pair.name): [] for pair in pairs}
    for method in job.methods:
        for key, found in match_files(pairs, method.folder).items():
            made[key].append(Made(method.name, found.path, found.reason))
    if any(pair.generated for pair in pairs):
        for pair in pairs:
            listed = Made(LISTED, pair.generated, "the list names no generated video")
            made[pair.setting, pair.name].append(listed)
    return made


def _with_generated(
    job: EvaluateJob, pairs: Sequence[Pair], made: MadeOfPairs, report: Report
) -> MadeOfPairs:
    """Run `sync` over all pairs that have no video of this model yet; the model is loaded once."""
    recipe = load_recipe(job.sync_recipe, SyncRecipe)
    spec = find_model(job.model, resolution=recipe.sampling.resolution)
    if any(method.name == spec.name for method in job.methods):
        raise UsageError(f"--method {spec.name}=…: is what --generate makes", hint="give it another name")
    # A video depends on these: another model or recipe gets a folder of its own.
    parts = [dump_recipe(recipe), *(content_hash(path) for path in (spec.unet, spec.vae, spec.whisper))]
    folder = job.output / "generated" / f"{Path(spec.name).stem}-{key_of(parts)[:8]}"
    model: LipModel | None = None
    for done, pair in enumerate(pairs):
        report(Progress("generating", done, len(pairs), "videos"))
        path, reason = folder / pair.setting / f"{pair.name}.mp4", ""
        if not path.exists():
            device = choose_device(job.device)
            model = model or load_model(spec, device=device, dtype=choose_dtype("auto", device))
            reason = _generate(pair, path, recipe, model, report)
        found = Made(spec.name, None if reason else path, reason)
        made[pair.setting, pair.name].append(found)
    report(Progress("generating", len(pairs), len(pairs), "videos"))
    return made


def _generate(pair: Pair, path: Path, recipe: SyncRecipe, model: LipModel, report: Report) -> str:
    """Make one video, as long as its shorter input; returns why not."""

    def warn(event: Event) -> None:
        if isinstance(event, Note):
            report(Note(f"'{pair.name}': {event.message}", event.level))

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        limits = [require_video(pair.video).duration_s, require_audio(pair.speech).duration_s]
        job = SyncJob(
            video=pair.video,
            speech=pair.speech,
            output=path,
            duration="video",
            end_s=min([*limits, *([pair.length_s] if pair.length_s else [])]),
        )
        run_sync(job, recipe, warn, model=model)
    except LatentSyncError as error:
        report(Note(f"'{pair.name}': {error}", "warning"))
        return f"sync could not make it: {error}"
    return ""


def _cache_folder(job: EvaluateJob) -> Path:
    return (job.cache or cache_folder() / "scores").absolute()


def _plan_lines(
    job: EvaluateJob,
    test_set: SetRecipe | None,
    assignments: Sequence[Assignment],
    metrics: Metrics,
    options: WorkerOptions,
) -> tuple[str, ...]:
    counts = Counter(one.pair.setting for one in assignments)
    pairs = ", ".join(f"{counts[setting]} {setting}" for setting in SETTINGS if counts[setting])
    there = Counter(made.method for one in assignments for made in one.made if made.path)
    methods = dict.fromkeys(made.method for one in assignments for made in one.made)
    named = ", ".join(f"{name} ({there[name]} of {len(assignments)} videos)" for name in methods)
    return (
        f"set      {test_set.title if test_set else job.pairs}: {pairs}",
        f"methods  {named or 'none: only the real videos'}",
        f"metrics  {', '.join(metric.name for metric in all_metrics(metrics))}",
        *(f"without  {one.name}: {one.reason}" for one in metrics[2]),
        f"where    {options.place}",
        f"output   {job.output}",
        f"cache    {_cache_folder(job)}",
    )


def _facts(
    job: EvaluateJob, recipe: EvaluateRecipe, test_set: SetRecipe | None, metrics: Metrics, clips: int
) -> tuple[tuple[str, str], ...]:
    """How it was measured, for whoever reads the report later."""
    side = recipe.prepare.resolution
    facts = [
        ("latentsync", __version__),
        ("reconstruction", "the video's own speech; compared with the video itself"),
        ("cross", "the speech of another video; distances between sets are to the input videos"),
        (
            "matched",
            f"by time at 25 fps; the largest face, followed, {side}x{side} px crops. Where a generated video "
            "has the size of its input, both are cut at the same place, else each around its own face",
        ),
        ("landmarks", points_by()),
        ("metrics", ", ".join(f"{one.name} {one.version}" for one in all_metrics(metrics))),
        ("recipe", json.dumps(recipe.model_dump(mode="json"))),
    ]
    if test_set is not None:
        of = f" of {test_set.clips}" if test_set.clips else ""
        chosen = f"{clips}{of} clips are there, chosen by the hash of seed {test_set.seed} and name"
        facts += [("clips", chosen), ("source", test_set.source), ("licence of the data", test_set.licence)]
    if job.methods:
        facts.append(("methods", ", ".join(f"{method.name}: {method.folder}" for method in job.methods)))
    return tuple(fact for fact in facts if fact[1])


def _written(job: EvaluateJob, findings: Findings, cache: Cache, took_s: float) -> EvaluateResult:
    page, table, numbers = (job.output / name for name in (PAGE, TABLE, NUMBERS))
    result = EvaluateResult(findings, page, table, numbers, took_s)
    with _explained(job.output):
        write_csv(findings, result.table)
        write_text(result.numbers, json.dumps(as_dict(findings), indent=1, ensure_ascii=False) + "\n")
        write_text(result.page, write_page(findings, cache))
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncNetJob:
    """Which SyncNet to judge, and on what.

    data   as `read_manifest` takes it
    split  "auto" takes the validation clips of a manifest that has some, else all clips
    """

    checkpoint: Path
    data: Path
    split: Split = "auto"
    output: Path = Path("evaluation")
    device: DeviceName = "auto"


@dataclass(frozen=True, slots=True)
class SyncNetResult:
    """What was found, and the files that say so."""

    found: syncnet.SyncNetAccuracy
    page: Path
    numbers: Path

    def as_dict(self) -> dict[str, object]:
        """The result in values that JSON can hold."""
        return syncnet.as_dict(self.found) | {"page": str(self.page), "numbers": str(self.numbers)}


def run_syncnet(job: SyncNetJob, recipe: EvaluateRecipe, report: Report) -> SyncNetResult:
    """Measure how well a SyncNet tells right from wrong speech in processed clips.

    Raises:
        WeightsError: the checkpoint is missing, damaged or no SyncNet that sees pixels.
        MediaError: there are no clips, or the output cannot be written.
    """
    device = choose_device(job.device)
    network = load_syncnet(job.checkpoint, device=device)
    if isinstance(network, SyncNet) and network.config.space != "pixel":
        raise WeightsError(
            f"'{job.checkpoint}': this SyncNet sees latents of an autoencoder",
            hint="give one that sees pixels, such as stable_syncnet.pt",
        )
    clips, split = _clips_of_split(read_manifest(job.data), job.split)
    _make_folder(job.output)
    about = (
        ("syncnet", str(job.checkpoint)),
        ("data", f"{job.data}, {split}: {len(clips)} clips"),
        ("pairs", f"{recipe.syncnet.pairs}, half of them right, seed {recipe.seed}"),
        ("device", device.type),
    )
    report(Plan(tuple(f"{name:8} {text}" for name, text in about)))
    found = syncnet.judge_clips(own_judge(network, device), clips, recipe.syncnet, report, seed=recipe.seed)
    for name, reason in found.excluded:
        report(Note(f"'{name}': {reason}", "warning"))
    result = SyncNetResult(found, job.output / SYNCNET_PAGE, job.output / SYNCNET_NUMBERS)
    with _explained(job.output):
        write_text(result.numbers, json.dumps(syncnet.as_dict(found), indent=1) + "\n")
        write_text(result.page, syncnet.write_page(found, about))
    return result


def _clips_of_split(clips: list[ManifestClip], split: Split) -> tuple[list[ManifestClip], Split]:
    has_manifest = any(clip.sha256 is not None for clip in clips)
    if split == "auto":
        is_split = has_manifest and any(clip.split == "validation" for clip in clips)
        split = "validation" if is_split else "all"
    chosen = [clip for clip in clips if split in ("all", clip.split)]
    if not chosen:
        raise MediaError(f"there is no clip for {split}", hint="choose another --split")
    return chosen, split
