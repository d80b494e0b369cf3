"""Makes a raw folder for `latentsync preprocess` in which every person has a folder of links.

    python recipes/compact/sort_people.py RAW_DIR --train TRAIN_DIR --people PEOPLE_DIR
    latentsync preprocess RAW_DIR OUT --recipe compact/preprocess

TRAIN_DIR holds the clips that `people.csv` names (p00, p01, ...); clips that are not there are left out.
PEOPLE_DIR holds an index.csv with the columns file, person and looks_like_in_train (q000, q001, ...);
who looks like somebody in TRAIN_DIR goes to that person. The people are groups of faces that look alike to a
face recogniser (docs/experiments.md), not names. `held_out.txt` says who is kept out of training.
"""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

PEOPLE = Path(__file__).with_name("people.csv")


def train_clips(folder: Path) -> dict[Path, str]:
    """The person of each clip of the older set."""
    with PEOPLE.open(encoding="utf-8", newline="") as file:
        return {folder / row["clip"]: row["person"] for row in csv.DictReader(file)}


def people_clips(folder: Path, known: dict[str, str]) -> dict[Path, str]:
    """The person of each clip of the newer set.

    Args:
        known: person by name of a clip of the older set.
    """
    clips = {}
    with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    alike = {
        row["person"]: known[row["looks_like_in_train"]]
        for row in rows
        if row["looks_like_in_train"] in known
    }
    for row in rows:
        digits = re.sub(r"[^0-9]", "", row["person"])
        clips[folder / row["file"]] = alike.get(row["person"], f"q{digits}")
    return clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--people", type=Path)
    arguments = parser.parse_args()
    clips = train_clips(arguments.train)
    if arguments.people:
        known = {clip.name: person for clip, person in clips.items()}
        clips |= people_clips(arguments.people, known)
    linked = 0
    for clip, person in clips.items():
        link = arguments.raw / person / clip.parent.name / clip.name
        if clip.exists() and not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(clip.absolute())
        linked += clip.exists()
    print(f"{linked} clips of {len(set(clips.values()))} people in {arguments.raw}")


if __name__ == "__main__":
    main()
