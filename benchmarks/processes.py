"""Runs a command and measures it from outside: exit code, seconds, peak memory. Linux only: reads /proc."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Measured:
    """How a command ended.

    seconds      by the clock
    processor_s  that its threads computed, which tells how far other work on the machine was in the way
    peak_mb      largest resident set of its process, in 10^6 bytes
    """

    exit_code: int
    stdout: str
    stderr: str
    seconds: float
    processor_s: float
    peak_mb: float


def memory_mb(pid: int | str = "self") -> tuple[float, float]:
    """Resident set of a process now and at its peak, in 10^6 bytes; zeros when it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0, 0.0
    found = {name: int(kilobytes) for name, kilobytes in re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", text)}
    return found.get("VmRSS", 0) * 1024 / 1e6, found.get("VmHWM", 0) * 1024 / 1e6


def measure(command: list[str], *, limit_s: float) -> Measured:
    """Run `command`; after `limit_s` it is interrupted as by Ctrl-C.

    The peak is the kernel's own mark, read until the process ends. What `wait4` tells afterwards would not
    do: it starts at the memory of the process that called it.
    """
    started, spent_s, peak_mb, is_interrupted = time.monotonic(), _children_s(), 0.0, False
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                peak_mb = max(peak_mb, memory_mb(process.pid)[1])
                if time.monotonic() - started > limit_s and not is_interrupted:
                    process.send_signal(2)
                    is_interrupted = True
                time.sleep(POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        seconds = time.monotonic() - started
        stdout.seek(0)
        stderr.seek(0)
        spent_s = _children_s() - spent_s
        return Measured(process.returncode, stdout.read(), stderr.read(), seconds, spent_s, peak_mb)


def _children_s() -> float:
    """Processor time of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def latentsync_command() -> str:
    """The executable that belongs to this Python."""
    return str(Path(sys.executable).with_name("latentsync"))


def circumstances() -> dict[str, object]:
    """What a number depends on besides the code: when, which machine, how busy it was."""
    processor = platform.processor()
    with contextlib.suppress(FileNotFoundError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 2),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "python": platform.python_version(),
    }
