"""Stops commands with signals at random moments and counts what is lost, damaged or left behind.

    python benchmarks/reliability/kills.py sync VIDEO SPEECH --work DIR [--kills 20] [--seed 1] [--json FILE]
    python benchmarks/reliability/kills.py preprocess RAW --work DIR [--set cut.min_s=1 ...]
    python benchmarks/reliability/kills.py train-syncnet|train-unet DATA --work DIR [--flags "--recipe FILE"]

The command runs once undisturbed. Then it is started again and again, and SIGKILL, SIGTERM, SIGINT and SIGHUP
take turns after a random share of that time; `preprocess` and the trainings write into one folder, so every
run resumes the one before. The last run is not stopped, and its files are compared with the undisturbed ones.
The exit code is 1 if any differs, or a part, a process or a traceback is left. DIR must be new. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from processes import circumstances

RESULTS = Path(__file__).parents[1] / "results"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
END_S = 60.0
COMMAND = "from latentsync_cli.app import main\nif __name__ == '__main__':\n    main()\n"


def processes_of(mark: str) -> list[int]:
    """Processes that have `mark` in their environment: those that a run started, and theirs."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and f"KILLS_MARK={mark}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def stop(line: list[str], number: signal.Signals, *, after_s: float, mark: str) -> dict[str, Any]:
    """Start a command, stop it after a while, and tell how it ended; it may end before."""
    environment = {**os.environ, "KILLS_MARK": mark}
    run = subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True
    )
    try:
        _, stderr = run.communicate(timeout=after_s)
        is_stopped = False
    except subprocess.TimeoutExpired:
        run.send_signal(number)
        is_stopped = True
        try:
            _, stderr = run.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            run.kill()
            _, stderr = run.communicate()
            stderr += "\nTraceback: it did not end"
    end_s = time.monotonic() + END_S
    while (left := processes_of(mark)) and time.monotonic() < end_s:
        time.sleep(0.1)
    return {
        "signal": number.name,
        "after_s": round(after_s, 2),
        "is_stopped": is_stopped,
        "code": run.returncode,
        "has_traceback": "Traceback" in stderr,
        "last_line": stderr.strip().rsplit("\n", 1)[-1][-120:] if "Traceback" in stderr else "",
        "processes_left": len(left),
    }


def parts_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if ".part" in path.name)


def content(folder: Path) -> dict[str, bytes]:
    """The files that must not depend on interruptions: not logs and charts, which have times."""
    skipped = {"log", "checkpoints", "log.jsonl"}
    kept = {".mp4", ".parquet", ".jsonl", ".toml", ".safetensors"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in kept and not skipped & set(path.relative_to(folder).parts)
    }


def command(arguments: argparse.Namespace, out: Path) -> list[str]:
    """The command line; a script of its own, because spawned workers import the main module again."""
    script = arguments.work / "command.py"
    script.write_text(COMMAND, encoding="utf-8")
    inputs = [str(path) for path in arguments.inputs]
    settings = [word for value in arguments.settings for word in ("--set", value)]
    target = {
        "sync": [*inputs, "-o", str(out / "out.mp4"), "--force"],
        "preprocess": [*inputs, str(out)],
    }.get(arguments.what, ["--data", *inputs, "--output", str(out)])
    return [sys.executable, str(script), arguments.what, *target, *arguments.flags.split(), *settings]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("sync", "preprocess", "train-syncnet", "train-unet"))
    parser.add_argument("inputs", nargs="+", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    names = [number.name for number in SIGNALS]
    parser.add_argument("--signals", nargs="+", choices=names, default=names, help="that take turns")
    parser.add_argument("--flags", default="", help="more flags of the command, in one string")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    # A shell that starts this in the background has it ignore Ctrl-C, nohup SIGHUP; commands inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    whole, killed = arguments.work / "whole", arguments.work / "killed"
    for folder in (whole, killed):
        folder.mkdir(parents=True)
    before, started = circumstances(), time.monotonic()
    subprocess.run(command(arguments, whole), check=True, stdout=subprocess.DEVNULL)
    whole_s = time.monotonic() - started
    draw = random.Random(arguments.seed)
    signals = [signal.Signals[name] for name in arguments.signals]
    kills: list[dict[str, Any]] = []
    for index in range(arguments.kills):
        number, after_s = signals[index % len(signals)], draw.uniform(0.02, 1) * whole_s
        mark, before_it = f"{os.getpid()}-{index}", set(parts_in(killed))
        kills.append(stop(command(arguments, killed), number, after_s=after_s, mark=mark))
        kills[-1]["parts_left"] = sorted(set(parts_in(killed)) - before_it)
        print(kills[-1], flush=True)
        if not kills[-1]["is_stopped"]:  # it had finished: begin anew, so that there is something to stop
            shutil.rmtree(killed)
            killed.mkdir()
    subprocess.run(command(arguments, killed), check=True, stdout=subprocess.DEVNULL)
    expected, got = content(whole), content(killed)
    result = {
        "circumstances": before,
        "whole_s": round(whole_s, 1),
        "stopped": sum(one["is_stopped"] for one in kills),
        "tracebacks": sum(one["has_traceback"] for one in kills),
        "processes_left": sum(one["processes_left"] for one in kills),
        "parts_left_by_sigkill": sum(len(one["parts_left"]) > 0 for one in kills if one["code"] == -9),
        "parts_left_by_others": sum(len(one["parts_left"]) > 0 for one in kills if one["code"] != -9),
        "parts_left_at_the_end": parts_in(killed),
        "files": len(expected),
        "differing": sorted(
            name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name)
        ),
        "kills": kills,
    }
    target = arguments.json or RESULTS / f"kills_{arguments.what.replace('-', '_')}.json"
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "kills"}, indent=2))
    faults = ("tracebacks", "processes_left", "parts_left_at_the_end", "differing")
    return int(any(result[name] for name in faults))


if __name__ == "__main__":
    sys.exit(main())
