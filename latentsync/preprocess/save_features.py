"""After the last step, where the recipe asks for it: what training hears of a clip, by the clip's hash."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from latentsync.audio.mel import mel_spectrogram
from latentsync.audio.whisper import WhisperEncoder, encode_speech, load_whisper
from latentsync.manifest import features_path
from latentsync.media.read import read_audio
from latentsync.preprocess.step import RATE_HZ, Clip, Drop
from latentsync.recipe.preprocess import Features
from latentsync.weights.cache import need
from latentsync.weights.models import BUNDLED


@dataclass
class SaveFeatures:
    """Writes `features/AB/ABCD….mel.safetensors` and `….whisper.safetensors` for a clip with hash ABCD….

    Both are computed from the sound in the written clip, so that they equal what training would compute.
    mel      (80 t) float32, 80 columns a second
    whisper  (t n d) float16, 50 states a second; the file's metadata says by which Whisper
    """

    features: Features
    device: str = "cpu"
    name: str = "save_features"
    _whisper: WhisperEncoder | None = field(default=None, init=False, repr=False)

    def start(self) -> None:
        if self.features.whisper != "none":
            path = BUNDLED / "whisper-tiny-en.safetensors"
            path = need("whisper-tiny") if self.features.whisper == "tiny" else path
            self._whisper = load_whisper(path, device=self.device, dtype=torch.float32)

    def run(self, clip: Clip, out_dir: Path) -> Iterator[Clip | Drop]:
        if clip.written is None:
            raise ValueError("the clip is not written yet")
        samples = read_audio(out_dir / clip.written.name, rate_hz=RATE_HZ).samples
        place = features_path(out_dir, clip.written.sha256)
        if self.features.mel:
            _write(place.with_suffix(".mel.safetensors"), {"mel": mel_spectrogram(samples)}, {})
        if self._whisper is not None:
            states = encode_speech(self._whisper, samples).half()  # t n d
            metadata: dict[str, str] = {"whisper": self.features.whisper}
            _write(place.with_suffix(".whisper.safetensors"), {"whisper": states}, metadata)
        yield clip


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(3)}.part")
    try:
        part.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
