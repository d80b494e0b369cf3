"""What a recipe of `latentsync train-syncnet` holds."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from latentsync.recipe.networks import FramewiseConfig, SyncNetConfig
from latentsync.recipe.schema import Amount, Count, Share, Table
from latentsync.recipe.training import PictureAugmentation, TrainingRecipe


class SyncNetWeights(Table):
    """Where other networks come from.

    vae  with network.space = "latent": the autoencoder whose latents are seen, as `train-unet` names it
    """

    vae: str


class NegativesTable(Table):
    """Which speech does not belong to the frames.

    policy   "reference": any other position in the same clip; "same_clip": at least min_distance_frames away;
             "mixed": as same_clip, but `other_clip_share` of them come from another clip
    pairing  "random_half": one window a sample, right or wrong half the time each; "in_clip_matrix":
             windows_per_clip windows a sample, each compared with the speech of all
    run_frames  of a framewise network's sample: frames that follow each other, whose windows are all compared
    """

    policy: Literal["reference", "same_clip", "mixed"]
    min_distance_frames: Count
    other_clip_share: Share
    pairing: Literal["random_half", "in_clip_matrix"]
    windows_per_clip: Annotated[int, Field(ge=2)]
    run_frames: Annotated[int, Field(ge=12, le=250)]

    @model_validator(mode="after")
    def _is_consistent(self) -> NegativesTable:
        if self.policy == "reference" and self.min_distance_frames != 1:
            raise ValueError('policy = "reference" needs min_distance_frames = 1')
        if self.policy != "mixed" and self.other_clip_share:
            raise ValueError('other_clip_share needs policy = "mixed"')
        if self.policy == "mixed" and self.pairing == "in_clip_matrix":
            raise ValueError('pairing = "in_clip_matrix" cannot be combined with policy = "mixed"')
        return self


class LossTable(Table):
    """What is minimised.

    kind         "bce": binary cross-entropy of the cosine; "contrastive": which speech of the clip is the
                 right one, both ways round, which needs pairing = "in_clip_matrix"
    temperature  that "contrastive" starts with; it is learnt
    """

    kind: Literal["bce", "contrastive"]
    temperature: Annotated[float, Field(gt=0, le=10)]


class SpeechAugmentation(Table):
    """How a mel window is changed. Zero is never; the reference changes nothing.

    noise           standard deviation, where the mel lies in -4..4
    gain_db         largest change of loudness
    time_mask       most columns, frequency_mask most bands that are silenced at once
    other_speech    share of samples with another clip's speech mixed in, other_speech_db below
    jitter_columns  most mel columns (of 12.5 ms) by which the speech is moved against the frames
    """

    noise: Amount
    gain_db: Amount
    time_mask: Annotated[int, Field(ge=0)]
    frequency_mask: Annotated[int, Field(ge=0, lt=80)]
    other_speech: Share
    other_speech_db: Amount
    jitter_columns: Annotated[int, Field(ge=0, le=6)]


class SyncValidation(Table):
    """How the SyncNet is tried on people it was not trained on.

    clips             how many, evenly over the list
    windows_per_clip  windows that follow each other by one frame
    best_by           the measure by which the best checkpoint is chosen
    """

    every_samples: Count
    clips: Count
    windows_per_clip: Annotated[int, Field(ge=8)]
    best_by: Literal["loss", "accuracy", "balanced_accuracy", "offset_accuracy"]


class SyncNetRecipe(TrainingRecipe):
    """`latentsync train-syncnet`.

    syncnet   what is trained: "windowed", which sees the frames of a window in one picture and a mel, as the
              paper's, of the sizes in `network`; or "framewise", which sees each frame by itself and the
              states of the bundled Whisper, of the sizes in `framewise`
    """

    kind: ClassVar[str] = "train-syncnet"
    base: ClassVar[str | None] = "syncnet"

    syncnet: Literal["windowed", "framewise"]
    weights: SyncNetWeights
    network: SyncNetConfig
    framewise: FramewiseConfig
    negatives: NegativesTable
    loss: LossTable
    pictures: PictureAugmentation
    speech: SpeechAugmentation
    validation: SyncValidation

    @classmethod
    def renamed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Before version 0.1 the table `network` held both kinds of SyncNet and the VAE's name."""
        if not isinstance(values.get("network"), dict):
            return values
        network = dict(values["network"])
        moved: dict[str, Any] = {"network": network}
        if "vae" in network:
            moved["weights"] = {**values.get("weights", {}), "vae": network.pop("vae")}
        framewise = dict(network.pop("framewise", {}))
        if "run_frames" in framewise:
            moved["negatives"] = {**values.get("negatives", {}), "run_frames": framewise.pop("run_frames")}
        if network.get("kind") == "framewise":
            moved["syncnet"] = network.pop("kind")
            shared = {name: network.pop(name) for name in ("frames", "dropout") if name in network}
            framewise = {**shared, **framewise}
        if framewise:
            moved["framewise"] = {**values.get("framewise", {}), **framewise}
        return {**values, **moved}

    @model_validator(mode="after")
    def _parts_fit_together(self) -> SyncNetRecipe:
        if self.loss.kind == "contrastive" and self.negatives.pairing != "in_clip_matrix":
            raise ValueError('loss.kind = "contrastive" needs negatives.pairing = "in_clip_matrix"')
        is_wav2lip = self.syncnet == "windowed" and self.network.kind == "wav2lip"
        if is_wav2lip and self.run.gradient_checkpointing:
            raise ValueError('network.kind = "wav2lip" cannot take run.gradient_checkpointing = true')
        return self
