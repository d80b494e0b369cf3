"""Real input for whole runs: our own portrait and speech, cut short."""

from __future__ import annotations

import hashlib
import os
import resource
import wave
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from latentsync.media.read import read_frames
from latentsync.media.write import Encoding
from latentsync.media.write import write_video as write_frames
from latentsync.models.unet import build_unet
from latentsync.types import FrameImage
from latentsync.weights.checkpoints import read_note, save_checkpoint
from latentsync.weights.named import BUNDLED
from tests.networks import TINY_UNET

DISK_BYTES = 60_000
EXAMPLES = Path(__file__).parents[2] / "examples"


WriteVideo = Callable[..., Path]


@pytest.fixture(scope="session")
def portrait() -> Path:
    return EXAMPLES / "portrait.mp4"


@pytest.fixture(scope="session")
def portrait_frames(portrait: Path) -> list[FrameImage]:
    return [frame.rgb_u8 for frame in read_frames(portrait, end_s=0.8)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the run."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def cut_speech() -> Callable[[Path, float], Path]:
    """Writes the first seconds of the spoken example."""

    def cut(path: Path, duration_s: float) -> Path:
        with wave.open(str(EXAMPLES / "speech.wav")) as source, wave.open(str(path), "wb") as target:
            target.setparams(source.getparams())
            target.writeframes(source.readframes(round(duration_s * source.getframerate())))
        return path

    return cut


@pytest.fixture(scope="session")
def write_video() -> WriteVideo:
    return partial(write_frames, encoding=Encoding(preset="ultrafast"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net that fits the bundled autoencoder and learnt nothing, where the picture does not matter."""
    torch.manual_seed(1)
    channels = read_note(BUNDLED / "vae.safetensors").config["latent_channels"]
    config = TINY_UNET.replaced(latent_channels=channels, audio_dim=384, adapter_dim=8, norm_over="frame")
    path = tmp_path_factory.mktemp("tiny") / "unet.safetensors"
    save_checkpoint(path, build_unet(config).state_dict(), kind="unet", config=config)
    return path


def contents(folder: Path) -> dict[str, str]:
    """What each file below a folder holds; folders are listed too."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = os.fspath(path.relative_to(folder))
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return found


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, str]]:
    return contents


def grey_frames(count: int, level: int = 0) -> list[FrameImage]:
    return [np.full((480, 480, 3), level, np.uint8)] * count


@pytest.fixture(scope="session")
def black_frames() -> Callable[[int], list[FrameImage]]:
    return grey_frames


@contextmanager
def limited_files() -> Iterator[None]:
    """No file may grow beyond `DISK_BYTES`; writing on fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (DISK_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def nearly_full_disk() -> Callable[[], AbstractContextManager[None]]:
    return limited_files
