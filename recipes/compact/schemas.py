"""What the recipes hold by which the compact model is finished, once its networks are there."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from latentsync.recipe.networks import UNetConfig, VAEConfig
from latentsync.recipe.schema import Amount, Count, Names, Recipe, Table
from latentsync.recipe.training import PictureAugmentation

Rate = Annotated[float, Field(gt=0, le=1)]


class PredictedWindows(Table):
    """Which frames the U-Net speaks, once, to be decoded again and again.

    frames                that follow each other in a window
    per_person            most windows of one person, so that nobody with many clips outweighs the others
    reference_gap_frames  least distance of the frames that show who is speaking
    """

    frames: Annotated[int, Field(ge=2)]
    per_person: Count
    reference_gap_frames: Count


class DecoderLosses(Table):
    """Weights of what is minimised. "rebuilt" are pictures of true latents, "spoken" of predicted ones.

    mouth        the mouth's part of the rebuilt once more
    edge         edges beside colours, see `reconstruction_loss`
    coarse       spoken against real, in squares of `coarse_px`: what is finer cannot be known from speech
    motion       how rebuilt frames change from one to the next, against how the real ones do
    adversarial  rebuilt and spoken are to be taken for real
    features     what the discriminator sees in the rebuilt against what it sees in the real ones
    spoken_features  the same for the spoken ones, which are not quite the same mouths
    """

    mouth: Amount
    edge: Amount
    coarse: Amount
    coarse_px: Count
    motion: Amount
    adversarial: Amount
    features: Amount
    spoken_features: Amount


class DecoderRecipe(Recipe):
    """`recipes/compact/decoder.toml`.

    held_out           people or clips that are never trained on
    batch_pairs        pairs of frames that follow each other, behind one step
    adversarial_after  steps in which only the discriminator learns what is real
    """

    kind: ClassVar[str] = "compact/decoder"

    held_out: Names
    learning_rate: Rate
    discriminator_learning_rate: Rate
    warmup_steps: Count
    weight_decay: Amount
    average_decay: Annotated[float, Field(ge=0, lt=1)]
    save_every_steps: Count
    steps: Count
    batch_pairs: Count
    adversarial_after: Annotated[int, Field(ge=0)]
    discriminator_channels: tuple[Count, ...] = Field(strict=False, min_length=1)
    windows: PredictedWindows
    pictures: PictureAugmentation
    loss: DecoderLosses


class ClipGroup(Table):
    """Clips whose name matches `files` are drawn with this share of the whole."""

    files: str
    share: Annotated[float, Field(gt=0)]


class TrainingRecipe(Recipe):
    """What the compact model's trainings share.

    held_out  name patterns of the people that are never trained on
    """

    held_out: Names
    groups: tuple[ClipGroup, ...] = Field(strict=False)
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_steps: Count
    weight_decay: Annotated[float, Field(ge=0)]
    save_every_steps: Count


class VAEStage(Table):
    """Part of the training at one size of picture: `patch_px` pixels a side, `patches` in all."""

    patch_px: Annotated[int, Field(ge=16, multiple_of=8)]
    batch_patches: Count
    patches: Count


class VAERecipe(TrainingRecipe):
    """`recipes/compact/vae.toml`."""

    kind: ClassVar[str] = "compact/vae"

    edge_weight: Annotated[float, Field(ge=0)]
    mouth_weight: Annotated[float, Field(ge=0)]
    kl_weight: Annotated[float, Field(ge=0)]
    network: VAEConfig
    stages: tuple[VAEStage, ...] = Field(strict=False)


class Hearing(Table):
    """How the ear is prepared: it learns to tell lip shapes from speech before it serves the U-Net."""

    steps: Count
    batch_frames: Count
    learning_rate: Annotated[float, Field(gt=0)]
    noise: Annotated[float, Field(ge=0)]


class CompactUNetRecipe(TrainingRecipe):
    """`recipes/compact/unet.toml`.

    first_timestep_share  of the frames that are trained at the noisiest timestep, which one step starts from
    reference_gap_frames  least distance of the reference frame, where the clip is long enough
    pixel_share           last part of the training that also compares pixels of the mouth
    """

    kind: ClassVar[str] = "compact/unet"

    frames: Count
    batch_frames: Count
    average_decay: Annotated[float, Field(ge=0, lt=1)]
    first_timestep_share: Annotated[float, Field(ge=0, le=1)]
    reference_gap_frames: Count
    audio_dropout: Annotated[float, Field(ge=0, lt=1)]
    audio_noise: Annotated[float, Field(ge=0)]
    mouth_weight: Annotated[float, Field(ge=0)]
    kept_weight: Annotated[float, Field(ge=0)]
    pixel_weight: Annotated[float, Field(ge=0)]
    pixel_share: Annotated[float, Field(ge=0, le=1)]
    pixel_frames: Count
    adapter_learning_rate_share: Annotated[float, Field(ge=0, le=1)]
    network: UNetConfig
    hearing: Hearing
