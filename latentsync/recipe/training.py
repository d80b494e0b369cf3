"""Tables that the recipes of both trainings share. Work is counted in samples, so that a number means the
same whatever the batch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from latentsync.recipe.schema import Amount, Count, Names, Recipe, Share, Table

Precision = Literal["fp32", "fp16", "bf16"]

# What may change when a run is resumed: how long it is, and what changes no weight.
MAY_CHANGE = (
    "run.samples",
    "run.micro_batch_samples",
    "run.save_every_samples",
    "run.log_every_samples",
    "run.keep_last",
    "run.gradient_checkpointing",
    "run.sharding",
    "validation",
)


class OptimizerTable(Table):
    """The optimizer, its schedule and the clipping of gradients.

    kind            "adamw"; or "muon", which orthogonalises the updates of matrices and convolutions and
                    leaves the rest to AdamW: fewer steps for a small network; not with sharding
    warmup_samples  over which the learning rate rises from zero
    final_share     of the learning rate that "cosine" ends with
    """

    kind: Literal["adamw", "muon"]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Amount
    betas: tuple[Share, Share] = Field(strict=False)
    max_gradient_norm: Annotated[float, Field(gt=0)]
    schedule: Literal["constant", "cosine"]
    warmup_samples: Annotated[int, Field(ge=0)]
    final_share: Share


class RunTable(Table):
    """How long, how many at once, and how often something is written.

    batch_samples        behind one step of the optimizer, over all processes and accumulation
    micro_batch_samples  that one process computes at once: what memory is needed for
    average_decay        of the moving average of the weights, which is validated and given away; 0 is none
    sharding             "fsdp" spreads weights and optimizer over the cards
    """

    samples: Count
    batch_samples: Count
    micro_batch_samples: Count
    precision: Precision
    gradient_checkpointing: bool
    sharding: Literal["ddp", "fsdp"]
    average_decay: Annotated[float, Field(ge=0, lt=1)]
    log_every_samples: Count
    save_every_samples: Count
    keep_last: Count

    @model_validator(mode="after")
    def _batches_are_whole(self) -> RunTable:
        if self.batch_samples % self.micro_batch_samples:
            raise ValueError(
                f"batch_samples = {self.batch_samples} is not a multiple of"
                f" micro_batch_samples = {self.micro_batch_samples}"
            )
        if self.samples < self.batch_samples:
            raise ValueError(f"samples = {self.samples} is less than batch_samples = {self.batch_samples}")
        return self


class TrainingRecipe(Recipe):
    """What every training needs.

    held_out  name patterns of clips or people that are validated on and never trained on; without any, the
              manifest's own split is used
    """

    held_out: Names
    optimizer: OptimizerTable
    run: RunTable


class PictureAugmentation(Table):
    """How the frames of a window are changed, all alike. Zero is never; the reference changes nothing.

    mirror, blur, cutout          how often
    brightness, noise             standard deviations, where white is 1
    contrast, gamma, colour       standard deviations of the logarithm
    shift, scale, rotation_deg    standard deviations; shift and scale are shares of the side
    """

    mirror: Share
    brightness: Amount
    contrast: Amount
    gamma: Amount
    colour: Amount
    noise: Amount
    blur: Share
    cutout: Share
    shift: Annotated[float, Field(ge=0, le=0.2)]
    scale: Annotated[float, Field(ge=0, le=0.2)]
    rotation_deg: Annotated[float, Field(ge=0, le=20)]
