"""Looks at the machine: packages, devices, codecs, disk and memory."""

from __future__ import annotations

import base64
import importlib
import importlib.metadata
import io
import os
import platform
import re
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

from latentsync.doctor.check import (
    IMPORTED,
    SOURCE,
    Check,
    State,
    fault_of,
    in_words,
    install,
    load,
    pip_command,
    remedy_for,
    tried,
)

OLDEST_PYTHON = (3, 11)
OPTIONAL = {
    "ray": ("ray", "preprocess on several machines"),
}
# What every command imports: the name in Python, and the package.
LOADED = {**IMPORTED, "accelerate": "accelerate", "scenedetect": "scenedetect"}
ENCODERS = {  # what needs it
    "libx264": "sync, by default",
    "libx265": "sync --codec libx265",
    "h264_nvenc": "sync --codec h264_nvenc on an NVIDIA card",
    "aac": "audio that the container cannot take unchanged",
}
INSTEAD = {"h264_nvenc": "latentsync sync --codec libx264"}  # no package brings the card
USUAL_ENCODERS = ("libx264", "aac")
AV1_VIDEO = (
    "EgAKCgAAAAKv/41fMAgyFhAA7AI44ccDAAAIAYtKsBJx19dfwYASADIRMAIECSSSO/4AAAIAAAAAnFA="  # 2 black frames
)
WIDTH_PX, HEIGHT_PX, FRAMES, RATE_HZ = 256, 256, 2, 16_000
OUTPUT_BYTES = 1 << 30
RELEASED_BYTES = 6_000_000_000  # a released U-Net with its VAE and Whisper
COMPACT_GB = 1.5  # peak of `sync` with compact, see docs/benchmarks.md


def look_at_packages() -> list[Check]:
    """Python, and every package within the bounds that pyproject.toml states."""
    is_old = sys.version_info < OLDEST_PYTHON
    remedy = "install Python 3.11 or newer" if is_old else ""
    python = Check("Python", "missing" if is_old else "ok", platform.python_version(), remedy=remedy)
    try:
        stated = importlib.metadata.requires("latentsync") or []
    except importlib.metadata.PackageNotFoundError:
        return [python, Check("latentsync", "warning", "not installed", remedy=_install_source())]
    from packaging.requirements import Requirement

    torchvision = _torchvision()  # first: what is loaded below may need it
    checks = [python]
    for requirement in sorted(map(Requirement, stated), key=lambda requirement: requirement.name):
        extra, _ = OPTIONAL.get(requirement.name, ("", ""))
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            checks.append(_package(requirement.name, requirement.specifier))
    return [*checks, torchvision]


def _package(name: str, bounds: Any) -> Check:
    """One package: its version, and whether it loads; `bounds` is packaging's SpecifierSet."""
    extra, enables = OPTIONAL.get(name, ("", ""))
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "warning" if extra else "missing", "not installed", enables, install(name))
    module = next((module for module, package in LOADED.items() if package == name), None)
    error = None if module is None else fault_of(partial(load, module))
    if error is not None:
        return Check(name, "missing", in_words(error), enables, remedy_for(error, name))
    if bounds.contains(version, prereleases=True):
        return Check(name, "ok", f"{version} ({bounds})", enables)
    return Check(name, "warning", f"{version}, not {bounds}", enables, install(name))


def _install_source() -> str:
    return f"{pip_command()} install -e {shlex.quote(str(SOURCE))}"


def _torchvision() -> Check:
    """Whether torchvision imports beside this torch: as it is, or with two operators declared."""
    from latentsync.compat import make_torchvision_importable

    name, enables = "torchvision with torch", "diffusers, transformers, lpips"
    if fault_of(partial(importlib.import_module, "torchvision")) is None:
        return Check(name, "ok", "imports", enables)
    found = "imports once two of its operators are declared (CPU torch)"
    return tried(name, make_torchvision_importable, found, enables)


def look_at_devices() -> list[Check]:
    """What can compute, and how much of its memory is free."""
    error = fault_of(partial(importlib.import_module, "torch"))
    if error is not None:
        return [Check("torch", "missing", in_words(error), "everything", remedy_for(error))]
    torch = importlib.import_module("torch")
    enables = "the released models at a usable speed"
    checks = [Check("CPU", "ok", f"{torch.get_num_threads()} threads, {os.cpu_count()} cores")]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            found = f"{torch.cuda.get_device_name(number)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
            checks.append(Check(f"CUDA {number}", "ok", found, enables))
    elif shutil.which("nvidia-smi") and torch.version.cuda is None:
        found = "an NVIDIA driver is there, but torch is built for the CPU"
        checks.append(Check("CUDA", "warning", found, enables, install("torch", again=True)))
    else:
        checks.append(Check("CUDA", "ok", "none", enables))
    if sys.platform == "darwin":
        usable = "usable" if torch.backends.mps.is_available() else "none"
        checks.append(Check("MPS", "ok", usable, enables))
    return checks


def look_at_codecs() -> list[Check]:
    """Encoders, each of which encodes something here, and AV1, of which two frames are decoded."""
    importlib.import_module("av")
    again = install("av", again=True)
    checks = []
    for name, enables in ENCODERS.items():
        encode = partial(_encode_sound if name == "aac" else _encode_video, name)
        state: State = "missing" if name in USUAL_ENCODERS else "warning"
        checks.append(tried(name, encode, "encodes", enables, state=state, remedy=INSTEAD.get(name, again)))
    av1 = tried("AV1", _decode_av1, "decodes", "AV1 videos as input", state="warning", remedy=again)
    return [*checks, av1]


def _encode_video(codec: str) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        stream: Any = container.add_stream(codec, 25, quiet)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        for _ in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame(WIDTH_PX, HEIGHT_PX, "yuv420p")))
        container.mux(stream.encode())
    return file.getvalue()


def _encode_sound(codec: str) -> None:
    import av

    with av.open(io.BytesIO(), "w", format="matroska") as container:
        stream: Any = container.add_stream(codec, RATE_HZ)
        stream.layout = "mono"
        frame: Any = av.AudioFrame("fltp", "mono", 1024)
        frame.sample_rate = RATE_HZ
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _decode_av1() -> None:
    import av

    with av.open(io.BytesIO(base64.b64decode(AV1_VIDEO)), "r") as container:
        frames = len(list(container.decode(video=0)))
    if frames != FRAMES:
        raise ValueError(f"{frames} of {FRAMES} frames were decoded")


def look_at_room(folder: Path) -> list[Check]:
    """Free disk at the cache and where outputs go, and free memory."""
    from latentsync.weights.hub import cache_folder

    elsewhere = "export LATENTSYNC_CACHE=DIR"
    checks = [
        _disk("disk for outputs", folder, OUTPUT_BYTES, "latentsync sync -o DIR/FILE.mp4"),
        _disk("disk for weights", cache_folder(), RELEASED_BYTES, elsewhere),
    ]
    free_gb = free_memory_gb()
    if free_gb is None:
        return [*checks, Check("memory", "ok", "not known")]
    is_short = free_gb < COMPACT_GB
    remedy = "close other programs" if is_short else ""
    return [*checks, Check("memory", "warning" if is_short else "ok", f"{free_gb:.1f} GB free", "", remedy)]


def _disk(name: str, folder: Path, wanted_bytes: int, remedy: str) -> Check:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free_bytes = shutil.disk_usage(there).free
    found = f"{free_bytes / 1e9:.1f} GB free at {folder.absolute()}"
    faults = {
        f"{there} is a file, not a folder": not there.is_dir(),
        f"{there} cannot be written": not os.access(there, os.W_OK),
        f"{found}, {wanted_bytes / 1e9:.1f} GB wanted": free_bytes < wanted_bytes,
    }
    fault = next((words for words, is_so in faults.items() if is_so), None)
    return Check(name, "ok", found) if fault is None else Check(name, "warning", fault, "", remedy)


def free_memory_gb() -> float | None:
    """Memory that programs could take now, in 10^9 bytes; None where the system does not tell."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 / 1e9 if found else None
