"""What a recipe of `latentsync train-unet` holds."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from latentsync.recipe.networks import UNetConfig, Wav2LipConfig
from latentsync.recipe.schema import Amount, Count, Names, Share, Table
from latentsync.recipe.training import PictureAugmentation, TrainingRecipe


class LipWindows(Table):
    """What one sample is cut from: a window of target frames, and as many others of the same clip.

    frames         of a window, at 25 fps
    resolution     side of the aligned crop in pixels
    reference      "window": as many frames elsewhere; "frame": one, the same for all, which short clips allow
    reference_gap_frames  left out between the target and its reference, whose mouth may tell the target's
    balance        what is drawn evenly: "clip"; or "person" and then a clip of theirs
    audio_context_frames  neighbouring frames whose speech conditions a frame, on either side: the paper's m
    audio_dropout  share of windows whose audio is silence, which classifier-free guidance needs
    audio_noise    standard deviation of the noise on Whisper's states
    """

    frames: Annotated[int, Field(ge=1, le=64)]
    resolution: Annotated[int, Field(ge=32, le=1024, multiple_of=16)]
    reference: Literal["window", "frame"]
    reference_gap_frames: Annotated[int, Field(ge=0, le=250)]
    balance: Literal["clip", "person"]
    audio_context_frames: Annotated[int, Field(ge=0, le=25)]
    audio_dropout: Share
    audio_noise: Amount


class WeightsTable(Table):
    """Where networks come from: a name of `latentsync models list`, "compact" (in the package), or a path.

    start     what training begins with; "scratch" is nothing
    syncnet, temporal  are loaded only where their loss has a weight; "compact" is the bundled SyncNet for
                       both, whose visual tower then replaces the video encoder
    """

    start: str
    vae: str
    whisper: str
    syncnet: str
    temporal: str


class NoiseTable(Table):
    """The noise, and what is to be told from noisy latents.

    prediction      "noise", as the released weights; "clean": the latents, so that one step may do
    noisiest_share  how often the noisiest timestep is taken rather than any
    kind   "mixed": partly the same in all frames; "shared": the same; "independent": another in each
    alpha  of "mixed": the shared part has alpha² times the variance of the other
    """

    prediction: Literal["noise", "clean"]
    noisiest_share: Share
    kind: Literal["mixed", "shared", "independent"]
    alpha: Annotated[float, Field(ge=0, le=10)]


class LossWeights(Table):
    """Weights of the parts of the objective. Zero leaves a part out and its network unloaded.

    noise            of the U-Net's prediction, where that is the noise
    clean            mean absolute error of predicted latents; the mouth counts `mouth` times, what is seen
                     anyway a quarter
    change           mean absolute difference of predicted latents and those of the reference, weighted as
                     `clean`: at a weight of 0.3 the reference stays where 65 % of what is possible does not
                     lie on one side of it, so that what cannot be known is not blurred
    reconstruction   mean absolute error of pixels: of a Wav2Lip; and of the mouth, with its edges, next to
                     `clean`
    warp             mean absolute error of the warped reference, and of the mouth in it with its edges; where
                     `clean` is 0, the warp is trained alone, by pixels
    sync             of SyncNet, which sees decoded frames ("pixel") or the predicted latents ("latent")
    adversarial      of a discriminator that is trained beside: of a Wav2Lip it sees the lower half of frames,
                     of a U-Net the predicted latents and the speech
    perceptual       LPIPS of the lower half
    trepa            distance of the features of a video encoder
    trepa_normalise  "mean" over the features, as the official code, or the paper's "sum", 1408 times that
    """

    noise: Amount
    clean: Amount
    mouth: Amount
    change: Amount
    reconstruction: Amount
    warp: Amount
    sync: Amount
    sync_space: Literal["pixel", "latent"]
    adversarial: Amount
    perceptual: Amount
    trepa: Amount
    trepa_normalise: Literal["mean", "sum"]


class LipValidation(Table):
    """How the network is tried on clips that it is not trained on.

    clips    how many, evenly over the list
    windows  of each clip, one after the other, made into a video and judged
    steps, guidance  of the denoising
    best_by  which checkpoint is given away: the last, or the best by loss or by Sync_conf
    """

    every_samples: Count
    clips: Count
    windows: Count
    steps: Annotated[int, Field(ge=1, le=1000)]
    guidance: Annotated[float, Field(ge=0, le=20)]
    best_by: Literal["last", "loss", "confidence"]


class UNetTrainingRecipe(TrainingRecipe):
    """`latentsync train-unet`.

    generator  what is trained: the diffusion U-Net, or Wav2Lip's generator for the paper's table 4
    trainable  a parameter is trained if its name contains one of these; empty: all are
    """

    kind: ClassVar[str] = "train-unet"
    base: ClassVar[str | None] = "stage2"

    generator: Literal["unet", "wav2lip"]
    trainable: Names
    windows: LipWindows
    weights: WeightsTable
    network: UNetConfig
    wav2lip: Wav2LipConfig
    pictures: PictureAugmentation
    noise: NoiseTable
    loss: LossWeights
    validation: LipValidation

    @model_validator(mode="after")
    def _parts_fit_together(self) -> UNetTrainingRecipe:
        loss, network = self.loss, self.network
        if network.motion and self.windows.frames > network.motion_max_frames:
            raise ValueError(
                f"windows.frames = {self.windows.frames} is over"
                f" network.motion_max_frames = {network.motion_max_frames}"
            )
        if network.adapter_dim and self.windows.audio_context_frames != 2:
            raise ValueError(
                f"windows.audio_context_frames = {self.windows.audio_context_frames} needs"
                " network.adapter_dim = 0: the audio adapter takes the Whisper states of two neighbours"
            )
        if self.generator == "wav2lip" and self.windows.reference != "window":
            raise ValueError('generator = "wav2lip" needs windows.reference = "window"')
        if self.generator == "unet" and loss.adversarial and self.noise.prediction != "clean":
            raise ValueError('loss.adversarial judges latents: it needs noise.prediction = "clean"')
        self._refuse_other_objective()
        if self.generator == "wav2lip" and loss.sync and loss.sync_space == "latent":
            raise ValueError('generator = "wav2lip" has no latents: loss.sync_space must be "pixel"')
        return self

    def _refuse_more_than_warp(self) -> None:
        """Where the warp is trained without the U-Net, there are no latents, and pixels are warped only."""
        loss = self.loss
        for name in ("change", "reconstruction", "adversarial"):
            if getattr(loss, name):
                raise ValueError(f"loss.warp without loss.clean trains the warp alone: loss.{name} must be 0")
        if loss.sync and loss.sync_space == "latent":
            raise ValueError('loss.warp without loss.clean has no latents: loss.sync_space must be "pixel"')

    def _refuse_other_objective(self) -> None:
        """What is predicted decides which part of the loss must be there, and which cannot."""
        loss = self.loss
        if loss.warp and not self.network.warp_widths:
            raise ValueError("loss.warp needs network.warp_widths")
        if loss.warp and not any((loss.noise, loss.clean)):
            self._refuse_more_than_warp()
            return
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
