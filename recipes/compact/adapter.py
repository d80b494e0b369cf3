"""Teaches the audio adapter to predict lip shapes from speech, before the U-Net is trained.

Without it a small U-Net spends its first thousands of steps on what it sees. What comes out is a U-Net of
random weights behind an adapter that is trained: a file for `weights.start` of `latentsync train-unet`.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from latentsync.audio.whisper import WhisperEncoder, encode_speech
from latentsync.audio.windows import states_for_frames
from latentsync.errors import RecipeError
from latentsync.events import Progress, Report
from latentsync.models.unet import LipUNet, build_unet
from latentsync.rates import AUDIO_HZ, WHISPER_STATES_PER_S
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.networks import UNetConfig
from latentsync.recipe.schema import Amount
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.train.loop import TrainingRun
from latentsync.weights.checkpoints import read_note, save_checkpoint
from latentsync.weights.named import BUNDLED
from latentsync.weights.read import read_tensors
from latentsync.weights.released import load_whisper
from recipes.compact.labelled_clips import LabelledClip, find_clips, matches_any
from recipes.compact.training import (
    Batch,
    Samples,
    TrainingRecipe,
    fingerprint,
    train_to_the_end,
)

LIP_POINTS = (*range(48, 68), *range(6, 11))  # lips and chin
LIP_SCALE_PX = 4.0  # about the standard deviation of an open mouth, so that what is predicted is near 1
PAUSE_SAMPLES = 6_400  # of silence between two clips that Whisper encodes together
SAMPLES_PER_STATE = AUDIO_HZ // WHISPER_STATES_PER_S
CLIPS_AT_ONCE = 64  # 320 s of 5 s clips: little memory, and hardly any padding to 30 s


class AdapterRecipe(TrainingRecipe):
    """`recipes/compact/adapter.toml`.

    unet         name or path of the `train-unet` recipe whose U-Net is begun
    audio_noise  standard deviation of the noise on Whisper's states
    """

    kind: ClassVar[str] = "compact/adapter"

    unet: str
    audio_noise: Amount


class LipShapePredictor(nn.Module):
    """A U-Net's audio adapter with a head for lip shapes; the rest of the U-Net is frozen, but saved."""

    def __init__(self, unet: LipUNet) -> None:
        super().__init__()
        if unet.adapter is None:
            raise RecipeError("the U-Net has no audio adapter", hint="set network.adapter_dim in its recipe")
        self.network = unet.network.requires_grad_(False)
        self.adapter = unet.adapter
        self.head = nn.Linear(unet.config.cross_attention_dim, 2 * len(LIP_POINTS))

    def forward(self, audio: Tensor) -> Tensor:
        """Whisper tokens (b n d) to lip shapes (b 50) in units of `LIP_SCALE_PX`."""
        _, summaries = self.adapter(audio)
        shapes: Tensor = self.head(summaries)
        return shapes


class LipShapeObjective:
    """Smooth L1 of predicted lip shapes: it forgives the few frames whose landmarks are wrong."""

    def __init__(self) -> None:
        self.weights = {"lips": 1.0}

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"lips": functional.smooth_l1_loss(model(batch["audio"]), batch["lips"])}


class LipShapeSamples:
    """Frames of the clips, all equally likely: `audio` (n d) Whisper tokens with noise, `lips` (50,)."""

    def __init__(self, states: list[Tensor], clips: list[LabelledClip], recipe: AdapterRecipe) -> None:
        self.states, self.noise = states, recipe.audio_noise
        self.times_s = [np.asarray(clip.read("time_s")) for clip in clips]
        self.lips = [torch.from_numpy(lip_shape(np.asarray(clip.read("points")))) for clip in clips]
        self.ends = np.cumsum([len(times_s) for times_s in self.times_s])

    def draw(self, random: np.random.Generator) -> Batch:
        frame = int(random.integers(self.ends[-1]))
        clip = int(np.searchsorted(self.ends, frame, side="right"))
        frame -= int(self.ends[clip]) - len(self.times_s[clip])
        audio = states_for_frames(self.states[clip], [float(self.times_s[clip][frame])])[0].float()  # n d
        noise = torch.from_numpy(random.standard_normal(audio.shape, dtype=np.float32))
        return {"audio": audio + self.noise * noise, "lips": self.lips[clip][frame] / LIP_SCALE_PX}


def run(data: Path, output: Path, recipe: AdapterRecipe, report: Report) -> Path:
    """Train the adapter on labelled clips, and return a U-Net file to start from.

    Raises:
        MediaError: there are no labelled clips.
        RecipeError: the U-Net has no adapter, or the checkpoint is of another recipe.
    """
    clips = [clip for clip in find_clips(data) if not matches_any(clip.name, recipe.held_out)]
    whisper = load_whisper(BUNDLED / "whisper-tiny-en.safetensors", device="cpu", dtype=torch.float32)
    states = encode_clips(clips, whisper, report)
    torch.manual_seed(recipe.seed)  # model initialisation
    unet = build_unet(start_config(recipe))
    weights = train_to_the_end(
        TrainingRun(
            recipe=recipe,
            model=LipShapePredictor(unet),
            network="network",
            kind="unet",
            config=unet.config,
            objective=LipShapeObjective(),
            samples=Samples(LipShapeSamples(states, clips, recipe).draw, recipe),
            data=fingerprint(clip.name for clip in clips),
            output=output,
        ),
        report,
    )
    target = output / "unet.safetensors"
    save_checkpoint(target, read_tensors(weights), kind="unet", config=unet.config)
    return target


def start_config(recipe: AdapterRecipe) -> UNetConfig:
    """The U-Net of the recipe that will be trained from the file, for latents of the bundled autoencoder."""
    channels = read_note(BUNDLED / "vae.safetensors").config["latent_channels"]
    return load_recipe(recipe.unet, UNetTrainingRecipe).network.replaced(latent_channels=channels)


def lip_shape(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """How lips and chin differ from their median in the clip: (f 68 2) to (f 50), in pixels of the crop.

    Against the nose, so that the head's movement does not count, and against the median, so that the shape
    of the face does not: neither can be known from speech.
    """
    nose = points[:, 27:36].mean(1, keepdims=True)
    shape = points[:, LIP_POINTS] - nose
    return np.asarray((shape - np.median(shape, axis=0)).reshape(len(points), -1), np.float32)


def encode_clips(clips: list[LabelledClip], whisper: WhisperEncoder, report: Report) -> list[Tensor]:
    """The Whisper states (t n d) float16 of each clip.

    Many clips are encoded together: a window of 30 s costs the same however much of it is padding, and in use
    a frame stands among other speech, not among padding.
    """
    states: list[Tensor] = []
    for first in range(0, len(clips), CLIPS_AT_ONCE):
        waves, spans, start = [], [], 0
        for clip in clips[first : first + CLIPS_AT_ONCE]:
            samples = np.asarray(clip.read("audio"), np.float32)
            count = -(-len(samples) // SAMPLES_PER_STATE)
            waves.append(np.pad(samples, (0, count * SAMPLES_PER_STATE - len(samples) + PAUSE_SAMPLES)))
            spans.append(slice(start, start + count))
            start += count + PAUSE_SAMPLES // SAMPLES_PER_STATE
        encoded = encode_speech(whisper, np.concatenate(waves)).half()
        states += [encoded[span] for span in spans]
        report(Progress("encoding speech", len(states), len(clips), "clips"))
    return states
