"""Finishes the decoder of the bundled autoencoder on what its U-Net predicts; the encoder stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from latentsync.errors import MediaError
from latentsync.events import Report
from latentsync.faces.align import mouth_mask
from latentsync.models.vae import FaceVAE
from latentsync.recipe.schema import Amount, Count, Table
from latentsync.recipe.training import PictureAugmentation
from latentsync.train.clips import FeatureFiles, find_clips, fingerprint
from latentsync.train.loop import TrainingRun
from latentsync.train.losses import mouth_region, reconstruction_loss
from latentsync.train.unet.data import AudioFeatures
from latentsync.weights.catalog import COMPACT
from latentsync.weights.checkpoints import save_checkpoint
from latentsync.weights.models import find_model, load_model
from recipes.compact.discriminator import PatchDiscriminator, feature_loss, hinge_loss
from recipes.compact.predicted import (
    PredictedWindow,
    Predictor,
    WindowsTable,
    load_window,
    plan_windows,
    predict_windows,
)
from recipes.compact.training import (
    Batch,
    Samples,
    TrainingRecipe,
    coarse_loss,
    halves,
    train_to_the_end,
)

# What the discriminator sees of a crop, as shares of its side: the mouth and its surroundings, all hidden.
JUDGED_ROWS = (0.4375, 0.9375)
JUDGED_COLUMNS = (0.1875, 0.8125)


class DecoderLosses(Table):
    """Weights of what is minimised. "rebuilt" are pictures of true latents, "predicted" of the U-Net's.

    mouth        of the rebuilt, once more
    edge         of edges, beside colours; see `reconstruction_loss`
    coarse       predicted against real, in squares of `coarse_px`: finer detail cannot be known from speech
    motion       how rebuilt frames change from one to the next, against how the real ones do
    adversarial  rebuilt and predicted shall be taken for real
    features     of the discriminator: the rebuilt against the real
    predicted_features  the predicted against the real, which are not quite the same mouths
    """

    mouth: Amount
    edge: Amount
    coarse: Amount
    coarse_px: Count
    motion: Amount
    adversarial: Amount
    features: Amount
    predicted_features: Amount


class DecoderRecipe(TrainingRecipe):
    """`recipes/compact/decoder.toml`. A sample is a pair of frames that follow each other.

    adversarial_after_samples  until then only the discriminator learns what is real
    discriminator_learning_rate_share  of the learning rate: a discriminator that learns faster stays ahead
    """

    kind: ClassVar[str] = "compact/decoder"

    adversarial_after_samples: Annotated[int, Field(ge=0)]
    discriminator_channels: tuple[Count, ...] = Field(strict=False, min_length=1)
    discriminator_learning_rate_share: Annotated[float, Field(gt=0)]
    windows: WindowsTable
    pictures: PictureAugmentation
    loss: DecoderLosses


class DecoderInTraining(nn.Module):
    """The autoencoder's network, of which only the decoder is trained, and the discriminator."""

    def __init__(self, vae: FaceVAE, discriminator: PatchDiscriminator) -> None:
        super().__init__()
        self.network = vae.network.requires_grad_(False)
        self.network.post_quant_conv.requires_grad_(True)
        self.network.decoder.requires_grad_(True)
        self.discriminator = discriminator


class DecoderObjective:
    """Reconstruction, and an adversarial loss against a discriminator that learns in the same step."""

    def __init__(self, vae: FaceVAE, recipe: DecoderRecipe, *, side_px: int) -> None:
        self.vae, self.recipe = vae, recipe
        self.hidden = 1 - torch.from_numpy(mouth_mask(side_px))  # h w, 1 where generated
        rows, columns = (
            slice(*(int(share * side_px) for share in ends)) for ends in (JUDGED_ROWS, JUDGED_COLUMNS)
        )
        self.judged = (slice(None), slice(None), rows, columns)

    @property
    def weights(self) -> dict[str, float]:
        """Of the losses; those of the discriminator's judgement are 0 until it has learnt a little."""
        weights = self.recipe.loss.model_dump(exclude={"edge", "coarse_px"})
        return {"rebuilt": 1.0, "discriminator": 1.0, **weights}

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        real = batch["crops_u8"].flatten(0, 1).permute(0, 3, 1, 2) / 127.5 - 1  # n c h w
        latents = torch.cat([batch[name].flatten(0, 1).float() for name in ("true", "predicted")])
        made = self.vae.decode(latents)  # 2n c h w: rebuilt, then predicted
        shown = self.paste(made, real.repeat(2, 1, 1, 1))
        is_on = int(batch["number"].min()) >= self.recipe.adversarial_after_samples
        discriminator: PatchDiscriminator = model.discriminator
        judgement = self.judgement(discriminator, real, shown)
        return {
            **self.differences(real, made[: len(real)], shown[len(real) :]),
            **{name: loss if is_on else loss.detach() * 0 for name, loss in judgement.items()},
            "discriminator": self.discriminator_loss(discriminator, real, shown.detach()),
        }

    def paste(self, made: Tensor, real: Tensor) -> Tensor:
        """Put what the mask hides of `made` into `real` (n c h w), in the tint of what it keeps.

        Source: ours; latents do not hold every tint, and `sync` matches colours, too.
        """
        kept = 1 - self.hidden
        tint = ((real - made) * kept).sum((2, 3), keepdim=True) / kept.sum()
        return torch.lerp(real, made + tint.detach(), self.hidden)

    def differences(self, real: Tensor, rebuilt: Tensor, predicted: Tensor) -> dict[str, Tensor]:
        """Losses against the real frames (n c h w); pairs of frames follow each other."""
        edge, (rows, columns) = self.recipe.loss.edge, mouth_region(real.shape[2])
        mouths = rebuilt[:, :, rows, columns], real[:, :, rows, columns]
        return {
            "rebuilt": reconstruction_loss(rebuilt, real, edge_weight=edge),
            "mouth": reconstruction_loss(*mouths, edge_weight=edge),
            "motion": functional.l1_loss(rebuilt[1::2] - rebuilt[::2], real[1::2] - real[::2]),
            "coarse": coarse_loss(predicted, real, square_px=self.recipe.loss.coarse_px),
        }

    def judgement(self, discriminator: PatchDiscriminator, real: Tensor, shown: Tensor) -> dict[str, Tensor]:
        """What the discriminator makes of the shown pictures; it learns nothing from this."""
        discriminator.eval().requires_grad_(False)
        with torch.no_grad():
            _, wanted = discriminator(real[self.judged])
        scores, features = discriminator(shown[self.judged])
        count = len(real)
        return {
            "adversarial": -scores.mean(),
            "features": feature_loss([layer[:count] for layer in features], wanted),
            "predicted_features": feature_loss([layer[count:] for layer in features], wanted),
        }

    def discriminator_loss(self, discriminator: PatchDiscriminator, real: Tensor, shown: Tensor) -> Tensor:
        """The hinge loss of telling real frames from twice as many shown ones."""
        discriminator.train().requires_grad_(True)
        scores, _ = discriminator(torch.cat([real, shown])[self.judged])
        return hinge_loss(scores[: len(real)], scores[len(real) :])


class FramePairs:
    """Pairs of frames that follow each other, "crops_u8" (2 h w c), "true" and "predicted" (2 c h w).

    All windows are equally likely.
    """

    def __init__(self, windows: Sequence[PredictedWindow]) -> None:
        self.windows = windows

    def draw(self, random: np.random.Generator) -> Batch:
        window = self.windows[int(random.integers(len(self.windows)))]
        first = int(random.integers(len(window.true) - 1))
        arrays = {"crops_u8": window.crops_u8, "true": window.true, "predicted": window.predicted}
        return {name: torch.from_numpy(array[first : first + 2]) for name, array in arrays.items()}


def run(data: Path, output: Path, recipe: DecoderRecipe, report: Report, *, model: str) -> Path:
    """Train on what `preprocess` wrote and return the autoencoder's weights, at half precision.

    Args:
        model: whose autoencoder is finished, by its name or the path of its U-Net.

    Raises:
        MediaError: there are no clips to train on, or none is long enough.
        RecipeError: the checkpoint is of another recipe.
        WeightsError: the model's files are damaged.
    """
    clips, _ = find_clips(data, held_out=recipe.held_out)
    lip_model = load_model(find_model(model), device=torch.device("cpu"), dtype=torch.float32)
    audio = AudioFeatures(FeatureFiles.beside(data, output), COMPACT)
    planned = plan_windows(clips, recipe.windows, seed=recipe.seed)
    if not planned:
        raise MediaError(
            f"'{data}': all {len(clips)} clips are too short for a window and a reference",
            hint="lower windows.frames or windows.reference_gap_frames, or preprocess longer clips",
        )
    chosen = {window.clip: None for window in planned}
    for clip in chosen:
        audio.prepare(clip, lip_model.whisper, Lock())
    predictor = Predictor(
        lip_model, audio, frames=recipe.windows.frames, pictures=recipe.pictures, seed=recipe.seed
    )
    windows = [load_window(path) for path in predict_windows(planned, predictor, output, report)]
    vae = lip_model.vae.to(memory_format=torch.channels_last)
    torch.manual_seed(recipe.seed)  # model initialisation
    objective = DecoderObjective(vae, recipe, side_px=windows[0].crops_u8.shape[1])
    weights = train_to_the_end(
        TrainingRun(
            recipe=recipe,
            model=DecoderInTraining(vae, PatchDiscriminator(recipe.discriminator_channels)),
            network="network",
            kind="vae",
            config=vae.config,
            objective=objective,
            samples=Samples(FramePairs(windows).draw, recipe),
            data=fingerprint(chosen),
            output=output,
            learning_rate_shares={"discriminator.": recipe.discriminator_learning_rate_share},
        ),
        report,
    )
    save_checkpoint(output / "vae.safetensors", halves(weights), kind="vae", config=vae.config)
    return output / "vae.safetensors"
