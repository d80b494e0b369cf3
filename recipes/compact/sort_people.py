"""Makes a raw folder for `latentsync preprocess` in which every person has a folder of links.

    python recipes/compact/sort_people.py TRAIN_DIR RAW_DIR
    latentsync preprocess RAW_DIR OUT --recipe compact/preprocess --set 'split.person_pattern="(p[0-9]{2})/"'

TRAIN_DIR holds the clips that `people.csv` names; clips that are not there are left out. The people in it are
groups of faces that look alike to a face recogniser (docs/experiments.md), not names.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

PEOPLE = Path(__file__).with_name("people.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("raw", type=Path)
    arguments = parser.parse_args()
    linked = 0
    with PEOPLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            source = (arguments.train / row["clip"]).absolute()
            link = arguments.raw / row["person"] / row["clip"]
            if source.exists() and not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(source)
            linked += source.exists()
    print(f"{linked} clips in {arguments.raw}")


if __name__ == "__main__":
    main()
