"""What a training recipe holds: the run, the optimizer, and all that `train-syncnet` adds to them.

Work is counted in samples, so that a number means the same whatever the batch. The defaults of the SyncNet
tables are those of `recipes/syncnet.toml`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from latentsync.recipe.schema import Count, Recipe, Table

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["fp32", "fp16", "bf16"]

# What may change when a run is continued: how long it goes on, and what moves no weight.
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
    """AdamW, its schedule and the clipping of gradients.

    warmup_samples  over which the learning rate rises from zero
    final_share     of the learning rate that "cosine" ends with
    """

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-5
    weight_decay: Amount = 0.01
    betas: tuple[Share, Share] = Field(default=(0.9, 0.999), strict=False)
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_samples: Annotated[int, Field(ge=0)] = 0
    final_share: Share = 0.0


class RunTable(Table):
    """How long, how many at once, and how often something is written.

    batch_samples        behind one step of the optimizer, over all processes and accumulation
    micro_batch_samples  that one process computes at once: what memory is needed for
    average_decay        of the moving average of the weights, which is validated and given away; 0 is none
    sharding             "fsdp" spreads weights and optimizer over the cards
    """

    samples: Count = 100_000_000
    batch_samples: Count = 1024
    micro_batch_samples: Count = 32
    precision: Precision = "fp16"
    gradient_checkpointing: bool = False
    sharding: Literal["ddp", "fsdp"] = "ddp"
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    log_every_samples: Count = 10_240
    save_every_samples: Count = 2_560_000
    keep_last: Count = 3

    @model_validator(mode="after")
    def _batches_are_whole(self) -> RunTable:
        if self.batch_samples % self.micro_batch_samples:
            raise ValueError(
                f"batch_samples = {self.batch_samples} is no multiple of"
                f" micro_batch_samples = {self.micro_batch_samples}"
            )
        if self.samples < self.batch_samples:
            raise ValueError(f"samples = {self.samples} is under one batch_samples = {self.batch_samples}")
        return self


class TowerTable(Table):
    """One tower; see `latentsync.models.syncnet.TowerConfig`."""

    channels: tuple[Count, ...] = Field(strict=False, min_length=1)
    factors: tuple[Count | tuple[Count, Count], ...] = Field(strict=False, min_length=1)
    attention: tuple[bool, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _one_entry_per_block(self) -> TowerTable:
        lengths = {len(self.channels), len(self.factors), len(self.attention) or len(self.channels)}
        if len(lengths) > 1:
            raise ValueError("channels, factors and attention must have one entry per block")
        return self


PAPER_VISUAL = TowerTable(
    channels=(64, 128, 256, 256, 512, 1024, 2048, 2048), factors=((1, 2), 2, 2, 2, 2, 2, 2, 2)
)
PAPER_AUDIO = TowerTable(
    channels=(32, 64, 128, 256, 512, 1024, 2048), factors=((2, 1), 2, 2, 1, 2, 2, (2, 3))
)


class FramewiseTable(Table):
    """Sizes of a SyncNet of kind "framewise"; see `latentsync.models.framewise.FramewiseConfig`.

    run_frames  that follow each other in a sample; every window in them is compared with all others
    """

    run_frames: Annotated[int, Field(ge=12, le=250)] = 30
    rows: Count = 48
    columns: Count = 72
    channels: tuple[Count, ...] = Field(default=(24, 32, 64, 96), strict=False, min_length=1)
    speech_width: Count = 192
    width: Annotated[int, Field(ge=2, multiple_of=2)] = 256
    dimension: Count = 256


class SyncNetNetwork(Table):
    """Sizes of the SyncNet; see `latentsync.models.syncnet.SyncNetConfig`.

    kind       "stable", the paper's; "wav2lip"; or "framewise", the bundled one: it hears Whisper, takes its
               sizes from the table `framewise` and leaves out everything but `frames` and `dropout` here
    vae        with space = "latent": the catalogue's name of the autoencoder whose latents are seen
    """

    kind: Literal["stable", "wav2lip", "framewise"] = "stable"
    framewise: FramewiseTable = FramewiseTable()
    frames: Annotated[int, Field(ge=2, le=250)] = 16
    resolution: Annotated[int, Field(ge=16, le=1024, multiple_of=8)] = 256
    space: Literal["pixel", "latent"] = "pixel"
    is_lower_half: bool = True
    norm_groups: Count = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    vae: str = "sd-vae-ft-mse"
    visual: TowerTable = PAPER_VISUAL
    audio: TowerTable = PAPER_AUDIO

    @model_validator(mode="after")
    def _towers_end_alike(self) -> SyncNetNetwork:
        if self.kind == "stable" and self.visual.channels[-1] != self.audio.channels[-1]:
            raise ValueError(
                f"the towers end with {self.visual.channels[-1]} and {self.audio.channels[-1]} channels"
            )
        return self


class NegativesTable(Table):
    """Which speech does not belong to the frames.

    policy   "reference": any other place of the same clip; "same_clip": at least min_distance_frames away;
             "mixed": as same_clip, but `other_clip_share` of them come from another clip
    pairing  "random_half": one window a sample, right or wrong half the time each; "in_clip_matrix":
             windows_per_clip windows a sample, each compared with the speech of all
    """

    policy: Literal["reference", "same_clip", "mixed"] = "reference"
    min_distance_frames: Count = 1
    other_clip_share: Share = 0.0
    pairing: Literal["random_half", "in_clip_matrix"] = "random_half"
    windows_per_clip: Annotated[int, Field(ge=2)] = 8

    @model_validator(mode="after")
    def _means_what_it_says(self) -> NegativesTable:
        if self.policy == "reference" and self.min_distance_frames != 1:
            raise ValueError('policy = "reference" takes any other place: min_distance_frames must be 1')
        if self.policy != "mixed" and self.other_clip_share:
            raise ValueError('other_clip_share needs policy = "mixed"')
        if self.policy == "mixed" and self.pairing == "in_clip_matrix":
            raise ValueError(
                'pairing = "in_clip_matrix" compares one clip with itself: not with policy "mixed"'
            )
        return self


class LossTable(Table):
    """What is minimised.

    kind         "bce": binary cross-entropy of the cosine; "contrastive": which speech of the clip is the
                 right one, both ways round, which needs pairing = "in_clip_matrix"
    temperature  that "contrastive" starts with; it is learnt
    """

    kind: Literal["bce", "contrastive"] = "bce"
    temperature: Annotated[float, Field(gt=0, le=10)] = 0.07


class PictureAugmentation(Table):
    """How the frames of a window are changed, all alike. Zero is never; the reference changes nothing.

    mirror, blur, cutout          how often
    brightness, noise             standard deviations, where white is 1
    contrast, gamma, colour       standard deviations of the logarithm
    shift, scale, rotation_deg    standard deviations; shift and scale are shares of the side
    """

    mirror: Share = 0.0
    brightness: Amount = 0.0
    contrast: Amount = 0.0
    gamma: Amount = 0.0
    colour: Amount = 0.0
    noise: Amount = 0.0
    blur: Share = 0.0
    cutout: Share = 0.0
    shift: Annotated[float, Field(ge=0, le=0.2)] = 0.0
    scale: Annotated[float, Field(ge=0, le=0.2)] = 0.0
    rotation_deg: Annotated[float, Field(ge=0, le=20)] = 0.0


class SpeechAugmentation(Table):
    """How a mel window is changed. Zero is never; the reference changes nothing.

    noise           standard deviation, where the mel lies in -4..4
    gain_db         largest change of loudness
    time_mask       most columns, frequency_mask most bands that are silenced at once
    other_speech    how often another clip is heard behind, other_speech_db below
    jitter_columns  most mel columns (of 12.5 ms) by which the speech is moved against the frames
    """

    noise: Amount = 0.0
    gain_db: Amount = 0.0
    time_mask: Annotated[int, Field(ge=0)] = 0
    frequency_mask: Annotated[int, Field(ge=0, lt=80)] = 0
    other_speech: Share = 0.0
    other_speech_db: Amount = 15.0
    jitter_columns: Annotated[int, Field(ge=0, le=6)] = 0


class SyncValidation(Table):
    """How the SyncNet is tried on people it was not trained on.

    clips             so many, evenly over the list
    windows_per_clip  windows that follow each other by one frame
    best_by           the measure by which the best checkpoint is chosen
    """

    every_samples: Count = 2_560_000
    clips: Count = 64
    windows_per_clip: Annotated[int, Field(ge=8)] = 48
    best_by: Literal["loss", "accuracy", "balanced_accuracy", "offset_accuracy"] = "loss"


class SyncNetRecipe(Recipe):
    """`latentsync train-syncnet`.

    held_out  name patterns of clips or people that are validated on and never trained on; without any, the
              manifest's own split is used
    """

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    held_out: tuple[str, ...] = Field(default=(), strict=False)
    network: SyncNetNetwork = SyncNetNetwork()
    negatives: NegativesTable = NegativesTable()
    loss: LossTable = LossTable()
    pictures: PictureAugmentation = PictureAugmentation()
    speech: SpeechAugmentation = SpeechAugmentation()
    optimizer: OptimizerTable = OptimizerTable()
    run: RunTable = RunTable()
    validation: SyncValidation = SyncValidation()

    @model_validator(mode="after")
    def _loss_has_its_pairs(self) -> SyncNetRecipe:
        if self.loss.kind == "contrastive" and self.negatives.pairing != "in_clip_matrix":
            raise ValueError('loss.kind = "contrastive" needs negatives.pairing = "in_clip_matrix"')
        if self.network.kind == "wav2lip" and self.run.gradient_checkpointing:
            raise ValueError('network.kind = "wav2lip" cannot take run.gradient_checkpointing = true')
        return self
