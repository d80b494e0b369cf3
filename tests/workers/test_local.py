"""Processes of this machine: what they answer, and what is left when they or their parent die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from latentsync.errors import LatentSyncError, MemoryShortage, WeightsError
from latentsync.workers.local import LocalPool
from latentsync.workers.pool import Attempt, Rules, Task, WorkerFactory, run_tasks

Run = Callable[..., list[Attempt]]
PARENT = """
import sys
from functools import partial
from latentsync.workers.pool import Task, run_tasks
from latentsync.workers.local import LocalPool

if __name__ == "__main__":
    make = partial(eval, "lambda line: eval(line)")
    tasks = [
        Task("a", "open('pid', 'w').write(str(__import__('os').getpid()))"),
        Task("b", "__import__('time').sleep(60)"),
    ]
    for ended in run_tasks(LocalPool(make, workers=1), tasks):
        print("worked", flush=True)
"""


def test_every_task_is_answered_by_as_many_workers_as_there_are(make: WorkerFactory, run: Run) -> None:
    ends = run(LocalPool(make, workers=2), [f"({n}, time.sleep(0.05), os.getpid())" for n in range(8)])
    assert sorted(ended.answer[0] for ended in ends) == list(range(8))
    pids = {ended.answer[2] for ended in ends}
    assert len(pids) == 2 and os.getpid() not in pids
    assert not multiprocessing.active_children()


def test_no_more_workers_than_tasks(make: WorkerFactory) -> None:
    assert LocalPool(make, workers=8, most=3).size == 3


@pytest.mark.parametrize(
    ("line", "failure", "text"),
    [
        ("os._exit(3)", "crashed", "exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "crashed", "signal 9"),
        ("1 / 0", "error", "ZeroDivisionError: division by zero"),
        ("time.sleep(60)", "hung", "signal 9"),
    ],
)
def test_a_task_that_fails_is_tried_twice_and_takes_no_other_with_it(
    line: str, failure: str, text: str, make: WorkerFactory, run: Run
) -> None:
    ends = run(LocalPool(make, workers=1), ["1", line, "2"], Rules(limit_s=1.0))
    failed = [ended for ended in ends if ended.task.key == line]
    assert [(ended.failure, ended.fault.text, ended.is_final) for ended in failed] == [
        (failure, text, False),
        (failure, text, True),
    ]
    assert [ended.answer for ended in ends if ended.failure is None] == [1, 2]


def test_tries_of_an_earlier_run_count(make: WorkerFactory) -> None:
    ends = list(run_tasks(LocalPool(make, workers=1), [Task("a", "1 / 0", tries=1)]))
    assert [(ended.task.tries, ended.is_final) for ended in ends] == [(2, True)]


def test_one_thread_computes_in_a_worker_and_the_parent_keeps_its_own(
    make: WorkerFactory, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    (ended,) = run(LocalPool(make, workers=1), ["[os.environ[f'{n}_NUM_THREADS'] for n in ('OMP', 'MKL')]"])
    assert ended.answer == ["1", "1"]
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ


def test_what_a_worker_prints_does_not_reach_stdout(
    make: WorkerFactory, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    run(LocalPool(make, workers=1), ["print('printed', flush=True)"])
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "printed\n")


def test_a_full_disk_is_seen_behind_another_exception(make: WorkerFactory, run: Run) -> None:
    line = "(_ for _ in ()).throw(OSError(28, 'No space left on device', 'a.mp4'))"
    ends = run(LocalPool(make, workers=1), [line], Rules(tries=1))
    assert ends[0].fault.is_disk_full


def test_a_worker_that_cannot_start_says_why() -> None:
    error = "__import__('latentsync.errors').errors.WeightsError('no weights', hint='pull')"
    ours = f"(_ for _ in ()).throw({error})"
    with pytest.raises(WeightsError, match="no weights") as stopped:
        list(run_tasks(LocalPool(partial(eval, ours), workers=1), [Task("a", 1)]))
    assert stopped.value.hint == "pull"
    with pytest.raises(LatentSyncError, match="could not start: ZeroDivisionError"):
        list(run_tasks(LocalPool(partial(eval, "1 / 0"), workers=1), [Task("a", 1)]))
    with pytest.raises(MemoryShortage, match="exit code 5"):
        list(run_tasks(LocalPool(partial(os._exit, 5), workers=1), [Task("a", 1)]))


def test_stopping_early_ends_the_workers_and_names_what_was_in_hand(make: WorkerFactory) -> None:
    dropped: list[str] = []
    tasks = [Task("a", "1"), Task("b", "time.sleep(60)"), Task("c", "2")]
    ends = run_tasks(LocalPool(make, workers=1), tasks, drop=lambda task: dropped.append(task.key))
    assert next(ends).answer == 1
    ends.close()
    assert not multiprocessing.active_children()
    assert dropped in (["b"], [])  # none where it was not yet handed out


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(signum: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None and parent.stdout.readline() == "worked\n"
    worker = int((tmp_path / "pid").read_text())
    parent.send_signal(signum)
    parent.wait(60)
    end_s = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and time.monotonic() < end_s:
        time.sleep(0.02)
    assert not Path(f"/proc/{worker}").exists()
