"""What a recipe of `latentsync train-unet` holds. Defaults are those of `recipes/stage2.toml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from latentsync.recipe.schema import Count, Recipe, Table
from latentsync.recipe.train_syncnet import Amount, OptimizerTable, PictureAugmentation, RunTable, Share


class LipWindows(Table):
    """What one sample is cut from: a window of target frames, and as many others of the same clip.

    frames         of a window, at 25 fps
    resolution     side of the aligned crop in pixels
    reference      "window": as many frames elsewhere; "frame": one, the same for all, which short clips allow
    reference_gap_frames  left out between the target and its reference, whose mouth may tell the target's
    balance        what is drawn evenly: "clip"; or "person" and then a clip of theirs
    audio_dropout  how often a whole window hears silence, so that guidance has something to lean on
    audio_noise    standard deviation of the noise on Whisper's states
    """

    frames: Annotated[int, Field(ge=1, le=64)] = 16
    resolution: Annotated[int, Field(ge=32, le=1024, multiple_of=16)] = 256
    reference: Literal["window", "frame"] = "window"
    reference_gap_frames: Annotated[int, Field(ge=0, le=250)] = 0
    balance: Literal["clip", "person"] = "clip"
    audio_dropout: Share = 0.0
    audio_noise: Amount = 0.0


class WeightsTable(Table):
    """Where networks come from: a name of `latentsync models list`, "compact" (in the package), or a path.

    start     what training begins with; "scratch" is nothing
    syncnet, temporal  are loaded only where their loss has a weight; "compact" is the packaged SyncNet for
                       both, whose visual tower then stands for the video encoder
    """

    start: str = "latentsync-1.5"
    vae: str = "sd-vae-ft-mse"
    whisper: str = "whisper-tiny"
    syncnet: str = "stable-syncnet"
    temporal: str = "videomae-v2"


class UNetSizes(Table):
    """Sizes of the U-Net; see `latentsync.models.unet.UNetConfig`.

    audio_dim   width of a Whisper state
    adapter_dim  width of an `AudioAdapter` between the states and the attention, 0 for none
    motion      whether layers are followed by attention between the frames
    view        "face": the whole aligned face is generated; "mouth": a window of half its side around mouth
                and chin
    """

    block_out_channels: tuple[Count, ...] = Field(default=(320, 640, 1280, 1280), strict=False, min_length=1)
    attention_levels: tuple[bool, ...] = Field(default=(True, True, True, False), strict=False)
    layers_per_block: Count = 2
    attention_head_dim: Count = 8
    norm_num_groups: Count = 32
    norm_over: Literal["window", "frame"] = "window"
    audio_dim: Count = 384
    adapter_dim: Annotated[int, Field(ge=0)] = 0
    motion: bool = True
    motion_place: Literal["everywhere", "decoder"] = "everywhere"
    motion_max_frames: Count = 24
    view: Literal["face", "mouth"] = "face"


class Wav2LipSizes(Table):
    """Sizes of the Wav2Lip generator; see `latentsync.models.wav2lip.Wav2LipConfig`."""

    resolution: Annotated[int, Field(ge=24, le=512)] = 96
    first_channels: Count = 16
    most_channels: Count = 512


class NoiseTable(Table):
    """The noise, and what is to be told from noisy latents.

    prediction      "noise", as the released weights; "clean": the latents, so that one step may do
    noisiest_share  how often the noisiest timestep is taken rather than any
    kind   "mixed": partly the same in all frames; "shared": the same; "independent": another in each
    alpha  of "mixed": the shared part has alpha² times the variance of the other
    """

    prediction: Literal["noise", "clean"] = "noise"
    noisiest_share: Share = 0.0
    kind: Literal["mixed", "shared", "independent"] = "mixed"
    alpha: Annotated[float, Field(ge=0, le=10)] = 1.0


class LossWeights(Table):
    """Weights of the parts of the objective. Zero leaves a part out and its network unloaded.

    noise            of the U-Net's prediction, where that is the noise
    clean            mean absolute error of predicted latents; the mouth counts `mouth` times, what is seen
                     anyway a quarter
    reconstruction   mean absolute error of pixels: of a Wav2Lip; and of the mouth, with its edges, beside
                     `clean`
    sync             of SyncNet, which sees decoded frames ("pixel") or the predicted latents ("latent")
    perceptual       LPIPS of the lower half
    trepa            distance of the features of a video encoder
    trepa_normalise  "mean" over the features, as the official code, or the paper's "sum", 1408 times that
    """

    noise: Amount = 1.0
    clean: Amount = 0.0
    mouth: Amount = 3.0
    reconstruction: Amount = 0.0
    sync: Amount = 0.05
    sync_space: Literal["pixel", "latent"] = "pixel"
    perceptual: Amount = 0.1
    trepa: Amount = 10.0
    trepa_normalise: Literal["mean", "sum"] = "mean"

    @property
    def is_decoded(self) -> bool:
        """Whether any part looks at pixels of what was predicted."""
        sees_pixels = self.sync > 0 and self.sync_space == "pixel"
        return sees_pixels or self.reconstruction > 0 or self.perceptual > 0 or self.trepa > 0


class LipValidation(Table):
    """How the network is tried on clips that it is not trained on.

    clips    so many, evenly over the list
    windows  of each clip, one after the other, made into a video and judged
    steps, guidance  of the denoising
    best_by  which checkpoint is given away: the last, or the best by loss or by Sync_conf
    """

    every_samples: Count = 320_000
    clips: Count = 4
    windows: Count = 4
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    guidance: Annotated[float, Field(ge=0, le=20)] = 1.5
    best_by: Literal["last", "loss", "confidence"] = "last"


STAGE2_RUN = RunTable(
    samples=3_200_000,
    batch_samples=32,
    micro_batch_samples=1,
    gradient_checkpointing=True,
    average_decay=0.0,
    log_every_samples=320,
    save_every_samples=320_000,
)


class UNetTrainingRecipe(Recipe):
    """`latentsync train-unet`.

    generator  what is trained: the diffusion U-Net, or Wav2Lip's generator for the paper's table 4
    held_out   name patterns of clips or people that are validated on and never trained on; without any, the
               manifest's own split is used
    trainable  a parameter is trained if its name contains one of these; empty: all are
    """

    generator: Literal["unet", "wav2lip"] = "unet"
    held_out: tuple[str, ...] = Field(default=(), strict=False)
    trainable: tuple[str, ...] = Field(default=("motion_modules.", "attentions."), strict=False)
    windows: LipWindows = LipWindows()
    weights: WeightsTable = WeightsTable()
    network: UNetSizes = UNetSizes()
    wav2lip: Wav2LipSizes = Wav2LipSizes()
    pictures: PictureAugmentation = PictureAugmentation()
    noise: NoiseTable = NoiseTable()
    loss: LossWeights = LossWeights()
    optimizer: OptimizerTable = OptimizerTable()
    run: RunTable = STAGE2_RUN
    validation: LipValidation = LipValidation()

    @model_validator(mode="after")
    def _parts_fit_together(self) -> UNetTrainingRecipe:
        loss, network = self.loss, self.network
        if len(network.attention_levels) != len(network.block_out_channels):
            raise ValueError(
                "network.attention_levels and network.block_out_channels must have one entry per level"
            )
        if network.motion and self.windows.frames > network.motion_max_frames:
            raise ValueError(
                f"windows.frames = {self.windows.frames} is over"
                f" network.motion_max_frames = {network.motion_max_frames}"
            )
        if network.motion and network.adapter_dim:
            raise ValueError("network.adapter_dim needs network.motion = false")
        if self.generator == "wav2lip" and self.windows.reference != "window":
            raise ValueError('generator = "wav2lip" needs windows.reference = "window"')
        self._refuse_other_objective()
        if self.generator == "wav2lip" and loss.sync and loss.sync_space == "latent":
            raise ValueError('generator = "wav2lip" has no latents: loss.sync_space must be "pixel"')
        return self

    def _refuse_other_objective(self) -> None:
        """What is predicted decides which part of the loss must be there, and which cannot."""
        loss = self.loss
        wanted, unwanted = {
            ("wav2lip", "noise"): ("reconstruction", ("noise", "clean")),
            ("wav2lip", "clean"): ("reconstruction", ("noise", "clean")),
            ("unet", "noise"): ("noise", ("clean", "reconstruction")),
            ("unet", "clean"): ("clean", ("noise",)),
        }[self.generator, self.noise.prediction]
        if getattr(loss, wanted) and not any(getattr(loss, name) for name in unwanted):
            return
        none = " and ".join(f"loss.{name} = 0" for name in unwanted)
        of = f'generator = "{self.generator}"'
        if self.generator == "unet":
            of += f' with noise.prediction = "{self.noise.prediction}"'
        raise ValueError(f"{of} needs loss.{wanted} above 0 and {none}")
