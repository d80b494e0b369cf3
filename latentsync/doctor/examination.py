"""The examination: looks at everything in turn, then tries what the default `sync` needs."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from latentsync.doctor.check import (
    Ability,
    Check,
    DoctorJob,
    DoctorResult,
    guarded,
    in_words,
    install,
    install_own,
    remedy_for,
)
from latentsync.doctor.machine import (
    LOADED,
    free_memory_gb,
    look_at_codecs,
    look_at_devices,
    look_at_packages,
    look_at_room,
)
from latentsync.errors import MediaError, WeightsError
from latentsync.events import Plan, Progress, Report

if TYPE_CHECKING:
    from latentsync.weights.catalog import WeightsEntry

SUMS = "SHA256SUMS"
# What a model takes, in GB: on a card as its release states, on a CPU its fp32 weights and half that again.
CARD_GB = {"latentsync-1.0": 6.5, "latentsync-1.5": 8.0, "latentsync-1.6": 18.0}
CPU_GB = {"latentsync-1.0": 6.0, "latentsync-1.5": 8.5, "latentsync-1.6": 8.5}
OTHERS = {  # what else there is, and the catalogue's weights that it makes use of
    "preprocess": ("syncnet-v2", "hyperiqa", "fan"),
    "evaluate": ("syncnet-v2", "stable-syncnet", "inception", "i3d", "hyperiqa", "vgg-lpips"),
    "train-syncnet": ("sd-vae-ft-mse",),
    "train-unet": (
        "stable-syncnet",
        "sd-vae-ft-mse",
        "whisper-tiny",
        "vgg-lpips",
        "videomae-v2",
        "sd-1.5-unet",
    ),
}
NEEDED = (*LOADED.values(), "libx264")
SLOW = "on the CPU, minutes for a second of video"
SIDE_PX = 128


def run(job: DoctorJob, report: Report) -> DoctorResult:
    """Look at everything. Nothing that is missing or broken stops it, and nothing is changed."""
    groups: dict[str, Callable[[], list[Check]]] = {
        "packages": look_at_packages,
        "devices": look_at_devices,
        "codecs": look_at_codecs,
        "bundled weights": look_at_bundled,
        "weights": look_at_weights,
        "room": lambda: look_at_room(job.folder),
    }
    report(
        Plan(("checking packages, devices, codecs, weights and disk space; this imports every library once",))
    )
    checks: list[Check] = []
    for done, (group, look) in enumerate(groups.items()):
        report(Progress(group, done, len(groups) + 1, "groups"))
        checks += guarded(group, look)
    report(Progress("sync", len(groups), len(groups) + 1, "groups"))
    abilities = (_default_sync(), *_released_models(), *_others(checks))
    return DoctorResult(tuple(checks), abilities)


def look_at_bundled() -> list[Check]:
    """The files inside the package, by their checksums."""
    from latentsync.weights.named import BUNDLED

    lines = (BUNDLED / SUMS).read_text(encoding="utf-8").split("\n")
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines) if name}
    return [_bundled(BUNDLED / name, digest) for name, digest in sorted(expected.items())]


def _bundled(path: Path, digest: str) -> Check:
    enables = "sync without a download"
    if not path.is_file():
        return Check(path.name, "missing", f"{path} does not exist", enables, install_own())
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        return Check(path.name, "warning", "is not the file that was published", enables, install_own())
    return Check(path.name, "ok", f"{path.stat().st_size / 1e6:.1f} MB, whole", enables)


def look_at_weights() -> list[Check]:
    """Every entry of the catalogue: whether it is here, and as large as it should be."""
    from latentsync.weights.catalog import load_catalog

    return [_weights(name, entry) for name, entry in load_catalog().items()]


def _weights(name: str, entry: WeightsEntry) -> Check:
    from latentsync.weights.hub import is_present, path_of

    if not is_present(entry):
        remedy = f"latentsync models pull {name}"
        return Check(name, "missing", "not downloaded", entry.enables, remedy)
    size_bytes = path_of(entry).stat().st_size
    if entry.size_bytes not in (None, size_bytes):
        found = f"{path_of(entry)} has {size_bytes} bytes, expected {entry.size_bytes}"
        return Check(name, "warning", found, entry.enables, f"latentsync models pull --force {name}")
    return Check(name, "ok", "present", entry.enables)


def _default_sync() -> Ability:
    """Try what `sync` does with compact, short of the work: load, write a video, read it."""
    command = "latentsync sync VIDEO SPEECH"
    try:
        device = _load_compact()
        _write_and_read()
    except Exception as error:  # whatever it is, it would stop `sync` as well
        remedy = remedy_for(error)
        if isinstance(error, WeightsError):  # all weights that it needs are inside the package
            remedy = next((check.remedy for check in look_at_bundled() if check.state != "ok"), remedy)
        return Ability(command, False, in_words(error), remedy)
    return Ability(command, True, f"model compact on the device {device}")


def _load_compact() -> str:
    import torch

    from latentsync.faces.detect import Detector
    from latentsync.faces.landmarks import choose_landmarker
    from latentsync.runtime import choose_device
    from latentsync.weights.models import DEFAULT_MODEL, find_model, load_model

    load_model(find_model(DEFAULT_MODEL), device=torch.device("cpu"), dtype=torch.float32)
    Detector()
    choose_landmarker()
    return choose_device("auto").type


def _write_and_read() -> None:
    import numpy as np

    from latentsync.media.read import read_frames
    from latentsync.media.write import write_video

    with tempfile.TemporaryDirectory() as folder:
        path, picture = Path(folder) / "two.mp4", np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
        write_video(path, [picture, picture])
        frames = sum(1 for _ in read_frames(path))
    if frames != 2:
        raise MediaError(f"2 frames were written and {frames} read", hint=install("av", again=True))


def _released_models() -> Iterable[Ability]:
    for name in CARD_GB:
        try:
            yield _released(name)
        except Exception as error:
            yield Ability(f"latentsync sync --model {name}", False, in_words(error), remedy_for(error))


def _released(name: str) -> Ability:
    import torch

    from latentsync.weights.catalog import find_entry
    from latentsync.weights.hub import is_present

    command, entry = f"latentsync sync --model {name}", find_entry(name)
    missing = [part for part in (name, *entry.needs) if not is_present(find_entry(part))]
    if missing:
        return Ability(
            command, False, f"not downloaded: {', '.join(missing)}", f"latentsync models pull {name}"
        )
    if torch.cuda.is_available():
        has_gb, needs_gb, where = torch.cuda.mem_get_info()[0] / 1e9, CARD_GB[name], "on the card"
    else:
        has_gb, needs_gb, where = free_memory_gb() or CPU_GB[name], CPU_GB[name], SLOW
    if has_gb < needs_gb:
        reason = f"needs about {needs_gb:g} GB, but {has_gb:.1f} GB are free"
        return Ability(command, False, reason, "latentsync sync --model compact")
    return Ability(command, True, where)


def _others(checks: list[Check]) -> list[Ability]:
    """The commands that run without any of the catalogue's weights, and what more these would give them."""
    broken = next((check for check in checks if check.name in NEEDED and check.state == "missing"), None)
    if broken is not None:
        reason = f"{broken.name}: {broken.found}"
        return [Ability(f"latentsync {command}", False, reason, broken.remedy) for command in OTHERS]
    here = {check.name for check in checks if check.state == "ok"}
    abilities = []
    for command, weights in OTHERS.items():
        missing = [name for name in weights if name not in here]
        reason = f"more with {', '.join(missing)}" if missing else "with every optional network"
        abilities.append(Ability(f"latentsync {command}", True, reason))
    return abilities
