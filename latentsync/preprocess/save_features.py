"""Optional last step: saves the audio features of a clip for training, under the hash of the clip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from latentsync.audio.mel import mel_spectrogram
from latentsync.audio.whisper import WhisperEncoder, encode_speech
from latentsync.files import whole_or_nothing
from latentsync.manifest import features_path
from latentsync.media.sound import read_audio
from latentsync.preprocess.step import Clip, Drop
from latentsync.rates import AUDIO_HZ
from latentsync.recipe.preprocess import Features
from latentsync.weights.hub import need
from latentsync.weights.named import BUNDLED
from latentsync.weights.released import load_whisper


@dataclass
class SaveFeatures:
    """Writes `features/AB/ABCD….mel.safetensors` and `….whisper.safetensors` for a clip with hash ABCD….

    Both are computed from the audio of the written clip, so that they equal what training would compute.
    mel      (80 t) float32, 80 columns per second
    whisper  (t n d) float16, 50 states per second; the file's metadata names the Whisper
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
        samples = read_audio(out_dir / clip.written.name, rate_hz=AUDIO_HZ).samples
        path = features_path(out_dir, clip.written.sha256)
        if self.features.mel:
            _write(path.with_suffix(".mel.safetensors"), {"mel": mel_spectrogram(samples)}, {})
        if self._whisper is not None:
            # Half precision halves 23 MB a minute; training computes in its own format.
            states = encode_speech(self._whisper, samples).half()  # t n d
            metadata: dict[str, str] = {"whisper": self.features.whisper}
            _write(path.with_suffix(".whisper.safetensors"), {"whisper": states}, metadata)
        yield clip


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_nothing(path) as part:
        part.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))
