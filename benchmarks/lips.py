"""Whether the mouth follows the speech: every person of a folder driven by the speech of another one.

    python benchmarks/lips.py CLIP... [--pairs 20] [--seconds 8] [--model MODEL] [--keep DIR]

Each CLIP shows one talking person, with sound. Clip A, driven by the speech of clip B, should open its mouth
when B did. The opening is the distance of the inner lips (points 62 and 66 of 68) over that of the eyes'
centres, at 25 fps. Columns, by pair:

    r0        correlation of the new mouth with B's own, at the same time
    best, lag the largest within 3 frames, and where: above 0 the new mouth is late
    leak      correlation with A's own mouth, which should be invisible to the network: 0 is right
    chance    best correlation of A's own mouth with B's: what two unrelated videos reach
    motion    standard deviation of the new opening over that of B's
    silence   mean and standard deviation of the opening of A in silence over those with B's speech

Means come with 95 % intervals from 10,000 resamples of the pairs. Only clips of people that the model was not
trained on tell something. With --keep DIR the videos stay (A__B.mp4, A__silence.mp4). With --points DIR, too,
openings are taken from DIR/NAME.npz instead of from our own landmark network, with `points` (f, 468, 2) of
MediaPipe's face mesh or (f, 68, 2) in pixels: first run with --keep, then a teacher over clips and results,
then again with --reuse --points.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from material import RATE_HZ, make_wav
from numpy.typing import NDArray
from processes import circumstances

from latentsync.events import ignore
from latentsync.faces.choice import FaceChoice
from latentsync.faces.detect import Detector
from latentsync.faces.landmarks import Landmarker, choose_landmarker
from latentsync.faces.track import track
from latentsync.media.probe import require_audio, require_video
from latentsync.media.read import read_frames
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.schema import SyncRecipe
from latentsync.sync import SyncJob, run

RESULTS = Path(__file__).parent / "results" / "lips.json"
FPS = 25.0
LARGEST_LAG = 3
INNER_LIPS = {68: (62, 66), 468: (13, 14)}
EYES = {
    68: (tuple(range(36, 42)), tuple(range(42, 48))),
    468: ((33, 160, 158, 133, 153, 144), (362, 385, 387, 263, 373, 380)),
}
RESAMPLES = 10_000
Series = NDArray[np.float64]  # (f,) at 25 fps, NaN where no face was seen


@dataclass(frozen=True, slots=True)
class Row:
    """One pair; see the top of the file."""

    driven: str
    speaker: str
    frames: int
    r0: float
    best: float
    lag: int
    leak: float
    chance: float
    motion: float
    silence_mean: float
    silence_motion: float


@cache
def landmarker() -> Landmarker:
    return choose_landmarker()


def opening_of(points: NDArray[np.floating]) -> float:
    """Distance of the inner lips over that of the eyes' centres."""
    upper, lower = (points[place] for place in INNER_LIPS[len(points)])
    left, right = (points[list(group)].mean(0) for group in EYES[len(points)])
    return float(np.linalg.norm(upper - lower) / np.linalg.norm(left - right))


@cache
def openings(video: Path, end_s: float, points_dir: Path | None) -> Series:
    """The opening of the mouth at 25 fps, up to `end_s`."""
    times_s: list[float] = []
    values: list[float] = []
    if points_dir is None:
        for tracked in track(
            read_frames(video, end_s=end_s),
            choice=FaceChoice(),
            resolution=128,
            detector=Detector(),
            landmarker=landmarker(),
        ):
            is_seen = tracked.face is not None and not tracked.is_interpolated
            values.append(opening_of(tracked.face.points) if is_seen and tracked.face else np.nan)
            times_s.append(tracked.frame.time_s)
    else:
        stored = np.load(points_dir / f"{video.stem}.npz")["points"]
        frame_s = float(1 / require_video(video).fps)
        values = [opening_of(points) for points in stored[: round(end_s / frame_s)]]
        times_s = [number * frame_s for number in range(len(values))]
    grid_s = np.arange(0, times_s[-1] + 1e-6, 1 / FPS)
    return np.asarray(np.interp(grid_s, times_s, values))  # NaN spreads to what lies beside it


def pearson(one: Series, other: Series) -> float:
    """Correlation over the frames that both have; NaN where one of them never moves."""
    length = min(len(one), len(other))
    one, other = one[:length], other[:length]
    both = ~np.isnan(one) & ~np.isnan(other)
    if both.sum() < 10 or one[both].std() == 0 or other[both].std() == 0:
        return float("nan")
    return float(np.corrcoef(one[both], other[both])[0, 1])


def best_lag(late: Series, wanted: Series) -> tuple[float, int]:
    """The largest correlation, and by how many frames `late` lags behind."""
    found = {
        lag: pearson(late[max(0, lag) :], wanted[max(0, -lag) :])
        for lag in range(-LARGEST_LAG, LARGEST_LAG + 1)
    }
    lag = max(found, key=lambda each: (-np.inf if np.isnan(found[each]) else found[each], -abs(each)))
    return found[lag], lag


def plan_pairs(clips: list[Path], count: int) -> list[tuple[Path, Path]]:
    """Every clip driven by the next one, then by the one after that, and so on."""
    turns = [clips[turn:] + clips[:turn] for turn in range(1, len(clips))]
    pairs = [pair for turn in turns for pair in zip(clips, turn, strict=True)]
    return pairs[:count]


def generate(video: Path, speech: Path, target: Path, end_s: float, arguments: argparse.Namespace) -> None:
    """Drive the first `end_s` seconds of `video`."""
    if arguments.reuse and target.exists():
        return
    job = SyncJob(
        video=video,
        speech=speech,
        output=target,
        model=arguments.model,
        end_s=end_s,
        duration="video",
        force=True,
    )
    run(job, load_recipe("sync", SyncRecipe, overrides=arguments.set or []), ignore)


def silence(video: Path, folder: Path, arguments: argparse.Namespace) -> Path:
    """The video of a person who hears nothing."""
    target, sound = folder / f"{video.stem}__silence.mp4", folder / "silence.wav"
    end_s = min(require_video(video).duration_s, arguments.seconds)
    make_wav(sound, np.zeros(round(end_s * RATE_HZ), np.float32))
    generate(video, sound, target, end_s, arguments)
    return target


def measure(driven: Path, speaker: Path, quiet: Path, folder: Path, arguments: argparse.Namespace) -> Row:
    """Generate one pair, and compare."""
    lengths_s = require_video(driven).duration_s, require_video(speaker).duration_s
    end_s = min(*lengths_s, require_audio(speaker).duration_s, arguments.seconds)
    made = folder / f"{driven.stem}__{speaker.stem}.mp4"
    generate(driven, speaker, made, end_s, arguments)
    new, wanted, own, still = (
        openings(video, arguments.seconds, arguments.points) for video in (made, speaker, driven, quiet)
    )
    wanted, own = wanted[: len(new)], own[: len(new)]
    best, lag = best_lag(new, wanted)
    return Row(
        driven=driven.stem,
        speaker=speaker.stem,
        frames=len(new),
        r0=pearson(new, wanted),
        best=best,
        lag=lag,
        leak=pearson(new, own),
        chance=best_lag(own, wanted)[0],
        motion=float(np.nanstd(new) / np.nanstd(wanted)),
        silence_mean=float(np.nanmean(still) / np.nanmean(new)),
        silence_motion=float(np.nanstd(still) / np.nanstd(new)),
    )


def interval(values: list[float]) -> dict[str, float]:
    """Mean, and the 95 % interval of means of resamples."""
    known = np.array([value for value in values if not np.isnan(value)])
    if len(known) == 0:
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan")}
    picks = np.random.default_rng(1247).integers(len(known), size=(RESAMPLES, len(known)))
    low, high = np.percentile(known[picks].mean(1), (2.5, 97.5))
    return {"mean": float(known.mean()), "low": float(low), "high": float(high)}


COLUMNS = ("r0", "best", "lag", "leak", "chance", "motion", "silence_mean", "silence_motion")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each clip")
    parser.add_argument("--model", default="compact")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the videos stay")
    parser.add_argument("--reuse", action="store_true", help="take videos that are in --keep already")
    parser.add_argument("--points", type=Path, metavar="DIR", help="landmarks of another network")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if len(arguments.clips) < 2:
        parser.error("two clips at least: one speaks, one is driven")
    report: dict[str, Any] = {
        "circumstances": circumstances(),
        "model": arguments.model,
        "seconds": arguments.seconds,
        "set": arguments.set or [],
        "points": "our landmark network" if arguments.points is None else "given",
    }
    rows: list[Row] = []
    print(f"{'driven':16}{'speaker':16}{'frames':>7}" + "".join(f"{name:>16}" for name in COLUMNS))
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        quiet: dict[Path, Path] = {}
        for driven, speaker in plan_pairs(arguments.clips, arguments.pairs):
            if driven not in quiet:
                quiet[driven] = silence(driven, folder, arguments)
            rows.append(measure(driven, speaker, quiet[driven], folder, arguments))
            values = asdict(rows[-1])
            print(
                f"{driven.stem:16}{speaker.stem:16}{rows[-1].frames:7}"
                + "".join(f"{values[column]:16.2f}" for column in COLUMNS),
                flush=True,
            )
    report["means"] = {column: interval([float(asdict(row)[column]) for row in rows]) for column in COLUMNS}
    report["pairs"] = [asdict(row) for row in rows]
    print(f"means over {len(rows)} pairs, with 95 % intervals:")
    for column, found in report["means"].items():
        print(f"  {column:16}{found['mean']:7.2f}  ({found['low']:.2f} to {found['high']:.2f})")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
