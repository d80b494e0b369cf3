"""One step of SyncNet training: frames and speech in, losses out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor, nn

from latentsync.axes import expect_axes
from latentsync.models.framewise import FramewiseSyncNet
from latentsync.models.syncnet import SyncNet
from latentsync.models.vae import FaceVAE
from latentsync.recipe.networks import SyncNetConfig
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.train.batches import Batch
from latentsync.train.losses import matrix_losses, sync_loss

Pairs = deque[tuple[float, float]]  # what the network said of the last pairs, and what was right


class SyncNetInTraining(nn.Module):
    """The network and, for the contrastive loss, the temperature that is learnt beside it."""

    def __init__(self, network: SyncNet | FramewiseSyncNet, *, temperature: float | None) -> None:
        super().__init__()
        self.network = network
        self.log_temperature = (
            None if temperature is None else nn.Parameter(torch.tensor([math.log(temperature)]))
        )

    def forward(self, frames: Tensor, speech: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of frames and of speech, as the network gives them, and the temperature."""
        seen, heard = self.network(frames, speech)
        if self.log_temperature is None:
            return seen, heard, torch.ones((), device=seen.device)
        temperature: Tensor = self.log_temperature.exp().clamp(0.005, 1.0)
        return seen, heard, temperature


def network_input(frames_u8: Tensor, config: SyncNetConfig, vae: FaceVAE | None) -> Tensor:
    """Windows of frames (b f h w c), which are cut already, as the picture (b f·c h w) that the network sees.

    Args:
        vae: with space = "latent", encodes the frames. The centre of the posterior is taken: ours, where the
            reference draws a sample.
    """
    expect_axes(frames_u8, "b f h w c", f=config.frames, c=3)
    images = frames_u8.permute(0, 1, 4, 2, 3).float() / 127.5 - 1  # b f c h w
    if vae is None:
        return images.flatten(1, 2)  # b f·c h w
    with torch.no_grad():
        latents = vae.encode(images.flatten(0, 1)).unflatten(0, images.shape[:2])  # b f c h w
    stacked: Tensor = latents.flatten(1, 2)  # b f·c h w
    return stacked[:, :, stacked.shape[2] // 2 :] if config.is_lower_half else stacked


def make_step(
    recipe: SyncNetRecipe, config: SyncNetConfig, vae: FaceVAE | None, pairs: Pairs
) -> Callable[[nn.Module, Batch], dict[str, Tensor]]:
    """The losses of a micro-batch of `SyncSamples`. The predictions go into `pairs`, for a picture."""

    def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        count = batch["starts"].shape[1]
        frames = network_input(batch["frames_u8"].flatten(0, 1), config, vae)  # b·n f·c h w
        seen, heard, temperature = model(frames, batch["mel"].flatten(0, 1)[:, None])
        if recipe.negatives.pairing == "in_clip_matrix":
            cosines = seen.unflatten(0, (-1, count)) @ heard.unflatten(0, (-1, count)).mT  # b n n
            starts = batch["starts"]
            apart = (starts[:, :, None] - starts[:, None]).abs()
            is_wrong = apart >= recipe.negatives.min_distance_frames
            losses = matrix_losses(cosines, is_wrong, temperature=temperature)
            _remember(pairs, cosines.diagonal(dim1=1, dim2=2), 1.0)
            _remember(pairs, cosines[is_wrong], 0.0, most=cosines.shape[0] * count)
            return _wanted(losses, recipe) | {"accuracy": _accuracy(cosines, is_wrong)}
        cosine, label = (seen * heard).sum(1), batch["label"]
        for value in (0.0, 1.0):
            _remember(pairs, cosine[label == value], value)
        is_right = (cosine > 0.5) == (label > 0.5)
        return {"bce": sync_loss(cosine, label).mean(), "accuracy": is_right.float().mean()}

    return step


def _wanted(losses: dict[str, Tensor], recipe: SyncNetRecipe) -> dict[str, Tensor]:
    """Without `chance` where nothing is compared with it."""
    names = ("contrastive", "chance", "bce") if recipe.loss.kind == "contrastive" else ("bce",)
    return {name: losses[name] for name in names}


def _accuracy(cosines: Tensor, is_wrong: Tensor) -> Tensor:
    """How often the right speech is nearer than a wrong one of the same clip: chance is one half."""
    right = cosines.diagonal(dim1=1, dim2=2)[:, :, None]
    is_nearer = (right > cosines).float() + 0.5 * (right == cosines).float()
    return (is_nearer * is_wrong).sum() / is_wrong.sum().clamp(min=1)


def _remember(pairs: Pairs, cosines: Tensor, label: float, *, most: int | None = None) -> None:
    values = cosines.detach().flatten()[:most].float().cpu().tolist()
    pairs.extend((value, label) for value in values)
