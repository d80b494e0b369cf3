"""What the recipes hold by which the compact model is finished, once its networks are there."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from latentsync.recipe.schema import Count, Recipe, Table
from latentsync.recipe.training import Amount, PictureAugmentation

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

    held_out: tuple[str, ...] = Field((), strict=False)
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
