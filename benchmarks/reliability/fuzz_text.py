"""Feeds damaged recipes, lists, logs and manifests to their readers and counts what comes out.

    python benchmarks/reliability/fuzz_text.py [--cases 400] [--seed 1] [--only recipe log] [--json FILE]

Each case is a good file with some changes; it depends only on the seed, the reader's name and the number of
the case. A reader may accept it, or refuse it with a LatentSyncError of one line and a hint. Everything else
is a fault: another exception, over 10 s, over 1 GB. The exit code is 1 if there is any. Linux only: readers
run in forked processes, which are killed when they hang.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

sys.path.append(str(Path(__file__).parents[1]))

from processes import circumstances, memory_mb

from latentsync.errors import LatentSyncError
from latentsync.evaluate.pairs import read_pairs
from latentsync.manifest import read_decisions, read_manifest
from latentsync.preprocess.run import collect
from latentsync.recipe.evaluate import EvaluateRecipe
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.preprocess import PreprocessRecipe
from latentsync.recipe.sync import SyncRecipe
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.recipe.train_unet import UNetTrainingRecipe

RESULTS = Path(__file__).parents[1] / "results" / "fuzz_text.json"
RECIPES = Path(__file__).parents[2] / "recipes"
LIMIT_S, LIMIT_MB = 10.0, 1000.0
SHOWN_FAULTS = 5
KINDS = {
    "sync": SyncRecipe,
    "preprocess": PreprocessRecipe,
    "evaluate": EvaluateRecipe,
    "syncnet": SyncNetRecipe,
    "stage2": UNetTrainingRecipe,
}
ROW = {
    "clip": "clips/a.mp4",
    "source": "a.mp4",
    "frames": 25,
    "resolution": 96,
    "split": "train",
    "person": "a",
    "sha256": "ab" * 32,
    "offset_frames": 0,
    "confidence": 1.5,
    "quality": 0.01,
}
DECISION = {
    **ROW,
    "outcome": "kept",
    "reason": "",
    "fps": 25,
    "start_s": 0.0,
    "end_s": 1.0,
    "offset_applied": True,
}
EVIL_TEXT = (
    *(
        "[" * 900,
        "{" * 100_000,
        "9" * 5000,
        "a." * 50_000,
        '"' + "a" * 200_000 + '"',
        "\0",
        "\udcff",
        "\u2028",
    ),
    *(
        "../../x",
        "/etc/passwd",
        "nan",
        "-inf",
        "1e999",
        "null",
        "true",
        "'",
        '"',
        '"""',
        "\r",
        "\n",
        ",",
        ";",
        "=",
        "#",
    ),
    *(
        "http://example.org/a.mp4",
        "/dev/zero",
        "~nobody/x",
        "a" * 300,
        "%s%n",
        "{}",
        "[]",
        "0x",
        "-",
        "1_0",
        "é" * 200,
    ),
)
EVIL_VALUES = (
    *(
        None,
        True,
        0,
        -1,
        2**63,
        -(2**70),
        0.5,
        float("nan"),
        float("inf"),
        "",
        "../../x",
        "/etc/passwd",
        "\0",
        "a" * 300,
    ),
    *("a" * 100_000, [], {}, [[[]]], {"a": 1}, ["train"], "train", "ab" * 32, "AB" * 32, b"\xff"),
)
Reader = Callable[[random.Random, Path], object]


def damaged(text: str, draw: random.Random) -> bytes:
    """Text with one to four changes at random places."""
    content = bytearray(text.encode())
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(content) + 1)
        kind = draw.randrange(6)
        if kind == 0:
            content[at:at] = draw.choice(EVIL_TEXT).encode("utf-8", "surrogateescape")
        elif kind == 1:
            del content[at : at + draw.choice((1, 1, 10, 1000))]
        elif kind == 2:
            content[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 3:
            content[at:at] = content[at : at + draw.choice((10, 100))] * draw.choice((1, 2, 50))
        elif kind == 4:
            end = content.find(b"\n", at)
            equals = content.rfind(b"=", 0, max(end, 0)) + 1
            content[equals : max(end, equals)] = draw.choice(EVIL_TEXT).encode("utf-8", "surrogateescape")
        else:
            content = content[:at]
    return bytes(content)


def changed(values: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Values with one to three of them replaced, removed or renamed."""
    values = dict(values)
    for key in draw.sample(sorted(values), draw.randint(1, 3)):
        kind = draw.randrange(6)
        if kind == 0:
            del values[key]
        elif kind == 1:
            values[f"{key}x"] = values.pop(key)
        else:
            values[key] = draw.choice(EVIL_VALUES)
    return values


def line_of(values: dict[str, Any], draw: random.Random) -> str:
    text = json.dumps(values, default=repr)
    return damaged(text, draw).decode("utf-8", "surrogateescape") if draw.random() < 0.3 else text


def recipe(draw: random.Random, folder: Path) -> object:
    name = draw.choice(sorted(KINDS))
    path = folder / "recipe.toml"
    path.write_bytes(damaged((RECIPES / f"{name}.toml").read_text(encoding="utf-8"), draw))
    return load_recipe(path, KINDS[name])


def override(draw: random.Random, folder: Path) -> object:
    name = draw.choice(sorted(KINDS))
    keys = ["seed", "sampling.steps", "paste.fade_s", "cut.min_s", "network.vae", "extends", "a.b"]
    text = draw.choice((f"{draw.choice(keys)}={draw.choice(EVIL_TEXT)}", f"{draw.choice(EVIL_TEXT)}=1"))
    return load_recipe(name, KINDS[name], overrides=[text])


def manifest(draw: random.Random, folder: Path) -> object:
    path = folder / "manifest.parquet"
    rows = [changed(ROW, draw) if draw.random() < 0.8 else ROW for _ in range(draw.randint(1, 3))]
    try:
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    except (pyarrow.ArrowException, OverflowError, UnicodeError):  # columns of several types
        parquet.write_table(pyarrow.Table.from_pylist([ROW]), path)
    if draw.random() < 0.4:
        content = bytearray(path.read_bytes())
        for _ in range(draw.choice((1, 8, 64))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content[: draw.choice((len(content), draw.randrange(len(content))))])
    return read_manifest(path)


def decisions(draw: random.Random, folder: Path) -> object:
    lines = [json.dumps(DECISION), line_of(changed(DECISION, draw), draw)]
    (folder / "decisions.jsonl").write_bytes("\n".join([*lines, ""]).encode("utf-8", "surrogateescape"))
    return read_decisions(folder)


def log(draw: random.Random, folder: Path) -> object:
    entry = {"key": "a.mp4", "at_s": 1.0, "bytes": 10, "decisions": [DECISION], "took_s": 1.0, "step_s": {}}
    lines = [
        line_of(changed(entry, draw), draw),
        line_of({**entry, "decisions": [changed(DECISION, draw)]}, draw),
    ]
    (folder / "log").mkdir(exist_ok=True)
    content = "\n".join([*lines, ""]).encode("utf-8", "surrogateescape")
    (folder / "log" / "shard-1-of-1.jsonl").write_bytes(content)
    return collect(folder)


def pairs(draw: random.Random, folder: Path) -> object:
    text = "name,video,speech,speaker_video\na,clips/a.mp4,clips/a.mp4,\nb,clips/a.mp4,/tmp/b.wav,\n"
    (folder / "pairs.csv").write_bytes(damaged(text, draw))
    return read_pairs(folder / "pairs.csv")


READERS: dict[str, Reader] = {
    one.__name__: one for one in (recipe, override, manifest, decisions, log, pairs)
}


def read_case(name: str, number: int, seed: int, folder: Path) -> tuple[str, str]:
    """Run one case; returns its outcome, and what was raised if that is a fault."""
    try:
        READERS[name](random.Random(f"{seed}/{name}/{number}"), folder)
    except LatentSyncError as error:
        if "\n" in str(error) or not error.hint:
            return "no single line with a hint", repr(error)[:200]
        return "refused", ""
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return (
            "traceback",
            f"{type(error).__name__}: {str(error)[:160]} ({Path(at.filename).name}:{at.lineno})",
        )
    return "accepted", ""


def serve(name: str, first: int, cases: int, seed: int, pipe: Connection) -> None:
    """Run cases from `first` on, and send the outcome of each with the peak of the memory so far."""
    with tempfile.TemporaryDirectory() as inside:
        folder = Path(inside)
        (folder / "clips").mkdir()
        (folder / "clips" / "a.mp4").touch()
        for number in range(first, cases):
            pipe.send((number, *read_case(name, number, seed, folder), memory_mb()[1]))


def fuzz(name: str, *, cases: int, seed: int) -> dict[str, Any]:
    """All cases of one reader. A process that hangs or grows is replaced, and the next one skips the case."""
    outcomes: Counter[str] = Counter()
    faults: list[dict[str, object]] = []
    peak_mb, slowest_s, at = 0.0, 0.0, 0
    context = multiprocessing.get_context("fork")
    while at < cases:
        ours, theirs = context.Pipe()
        worker = context.Process(target=serve, args=(name, at, cases, seed, theirs), daemon=True)
        worker.start()
        theirs.close()
        base_mb, is_alive = memory_mb(worker.pid or 0)[1], True
        while is_alive and at < cases:
            started = time.monotonic()
            outcome, detail, used_mb = "hang", "", 0.0
            if ours.poll(LIMIT_S):
                try:
                    _, outcome, detail, used_mb = ours.recv()
                except EOFError:
                    outcome = "died"
            if used_mb - base_mb > LIMIT_MB:
                outcome, detail = "memory", f"{used_mb - base_mb:.0f} MB"
            is_alive = outcome not in ("hang", "died", "memory")
            slowest_s = max(slowest_s, time.monotonic() - started)
            peak_mb = max(peak_mb, used_mb - base_mb)
            outcomes[outcome] += 1
            if outcome not in ("accepted", "refused") and len(faults) < SHOWN_FAULTS:
                faults.append({"case": at, "outcome": outcome, "detail": detail})
            at += 1
        worker.kill()
        worker.join()
    return {
        "cases": cases,
        "outcomes": dict(outcomes.most_common()),
        "faults": faults,
        "slowest_s": round(slowest_s, 2),
        "memory_added_mb": round(peak_mb),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=400, help="of each reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=sorted(READERS), default=list(READERS))
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    before, started = circumstances(), time.monotonic()
    readers = {}
    for name in arguments.only:
        readers[name] = fuzz(name, cases=arguments.cases, seed=arguments.seed)
        print(name, json.dumps(readers[name], indent=2), flush=True)
    took_s = round(time.monotonic() - started, 1)
    result = {"circumstances": before, "seed": arguments.seed, "took_s": took_s, "readers": readers}
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    are_good = all(set(one["outcomes"]) <= {"accepted", "refused"} for one in readers.values())
    print(f"{len(readers) * arguments.cases} cases in {took_s} s: {'no fault' if are_good else 'faults'}")
    return int(not are_good)


if __name__ == "__main__":
    sys.exit(main())
