"""Scores lip-synced videos beside the real ones: the core of the `evaluate` command."""

from __future__ import annotations

import inspect
import json
import platform
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import torch

from latentsync import __version__
from latentsync.errors import LatentSyncError, MediaError, UsageError
from latentsync.evaluate.pairs import Made, Pair, load_set, match_files, pairs_of_set, read_pairs
from latentsync.evaluate.report import (
    EvaluationReport,
    Facts,
    as_dict,
    explained,
    make_folder,
    write_csv,
    write_page,
    write_text,
)
from latentsync.evaluate.score import (
    REAL,
    Assignment,
    Cache,
    Metrics,
    WorkerOptions,
    choose_scorer,
    content_hash,
    key_of,
    make_scorer,
    points_by,
    score_all,
)
from latentsync.evaluate.tables import write_tables
from latentsync.evaluate.totals import total
from latentsync.events import Event, Note, Plan, Progress, Report
from latentsync.media.probe import require_audio, require_video
from latentsync.metrics import METRICS, build_metrics
from latentsync.metrics.sync import BUNDLED_SYNCNET
from latentsync.recipe.evaluate import SETTINGS, EvaluateRecipe, SetRecipe
from latentsync.recipe.loading import dump_recipe, load_recipe
from latentsync.recipe.sync import SyncRecipe
from latentsync.runtime import DeviceName, choose_device, choose_dtype
from latentsync.sync.run import SyncJob
from latentsync.sync.run import run as run_sync
from latentsync.weights.checkpoints import is_checkpoint, read_note
from latentsync.weights.hub import cache_folder
from latentsync.weights.models import DEFAULT_MODEL, LipModel, ModelSpec, find_model, load_model
from latentsync.weights.named import used_networks, weights_file
from latentsync.workers.pool import EngineName, Work

PAGE, TABLE, NUMBERS = "report.html", "scores.csv", "report.json"
TABLES = ("tables.md", "tables.csv", "tables.tex")  # the means, as a paper prints them
LISTED = "generated"  # the method of videos that a list of pairs names itself


@dataclass(frozen=True, slots=True)
class Method:
    """A folder of finished videos and what it is called."""

    name: str
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateJob:
    """What to score, where, and with how many workers.

    test_set     name or file of a `SetRecipe`; or else `pairs`, a CSV
    data         folder of the set's videos, or the one that paths in `pairs` are relative to
    generate     run `sync` with `model` over all pairs first
    sync_recipe  of that
    metrics      None: all that can be measured here
    workers      None: one for a GPU, else one per core
    cache        folder of scores; None: in the cache folder
    show         names of clips that the page shows by all methods; empty: the first of each setting
    command      as it was typed, for the report
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
    engine: EngineName = "local"
    address: str | None = None
    workers: int | None = None
    limit_s: float = 1800.0
    cache: Path | None = None
    show: tuple[str, ...] = ()
    command: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """What was found, and the files that were written."""

    report: EvaluationReport
    page: Path
    table: Path
    numbers: Path
    took_s: float

    def as_dict(self) -> dict[str, object]:
        """The result in values that JSON can hold."""
        files = {"page": str(self.page), "table": str(self.table), "numbers": str(self.numbers)}
        return as_dict(self.report) | files | {"took_s": round(self.took_s, 2)}


def run(
    job: EvaluateJob, recipe: EvaluateRecipe, report: Report, *, metrics: Metrics | None = None
) -> EvaluateResult:
    """Score every method's video of every pair, and the real videos; write table, numbers and page.

    What is in the cache is not measured again, so the same command resumes a run that was stopped.

    Args:
        metrics: to be used instead of those that `job.metrics` names; then everything runs in this process.

    Raises:
        UsageError: flags or columns do not fit together.
        MediaError: the set, a method's folder or the output cannot be used, or no video could be scored.
            One video that cannot be scored is listed instead.
        WeightsError: a network that was asked for is damaged.
    """
    started = time.monotonic()
    test_set, pairs = _pairs(job)
    chosen = len({pair.video for pair in pairs})
    title = _title(job, test_set, chosen, report)
    unknown = set(job.show) - {pair.name for pair in pairs}
    if unknown:
        names = ", ".join(pair.name for pair in pairs[:3])
        raise UsageError(f"--show {min(unknown)}: no clip has this name", hint=f"there are {names} and so on")
    device = choose_device(job.device)
    make_folder(job.output)
    made = _find_made(job, pairs)
    spec = _model_to_generate(job) if job.generate else None
    if spec is not None:
        made = _with_generated(job, pairs, made, spec, report)
    options = WorkerOptions(
        engine=job.engine,
        address=job.address,
        workers=1 if metrics else job.workers,
        device=device.type,
        limit_s=job.limit_s,
    )
    metrics, make = _choose_metrics(job, recipe, device.type, metrics)
    assignments = [Assignment(pair, tuple(made[pair.setting, pair.name])) for pair in pairs]
    report(Plan(_plan_lines(job, test_set, assignments, metrics, options)))
    scores = score_all(assignments, make, options, report)
    cache = Cache(_cache_folder(job))
    found = EvaluationReport(
        title=f"Lip sync on {title}",
        facts=_facts(job, recipe, test_set, metrics, clips=chosen),
        circumstances=_circumstances(job, options),
        definitions={metric.name: _definition(metric) for metric in [*metrics[0], *metrics[1]]},
        totals=total(scores, metrics, cache, recipe.intervals, seed=recipe.seed),
        scores=tuple(scores),
        taught={name: _judges_that_taught(name, spec, metrics) for name in _method_names(assignments)},
        videos=_videos(assignments),
        speakers=_speakers(pairs),
        shown=job.show,
        paper=test_set.paper if test_set else (),
        paper_settings=dict(test_set.paper_settings) if test_set else None,
        paper_source=test_set.paper_source if test_set else "",
    )
    result = _written(job, found, cache, time.monotonic() - started)
    _refuse_nothing_scored(result)
    return result


def _title(job: EvaluateJob, test_set: SetRecipe | None, chosen: int, report: Report) -> str:
    """What is evaluated; a set of which clips are missing says so."""
    if test_set is None:
        return str(job.pairs)
    if test_set.clips is None or chosen >= test_set.clips:
        return test_set.title
    title = f"{test_set.title}, {chosen} of {test_set.clips} clips"
    report(Note(f"{title} are present: the means are not those of the full set", "warning"))
    return title


def _choose_metrics(
    job: EvaluateJob, recipe: EvaluateRecipe, device: str, metrics: Metrics | None
) -> tuple[Metrics, partial[Work]]:
    """The metrics, and what builds a scorer with them in a worker, where networks are loaded."""
    settings = recipe.prepare, _cache_folder(job)
    if metrics is not None:
        return metrics, partial(make_scorer, metrics, *settings)
    network = job.identity_network
    metrics = build_metrics(job.metrics, device=device, identity_network=network)
    return metrics, partial(choose_scorer, job.metrics, *settings, device=device, identity_network=network)


def _pairs(job: EvaluateJob) -> tuple[SetRecipe | None, list[Pair]]:
    if (job.test_set is None) == (job.pairs is None):
        raise UsageError("give either --set or --pairs", hint="for example --set hdtf, or --pairs pairs.csv")
    if job.pairs is not None:
        return None, read_pairs(job.pairs, data=job.data)
    test_set = load_set(str(job.test_set))
    return test_set, pairs_of_set(test_set, job.data or Path("data") / test_set.data)


MadeOfPairs = dict[tuple[str, str], list[Made]]


def _find_made(job: EvaluateJob, pairs: Sequence[Pair]) -> MadeOfPairs:
    """Every method's video of every pair."""
    names = Counter(method.name for method in job.methods)
    for name, count in names.items():
        if count > 1 or name in (REAL, LISTED):
            why = "is given twice" if count > 1 else "is taken"
            raise UsageError(f"--method {name}=…: this name {why}", hint="give every method its own name")
    made: MadeOfPairs = {(pair.setting, pair.name): [] for pair in pairs}
    for method in job.methods:
        for key, found in match_files(pairs, method.folder, method=method.name).items():
            made[key].append(found)
    if any(pair.generated for pair in pairs):
        for pair in pairs:
            listed = Made(LISTED, pair.generated, "the list names no generated video")
            made[pair.setting, pair.name].append(listed)
    return made


def _model_to_generate(job: EvaluateJob) -> ModelSpec:
    resolution = load_recipe(job.sync_recipe, SyncRecipe).sampling.resolution
    spec = find_model(job.model, resolution=resolution)
    if any(method.name == spec.name for method in job.methods):
        raise UsageError(
            f"--method {spec.name}=…: --generate already uses that name", hint="give it another name"
        )
    return spec


def _with_generated(
    job: EvaluateJob, pairs: Sequence[Pair], made: MadeOfPairs, spec: ModelSpec, report: Report
) -> MadeOfPairs:
    """Run `sync` over all pairs that this model has no video of yet; the model is loaded once."""
    recipe = load_recipe(job.sync_recipe, SyncRecipe)
    # A video depends on these, so another model or recipe gets another folder.
    parts = [
        dump_recipe(recipe),
        *(content_hash(weights_file(path)) for path in (spec.unet, spec.vae, spec.whisper)),
    ]
    folder = job.output / "generated" / f"{Path(spec.name).stem}-{key_of(parts)[:8]}"
    model: LipModel | None = None
    for done, pair in enumerate(pairs):
        report(Progress("generating", done, len(pairs), "videos"))
        path, reason = folder / pair.setting / f"{pair.name}.mp4", ""
        if not path.exists():
            device = choose_device(job.device)
            # Not in bf16 on a CPU that has it: scores of one model may not depend on the processor.
            dtype = choose_dtype("auto", device, is_exact=True)
            model = model or load_model(spec, device=device, dtype=dtype)
            reason = _generate(pair, path, recipe, model, report)
        found = Made(spec.name, None if reason else path, reason)
        made[pair.setting, pair.name].append(found)
    report(Progress("generating", len(pairs), len(pairs), "videos"))
    return made


def _generate(pair: Pair, path: Path, recipe: SyncRecipe, model: LipModel, report: Report) -> str:
    """Make one video, as long as its shorter input; returns why it could not, or an empty string."""

    def warn(event: Event) -> None:
        # Plan and progress of one video would hide those of the whole set.
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
        return f"sync failed: {error}"
    return ""


def _videos(assignments: Sequence[Assignment]) -> dict[tuple[str, str, str], Path]:
    """The video of each setting, clip and method, and the input under the name of the real ones."""
    found: dict[tuple[str, str, str], Path] = {}
    for one in assignments:
        found[one.pair.setting, one.pair.name, REAL] = one.pair.video
        for made in one.made:
            if made.path is not None:
                found[one.pair.setting, one.pair.name, made.method] = made.path
    return found


def _speakers(pairs: Sequence[Pair]) -> dict[tuple[str, str], str]:
    """For each pair of another's speech, the name of a pair whose input is the video of that speaker."""
    names = {pair.video: pair.name for pair in reversed(pairs)}
    return {
        (pair.setting, pair.name): names[pair.speaker]
        for pair in pairs
        if pair.speaker is not None and pair.speaker != pair.video and pair.speaker in names
    }


def _method_names(assignments: Sequence[Assignment]) -> list[str]:
    return list(dict.fromkeys(made.method for one in assignments for made in one.made))


def _judges_that_taught(method: str, spec: ModelSpec | None, metrics: Metrics) -> frozenset[str]:
    """The metrics whose network this method's model was trained with, as far as that is known."""
    if method == DEFAULT_MODEL:
        teachers = {content_hash(BUNDLED_SYNCNET)}
    elif spec is not None and method == spec.name and is_checkpoint(spec.unet):
        used = used_networks(read_note(spec.unet).facts)
        # A VAE or a Whisper is an input of the model; only the networks of losses reward its output.
        teachers = {network.sha256 for use, network in used.items() if use not in ("vae", "whisper")}
    else:
        return frozenset()
    judges = {
        one.name: METRICS[one.name].judge_file() for one in [*metrics[0], *metrics[1]] if one.name in METRICS
    }
    return frozenset(name for name, judge in judges.items() if judge and content_hash(judge) in teachers)


def _refuse_nothing_scored(result: EvaluateResult) -> None:
    """End with an error if no generated video was scored, or, without methods, no real one."""
    scores = [one for one in result.report.scores if one.method != REAL] or list(result.report.scores)
    if all(one.reason for one in scores):
        reasons = Counter(one.reason for one in scores)
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        raise MediaError(
            f"none of {len(scores)} videos could be scored: {counts}", hint=f"see '{result.table}'"
        )


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
    present = Counter(made.method for one in assignments for made in one.made if made.path)
    named = ", ".join(
        f"{name} ({present[name]} of {len(assignments)} videos)" for name in _method_names(assignments)
    )
    return (
        f"set      {test_set.title if test_set else job.pairs}: {pairs}",
        f"methods  {named or 'none: only the real videos'}",
        f"metrics  {', '.join(metric.name for metric in [*metrics[0], *metrics[1]])}",
        *(f"without  {one.name}: {one.reason}" for one in metrics[2]),
        f"workers  {options.describe()}",
        f"output   {job.output}",
        f"cache    {_cache_folder(job)}",
    )


def _facts(
    job: EvaluateJob, recipe: EvaluateRecipe, test_set: SetRecipe | None, metrics: Metrics, *, clips: int
) -> Facts:
    """How it was measured, for the reader of the report."""
    side = recipe.prepare.resolution
    facts = [
        ("latentsync", __version__),
        ("reconstruction", "the video's own speech; compared with the video itself"),
        ("cross", "the speech of another video; distances between sets are to the input videos"),
        (
            "matched",
            f"by time at 25 fps; the largest face, followed, {side}x{side} px crops. Where a generated video "
            "has the size of its input, both are cut at the same position, else each around its own face",
        ),
        ("landmarks", points_by()),
        ("metrics", ", ".join(f"{one.name} {one.version}" for one in [*metrics[0], *metrics[1]])),
        ("recipe", dump_recipe(recipe)),
    ]
    if test_set is not None:
        of = f" of {test_set.clips}" if test_set.clips else ""
        chosen = f"{clips}{of} clips, chosen by the hash of seed {test_set.seed} and name"
        facts += [("clips", chosen), ("source", test_set.source), ("licence of the data", test_set.licence)]
    if job.methods:
        facts.append(("methods", ", ".join(f"{method.name}: {method.folder}" for method in job.methods)))
    return tuple(fact for fact in facts if fact[1])


def _circumstances(job: EvaluateJob, options: WorkerOptions) -> Facts:
    """What is true of this run only; the same scores can come from another one."""
    versions = f"latentsync {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    facts = (
        ("date", datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")),
        ("command", job.command),
        ("versions", versions),
        ("device", options.describe()),
    )
    return tuple(fact for fact in facts if fact[1])


def _definition(metric: object) -> str:
    """The first paragraph of a metric's docstring, which says what it measures."""
    paragraph = (inspect.getdoc(type(metric)) or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def _written(job: EvaluateJob, found: EvaluationReport, cache: Cache, took_s: float) -> EvaluateResult:
    page, table, numbers = (job.output / name for name in (PAGE, TABLE, NUMBERS))
    result = EvaluateResult(found, page, table, numbers, took_s)
    with explained(job.output):
        write_csv(found, result.table)
        write_text(result.numbers, json.dumps(as_dict(found), indent=1, ensure_ascii=False) + "\n")
        write_text(result.page, write_page(found, cache))
        for name in TABLES:
            write_text(job.output / name, write_tables(found, name.rpartition(".")[2]))
    return result
