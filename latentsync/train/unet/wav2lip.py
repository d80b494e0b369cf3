"""The objective of a Wav2Lip generator: pixels, and the same SyncNet, LPIPS and TREPA as the U-Net's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from latentsync.axes import batch_to_frames, frames_to_batch
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.train.batches import Batch
from latentsync.train.unet.frozen import FrozenNetworks
from latentsync.train.unet.objective import Step, pixel_losses, to_pm1


def make_wav2lip_step(recipe: UNetTrainingRecipe, frozen: FrozenNetworks) -> Step:
    """The losses of a micro-batch of `LipSamples`, by the names of the recipe's table `loss`.

    Source: Prajwal et al. 2020, sections 3.2 and 3.3, without the adversarial loss, which the paper's table 4
    does not need; TREPA as in the paper, section 4.3.
    """
    side = recipe.wav2lip.resolution

    def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        target, reference = (
            resized(to_pm1(batch[name]), side) for name in ("target_u8", "reference_u8")
        )  # b c f h w
        made = model(lower_half_out(target), reference, batch["frame_mel"])
        losses = {"reconstruction": functional.l1_loss(made, target)}
        return losses | pixel_losses(made, target, batch, recipe.loss, frozen)

    return step


def resized(video: Tensor, side: int) -> Tensor:
    """Video (b c f h w) with pictures of so many pixels a side."""
    if video.shape[3:] == (side, side):
        return video
    images = functional.interpolate(frames_to_batch(video), (side, side), mode="bilinear", antialias=True)
    return batch_to_frames(images, frames=video.shape[2])


def lower_half_out(video_pm1: Tensor) -> Tensor:
    """Paint the lower half of the frames (b c f h w) black, as the generator is given them."""
    rows = video_pm1.shape[3] // 2
    return torch.cat([video_pm1[:, :, :, :rows], torch.full_like(video_pm1[:, :, :, rows:], -1)], dim=3)
