"""Whether the mouth follows the speech: every person of a folder driven by the speech of another one.

    python benchmarks/lips.py CLIP... [--pairs 24] [--model MODEL] [--keep DIR] [--real DIR] [--workers N]

Each CLIP shows one talking person, with sound. Clip A, driven by the speech of clip B, should open its mouth
when B did. The opening is the distance of the inner lips over that of the eyes' centres, at 25 fps.
Columns, by pair:

    r0        correlation of the new mouth with B's own, at the same time
    best, lag the largest within 3 frames, and where: above 0 the new mouth is late
    synced    correlation at the lag that B's own video asks for: its speech may be early or late by `offset`
    leak      correlation with A's own mouth, which should be invisible to the network: 0 is right
    chance    best correlation of A's own mouth with B's: what two unrelated videos reach
    motion    standard deviation of the new opening over that of B's
    quiet     standard deviation of the opening of A in silence over that with B's speech
    sync      confidence of the bundled SyncNet in the new video, sync_offset where, and sync_real that in as
              much of B's own
    seam      gradient across the border of the paste, over that in A's video at the same positions; seam_skin
              the same without the jaw, where A has an edge anyway

A mouth that stands still has a correlation of 0, B's own one of 1. Means come with 95 % intervals from 10,000
resamples of the pairs. Only clips of people that the model was not trained on tell something. With --keep DIR
the videos stay (A__B.mp4, A__silence.mp4); --reuse takes those that are there. --real DIR keeps what was
found in the clips, for other models. Each --sound FILE drives one clip more, with no mouth to compare with.
With --points DIR openings are taken from DIR/NAME.npz instead of from our own landmark network, with `points`
(f, 468, 2) of MediaPipe's face mesh or (f, 68, 2) in pixels: first run with --keep, then a teacher over clips
and results, then again with --reuse --points.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import lip_measures
import numpy as np
import torch
from material import RATE_HZ, make_wav
from processes import circumstances

from latentsync.events import ignore
from latentsync.media.probe import probe, require_audio, require_video
from latentsync.metrics.lips import Series, best_lag, correlation
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.sync import SyncRecipe
from latentsync.runtime import choose_device, choose_dtype
from latentsync.sync.run import SyncJob, run
from latentsync.weights.models import LipModel, find_model, load_model

RESULTS = Path(__file__).parent / "results" / "lips.json"
RESAMPLES = 10_000
SILENCE_S = 2.0
ENCODING = "encoding.preset=veryfast"  # the lips are the same, and a core has other things to do
# A video is off by a few frames at most: an offset beyond is the judge's mistake, and taken for 0.
FARTHEST_OFFSET_FRAMES = 5
GOALS = {"best": 0.6, "synced": 0.6, "sync_ratio": 0.8, "quiet": 0.25, "seam": 1.15}
AT_MOST = ("quiet", "seam")
ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class Settings:
    """The command line, for workers."""

    folder: Path
    real: Path
    points: Path | None
    model: str
    overrides: tuple[str, ...]
    seconds: float
    is_reused: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One pair; see the top of the file. NaN where there is no mouth to compare with."""

    driven: str
    speaker: str
    frames: int
    r0: float
    best: float
    lag: float
    synced: float
    offset: float
    leak: float
    chance: float
    motion: float
    quiet: float
    sync: float
    sync_offset: float
    sync_real: float
    seam: float
    seam_skin: float


COLUMNS = tuple(Row.__annotations__)[3:]


@cache
def loaded(model: str) -> LipModel:
    device = choose_device("auto")
    return load_model(find_model(model), device=device, dtype=choose_dtype("auto", device))


def plan_pairs(clips: list[Path], count: int) -> list[tuple[Path, Path]]:
    """Every clip driven by the next one, then by the one after that, and so on."""
    turns = [clips[turn:] + clips[:turn] for turn in range(1, len(clips))]
    pairs = [pair for turn in turns for pair in zip(clips, turn, strict=True)]
    return pairs[:count]


def generate(video: Path, speech: Path, target: Path, end_s: float, settings: Settings) -> Path:
    """Drive the first `end_s` seconds of `video`."""
    if settings.is_reused and target.exists():
        return target
    job = SyncJob(video=video, speech=speech, output=target, end_s=end_s, duration="video", force=True)
    recipe = load_recipe("sync", SyncRecipe, overrides=[ENCODING, *settings.overrides])
    run(job, recipe, ignore, model=loaded(settings.model))
    return target


def hush(video: Path, settings: Settings) -> Path:
    """The video driven by silence."""
    end_s = min(require_video(video).duration_s, SILENCE_S)
    sound = settings.folder / f"{video.stem}__silence.wav"
    make_wav(sound, np.zeros(round(end_s * RATE_HZ), np.float32))
    made = generate(video, sound, settings.folder / f"{video.stem}__silence.mp4", end_s, settings)
    sound.unlink()
    return made


def measure_person(task: tuple[Path, list[Path]], settings: Settings) -> list[Row]:
    """Silence one person, then drive them with each speech."""
    driven, speakers = task
    own = lip_measures.look_at(driven, settings.real)
    made = hush(driven, settings)
    still = lip_measures.openings_of(made, lip_measures.follow(made, own), settings.points)
    return [measure(driven, speaker, float(np.nanstd(still)), settings) for speaker in speakers]


def measure(driven: Path, speaker: Path, still: float, settings: Settings) -> Row:
    """Generate one pair, and compare; `still` is the standard deviation of the opening in silence."""
    info = probe(speaker).video
    own = lip_measures.look_at(driven, settings.real)
    lengths_s = [require_video(driven).duration_s, require_audio(speaker).duration_s, settings.seconds]
    end_s = min([*lengths_s, *([info.duration_s] if info else [])])
    target = settings.folder / f"{driven.stem}__{speaker.stem}.mp4"
    made = generate(driven, speaker, target, end_s, settings)
    new = lip_measures.follow(made, own)
    opened = lip_measures.openings_of(made, new, settings.points)
    before = lip_measures.openings_of(driven, own.prepared, settings.points)[: len(opened)]
    sync = lip_measures.sync_of_video(made, new)
    found = dict.fromkeys(COLUMNS, float("nan"))
    found |= {
        "leak": correlation(opened, before),
        "quiet": still / float(np.nanstd(opened)),
        "sync": sync.confidence,
        "sync_offset": sync.offset_frames,
    }
    found["seam"], found["seam_skin"] = lip_measures.seam_energy(made, driven, own)
    if info is not None:
        wanted = lip_measures.look_at(speaker, settings.real)
        real = lip_measures.openings_of(speaker, wanted.prepared, settings.points)[: len(opened)]
        found |= compare(opened, real, wanted.sync().offset_frames)
        found |= {"chance": best_lag(before, real)[0], "sync_real": wanted.sync(new.frames).confidence}
    return Row(driven.stem, speaker.stem, new.frames, **found)


def compare(opened: Series, real: Series, offset: int) -> dict[str, float]:
    """The new mouth beside the one that spoke, whose speech is early by `offset` frames."""
    best, lag = best_lag(opened, real)
    shift = 0 if abs(offset) > FARTHEST_OFFSET_FRAMES else -offset
    return {
        "r0": correlation(opened, real),
        "best": best,
        "lag": lag,
        "synced": lip_measures.at_lag(opened, real, shift),
        "offset": offset,
        "motion": float(np.nanstd(opened) / np.nanstd(real)),
    }


def interval(values: list[float], over: list[float] | None = None) -> dict[str, float]:
    """Mean, and the 95 % interval of means of resamples; with `over`, of the ratio of means."""
    known = np.array([pair for pair in zip(values, over or [1.0] * len(values), strict=True)])
    known = known[~np.isnan(known).any(1)]
    if len(known) == 0:
        return dict.fromkeys(("mean", "low", "high"), float("nan"))
    picks = np.random.default_rng(1247).integers(len(known), size=(RESAMPLES, len(known)))
    means = known[picks].mean(1)
    low, high = np.percentile(means[:, 0] / means[:, 1], (2.5, 97.5))
    mean = known.mean(0)
    return {"mean": float(mean[0] / mean[1]), "low": float(low), "high": float(high)}


def means_of(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Means of all columns, and of `sync` over `sync_real`, over the pairs whose speech came with a face.

    One set of pairs for all columns, so that they can be compared; a speech file has nothing to compare with.
    """
    rows = [row for row in rows if not np.isnan(row.best)]
    values = {column: [float(getattr(row, column)) for row in rows] for column in COLUMNS}
    means = {column: interval(values[column]) for column in COLUMNS}
    return means | {"sync_ratio": interval(values["sync"], values["sync_real"])}


def show_means(means: dict[str, dict[str, float]]) -> None:
    for column, found in means.items():
        line = f"  {column:16}{found['mean']:7.2f}  ({found['low']:.2f} to {found['high']:.2f})"
        if column in GOALS:
            is_small = column in AT_MOST
            is_met = found["mean"] <= GOALS[column] if is_small else found["mean"] >= GOALS[column]
            wanted = f"at {'most' if is_small else 'least'} {GOALS[column]:g}"
            line += f"  goal {wanted}: {'reached' if is_met else 'missed'}"
        print(line)


def work(task: Callable[[ItemT], AnswerT], items: list[ItemT], workers: int) -> Iterator[AnswerT]:
    """The answers in the order of the items."""
    if workers == 1:
        yield from map(task, items)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(task, items)


def with_threads(item: ItemT, task: Callable[[ItemT], AnswerT], threads: int) -> AnswerT:
    """Run `task` in a worker that has so many threads."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    return task(item)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each clip")
    parser.add_argument("--sound", type=Path, action="append", default=[], help="speech without a face")
    parser.add_argument("--model", default="compact")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the videos stay")
    parser.add_argument("--reuse", action="store_true", help="take videos that are in --keep already")
    parser.add_argument("--real", type=Path, metavar="DIR", help="where measurements of the clips stay")
    parser.add_argument("--points", type=Path, metavar="DIR", help="landmarks of another network")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread if several")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if len(arguments.clips) < 2:
        parser.error("give at least two clips: one is driven by the speech of another")
    return arguments


def measure_all(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Look at the clips, then silence and drive each person."""
    settings = Settings(
        folder=folder,
        real=arguments.real or folder / "real",
        points=arguments.points,
        model=arguments.model,
        overrides=tuple(arguments.set or ()),
        seconds=arguments.seconds,
        is_reused=arguments.reuse,
    )
    pairs = plan_pairs(arguments.clips, arguments.pairs)
    step = max(1, len(arguments.clips) // max(1, len(arguments.sound)))
    pairs += [(arguments.clips[k * step], sound) for k, sound in enumerate(arguments.sound)]
    threads = partial(with_threads, threads=1 if arguments.workers > 1 else torch.get_num_threads())
    shown = sorted({clip for pair in pairs for clip in pair if probe(clip).video is not None})
    looks = partial(lip_measures.look_at, folder=settings.real)
    list(work(partial(threads, task=looks), shown, arguments.workers))
    people = [(clip, [speech for driven, speech in pairs if driven == clip]) for clip in arguments.clips]
    tasks = [(driven, speeches) for driven, speeches in people if speeches]
    for rows in work(
        partial(threads, task=partial(measure_person, settings=settings)), tasks, arguments.workers
    ):
        yield from rows


def main() -> None:
    arguments = parse()
    report: dict[str, Any] = {
        "circumstances": circumstances(),
        "model": arguments.model,
        "seconds": arguments.seconds,
        "set": arguments.set or [],
        "points": "our landmark network" if arguments.points is None else "given",
    }
    rows: list[Row] = []
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    print(f"{'driven':18}{'speaker':18}" + "".join(f"{name:>12}" for name in COLUMNS))
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for row in measure_all(arguments, folder):
            rows.append(row)
            numbers = "".join(f"{getattr(row, column):12.2f}" for column in COLUMNS)
            print(f"{row.driven:18}{row.speaker:18}{numbers}", flush=True)
            compared = sum(not np.isnan(row.best) for row in rows)
            report |= {"pairs_in_means": compared, "means": means_of(rows)}
            report |= {"pairs": [asdict(row) for row in rows]}
            arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"means over {len(rows)} pairs, with 95 % intervals:")
    show_means(report["means"])


if __name__ == "__main__":
    main()
