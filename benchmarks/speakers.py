"""Whether `--face speaker` follows who speaks: two real videos, and two people side by side who take turns.

    python -m benchmarks.speakers MEDIA [--output speakers.json]

A mixture shows two clips side by side; its sound is that of the left one at first, of the right one in the
second half. Only faces are followed and scored, nothing is generated. A second is right if the face chosen in
most of its frames is one of those who may be the speaker. Seconds in which speakers change count, those that
are silent for the most part do not.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import torch

from latentsync.faces.detect import Detector
from latentsync.faces.everyone import follow_everyone
from latentsync.faces.follow import FollowSettings
from latentsync.faces.landmarks import choose_landmarker
from latentsync.media.probe import probe
from latentsync.media.read import read_frames
from latentsync.media.sound import read_audio
from latentsync.metrics.sync import BundledJudge, bundled_judge
from latentsync.sync.speaker import Evidence, decide, gather
from latentsync.types import Frame

Truth = tuple[tuple[float, float, str], ...]
SIDE_PX, MOST_S, FPS, RATE_HZ = 360, 8.0, 25, 16_000
# Seen frame by frame. In the interview both lips move until 8.7 s; the left ones are shut from 9.6 to 15.6 s.
# On the stage the performer is small until 0.67 s and far from the camera; then there is a pianist from the
# side, who does not speak; after 7.04 s an audience that does not speak either.
INTERVIEW = ((0.0, 8.7, "left right"), (8.7, 9.6, "left right"), (9.6, 15.6, "right"), (15.6, 17.2, "left"))
STAGE = (
    (0.0, 0.67, "right nobody"),
    (0.67, 2.73, "nobody"),
    (2.73, 7.04, "left right"),
    (7.04, 9.2, "nobody"),
)


def mixture(left: Path, right: Path) -> tuple[Iterator[Frame], np.ndarray, float]:
    """Frames of both side by side at 25 fps, the sound, and how long they last."""
    duration_s = min(MOST_S, *(require_duration_s(path) for path in (left, right)))
    sounds = [sound_of(path) for path in (left, right)]
    half, end = round(duration_s / 2 * RATE_HZ), round(duration_s * RATE_HZ)
    samples = np.concatenate([sounds[0][:half], sounds[1][half:end]])

    def frames() -> Iterator[Frame]:
        pairs = zip(at_25_fps(left), at_25_fps(right), strict=False)
        for number, (one, other) in enumerate(pairs):
            if number >= duration_s * FPS:
                return
            yield Frame(np.hstack([square(one), square(other)]), number, number / FPS)

    return frames(), samples, duration_s


def at_25_fps(path: Path) -> Iterator[np.ndarray]:
    number = 0
    for frame in read_frames(path):
        while number <= frame.time_s * FPS + 0.5:
            yield frame.rgb_u8
            number += 1


def square(rgb_u8: np.ndarray) -> np.ndarray:
    """The upper square of a frame, where the head is, in one size."""
    side = min(rgb_u8.shape[:2])
    left = (rgb_u8.shape[1] - side) // 2
    part = rgb_u8[:side, left : left + side]
    return np.asarray(cv2.resize(part, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA), np.uint8)


def require_duration_s(path: Path) -> float:
    info = probe(path).video
    assert info is not None
    return info.duration_s


def sound_of(path: Path) -> np.ndarray:
    info = probe(path)
    assert info.audio is not None and info.video is not None
    return read_audio(path, start_s=info.video.start_s - info.audio.start_s).samples


def look(frames: Iterator[Frame], samples: np.ndarray, judge: BundledJudge) -> Evidence:
    followed = follow_everyone(
        frames, detector=Detector(), landmarker=choose_landmarker(), settings=FollowSettings()
    )
    return gather(followed, samples, judge)


def sides(evidence: Evidence, middle_px: float) -> list[str]:
    """Who is chosen in each frame: left, right or nobody."""
    chosen, _ = decide(evidence)
    seen = (chosen[frame].points for frame in range(len(evidence.shots)))
    return ["nobody" if p is None else "left" if p[:, 0].mean() < middle_px else "right" for p in seen]


def score(found: list[str], evidence: Evidence, truth: Truth) -> list[bool]:
    """For each second with sound that has a truth: whether the choice in most of its frames may be right."""
    rights, times_s = [], evidence.times_s
    for second in range(int(times_s[-1]) + 1):
        votes = [
            side in whom.split()
            for side, time_s in zip(found, times_s, strict=True)
            for start_s, end_s, whom in truth
            if int(time_s) == second and start_s <= time_s < end_s
        ]
        if votes and evidence.is_loud[second * FPS : (second + 1) * FPS].mean() > 0.5:
            rights.append(sum(votes) * 2 > len(votes))
    return rights


def pairs_of(media: Path, pairs: int) -> Iterator[tuple[str, Path, Path]]:
    """Clips of two people each: from the test videos, which nobody chose by their sync, and from people/."""
    tests = sorted((media / "test").glob("portrait_*.mp4")) + sorted((media / "test").glob("retalking_*.mp4"))
    for number in range(min(pairs, len(tests))):
        yield "test", tests[number], tests[(number + 3) % len(tests)]
    with (media / "people" / "index.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "real"]
    # In order of the file, one clip a person, long enough for two turns.
    one_each = {row["person"]: row["file"] for row in rows if float(row["seconds"]) >= 4}
    people = [media / "people" / name for name in one_each.values()]
    step = max(1, len(people) // (2 * pairs))
    chosen = people[::step][: 2 * pairs]
    yield from (("people", left, right) for left, right in zip(chosen[::2], chosen[1::2], strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("media", type=Path)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/speakers.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    judge = bundled_judge()
    rows: list[dict[str, object]] = []

    def add(
        kind: str, name: str, evidence: Evidence, middle_px: float, truth: Truth, started_s: float
    ) -> None:
        rights = score(sides(evidence, middle_px), evidence, truth)
        seconds = evidence.times_s[-1] + 1 / FPS
        rows.append(
            {
                "kind": kind,
                "clips": name,
                "seconds": len(rights),
                "right": sum(rights),
                "processor_s_per_s": round((time.process_time() - started_s) / seconds, 2),
            }
        )
        print(rows[-1])

    for name, truth, middle_px in (
        ("two_people_interview", INTERVIEW, 620),
        ("stage_many_faces", STAGE, 200),
    ):
        path, started_s = arguments.media / "test" / f"{name}.mp4", time.process_time()
        add(name, path.name, look(read_frames(path), sound_of(path), judge), middle_px, truth, started_s)
    for kind, left, right in pairs_of(arguments.media, arguments.pairs):
        started_s = time.process_time()
        frames, samples, duration_s = mixture(left, right)
        truth = ((0.0, duration_s / 2, "left"), (duration_s / 2, duration_s, "right"))
        evidence = look(frames, samples, judge)
        add(kind, f"{left.stem} | {right.stem}", evidence, SIDE_PX, truth, started_s)
    totals = {}
    for kind in dict.fromkeys(str(row["kind"]) for row in rows):
        of_kind = [row for row in rows if row["kind"] == kind]
        seconds, right = (sum(int(str(row[key])) for row in of_kind) for key in ("seconds", "right"))
        totals[kind] = {"seconds": seconds, "right": right, "share": round(right / seconds, 3)}
    found = {"date": f"{datetime.now():%Y-%m-%d}", "totals": totals, "rows": rows}
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(totals, indent=1))


if __name__ == "__main__":
    main()
