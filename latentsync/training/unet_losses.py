"""The objective of the U-Net: noise in stage 1; SyncNet, LPIPS and TREPA beside it in stage 2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from latentsync.axes import batch_to_frames, expect_axes, frames_to_batch
from latentsync.diffusion.conditioning import Conditioning
from latentsync.diffusion.noise import mixed_noise, shared_noise
from latentsync.diffusion.sampling import build_scheduler, one_step_clean
from latentsync.faces.align import latent_mask, mouth_mask
from latentsync.models.framewise import FramewiseSyncNet, cut_region
from latentsync.models.syncnet import SyncNet, stack_frames
from latentsync.models.temporal import trepa_distance
from latentsync.models.vae import FaceVAE
from latentsync.recipe.unet_training import LossWeights, NoiseTable, UNetTrainingRecipe
from latentsync.runtime import Seeds
from latentsync.training.batches import Batch
from latentsync.training.frozen import FrozenNetworks
from latentsync.training.losses import sync_loss

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

Step = Callable[[nn.Module, Batch], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch in latent space.

    target        (b 3 f h w)  the frames to be made, in -1..1
    latents       (b c f h w)  the same, through the VAE, scaled
    conditioning  what the U-Net sees beside the noisy latents
    noise         (b c f h w)  to be predicted
    timesteps     (b)
    """

    target: Tensor
    latents: Tensor
    conditioning: Conditioning
    noise: Tensor
    timesteps: Tensor


def make_unet_step(recipe: UNetTrainingRecipe, frozen: FrozenNetworks) -> Step:
    """The losses of a micro-batch of `LipSamples`, by the names of the recipe's table `loss`."""
    scheduler = build_scheduler("epsilon")
    vae = _need_vae(frozen)
    encode = make_encode(recipe, vae, scheduler)

    def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        encoded = encode(batch)
        noisy = scheduler.add_noise(encoded.latents, encoded.noise, encoded.timesteps)
        predicted = model(
            encoded.conditioning.join(noisy), encoded.timesteps, batch["audio"].flatten(0, 1)
        )  # b c f h w
        losses = {"noise": noise_loss(predicted, encoded.noise)}
        loss = recipe.loss
        if not (loss.is_decoded or loss.sync):
            return losses
        clean = one_step_clean(noisy, predicted, encoded.timesteps, scheduler)  # the paper's equation 1
        if loss.sync and loss.sync_space == "latent":
            losses["sync"] = latent_sync_loss(clean, batch, _need_syncnet(frozen))
        if loss.is_decoded:
            made = decode(vae, clean)  # b 3 f h w
            losses |= pixel_losses(made, encoded.target, batch, loss, frozen)
        return losses

    return step


def noise_loss(predicted: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the predicted noise (b c f h w), in float32, the same everywhere in the picture.

    Source: the paper, section 3.2; the official code gives the mouth no more weight than the rest.
    """
    return functional.mse_loss(predicted.float(), noise.float())


def pixel_losses(
    made: Tensor, target: Tensor, heard: Batch, loss: LossWeights, frozen: FrozenNetworks
) -> dict[str, Tensor]:
    """The parts that look at pixels, of frames (b 3 f h w) in -1..1 that were made and of those to be made.

    Source: the paper, section 3.3.
    """
    losses = {}
    if loss.sync and loss.sync_space == "pixel":
        losses["sync"] = pixel_sync_loss(made, heard, _need_syncnet(frozen))
    if frozen.perceptual is not None:
        losses["perceptual"] = perceptual_loss(made, target, frozen.perceptual)
    if frozen.temporal is not None:
        losses["trepa"] = trepa_distance(made, target, frozen.temporal, normalise=loss.trepa_normalise)
    return losses


def pixel_sync_loss(made: Tensor, heard: Batch, syncnet: SyncNet | FramewiseSyncNet) -> Tensor:
    """How little frames (b 3 f h w) in -1..1 fit the speech, for a SyncNet that sees pixels.

    Args:
        heard: `mel` (b 80 t), or `steps` (b t n d) for a framewise SyncNet.

    Source: the paper, section 3.3: SyncNet's own loss, for pairs that belong together. The official code
    resizes bicubically where the SyncNet sees another size.
    """
    frames, weight = made.shape[2], next(syncnet.parameters())
    images = frames_to_batch(made)
    if isinstance(syncnet, FramewiseSyncNet):
        region = batch_to_frames(cut_region(images, syncnet.config), frames=frames).to(weight)  # b c f h w
        seen, spoken = syncnet.embed_frames(region), syncnet.embed_speech(heard["steps"].to(weight))  # b 1 d
        share = (1 + (seen * spoken).sum((1, 2))) / 2  # its cosine lies in -1..1
        return sync_loss(share, torch.ones_like(share)).mean()
    side = syncnet.config.resolution
    if images.shape[2:] != (side, side):
        images = functional.interpolate(images.float(), (side, side), mode="bicubic")
    return latent_sync_loss(batch_to_frames(images, frames=frames), heard, syncnet)


def latent_sync_loss(video: Tensor, heard: Batch, syncnet: SyncNet | FramewiseSyncNet) -> Tensor:
    """How little latents (b c f h w), or frames of the SyncNet's own size, fit the speech `mel` (b 80 t)."""
    if isinstance(syncnet, FramewiseSyncNet):
        raise ValueError("a framewise SyncNet sees pixels")
    weight = next(syncnet.parameters())
    stacked = stack_frames(video, syncnet.config).to(weight)  # b f·c h w
    seen, spoken = syncnet(stacked, heard["mel"][:, None].to(weight))
    cosine = (seen * spoken).sum(1)
    return sync_loss(cosine, torch.ones_like(cosine)).mean()


def perceptual_loss(made: Tensor, target: Tensor, network: nn.Module) -> Tensor:
    """LPIPS between the lower halves of frames (b 3 f h w) in -1..1, in float32.

    Source: the official `train_unet.py`; the lower half is where the mouth is.
    """
    rows = made.shape[3] // 2
    seen = [frames_to_batch(video)[:, :, rows:].float() for video in (made, target)]  # b·f c h w
    distances: Tensor = checkpoint(network, *seen, use_reentrant=False)
    return distances.mean()


def decode(vae: FaceVAE, latents: Tensor) -> Tensor:
    """Scaled latents (b c f h w) as frames (b 3 f h w); gradients pass."""
    images = vae.decode(frames_to_batch(latents).to(next(vae.parameters()).dtype))
    return batch_to_frames(images, frames=latents.shape[2])


def make_encode(
    recipe: UNetTrainingRecipe, vae: FaceVAE, scheduler: DDIMScheduler
) -> Callable[[Batch], Encoded]:
    """What turns a batch of `LipSamples` into latents, noise and timesteps.

    All that is drawn depends on the sample's number alone, so a sample is the same in every batch.
    """
    weight = next(vae.parameters())
    mask = torch.from_numpy(mouth_mask(recipe.windows.resolution)).to(weight)  # h w
    small_mask = torch.from_numpy(latent_mask(mouth_mask(recipe.windows.resolution), factor=vae.factor))
    small_mask = small_mask.to(weight.device)
    seeds, last = Seeds(recipe.seed), len(scheduler.alphas_cumprod)

    @torch.no_grad()
    def encode(batch: Batch) -> Encoded:
        target, reference = (to_pm1(batch[name]).to(weight) for name in ("target_u8", "reference_u8"))
        latents: list[Tensor] = []
        masked: list[Tensor] = []
        other: list[Tensor] = []
        noise: list[Tensor] = []
        timesteps: list[Tensor] = []
        for place, number in enumerate(batch["number"].tolist()):
            generator = seeds.generator(f"noise/{number}")
            for video, into in ((target, latents), (target * mask, masked), (reference, other)):
                one = frames_to_batch(video[place, None])  # f c h w
                into.append(vae.encode(one, generator=generator, mode="sample").movedim(0, 1))  # c f h w
            noise.append(draw_noise(latents[-1][None].shape, generator, recipe.noise)[0])
            timesteps.append(torch.randint(last, (), generator=generator))
        frames = target.shape[2]
        known = Conditioning(
            mask=small_mask.expand(len(target), 1, frames, -1, -1),
            masked=torch.stack(masked).float(),
            reference=torch.stack(other).float(),
        )
        return Encoded(
            target=target,
            latents=torch.stack(latents).float(),
            conditioning=known,
            noise=torch.stack(noise).to(weight.device),
            timesteps=torch.stack(timesteps).to(weight.device),
        )

    return encode


def draw_noise(size: torch.Size, generator: torch.Generator, table: NoiseTable) -> Tensor:
    """Noise (b c f h w) as the recipe wants it, on the CPU.

    Source: the paper, section 3.2 (mixed); without it the official code shares one frame.
    """
    batch, channels, frames, rows, columns = size
    shape = (batch, channels, frames, rows, columns)
    if table.kind == "shared":
        return shared_noise(shape, generator)
    return mixed_noise(shape, generator, alpha=table.alpha if table.kind == "mixed" else 0.0)


def to_pm1(frames_u8: Tensor) -> Tensor:
    """Frames (b f h w c) in 0..255 as video (b c f h w) in -1..1."""
    expect_axes(frames_u8, "b f h w c", c=3)
    return frames_u8.permute(0, 4, 1, 2, 3).float() / 127.5 - 1  # b c f h w


def named_weights(loss: LossWeights) -> dict[str, float]:
    """The weights of the parts that count, by name."""
    names: tuple[Literal["noise", "reconstruction", "sync", "perceptual", "trepa"], ...]
    names = ("noise", "reconstruction", "sync", "perceptual", "trepa")
    return {name: weight for name in names if (weight := getattr(loss, name)) > 0}


def _need_vae(frozen: FrozenNetworks) -> FaceVAE:
    if frozen.vae is None:
        raise ValueError("a U-Net is trained on the latents of a VAE, and there is none")
    return frozen.vae


def _need_syncnet(frozen: FrozenNetworks) -> SyncNet | FramewiseSyncNet:
    if frozen.syncnet is None:
        raise ValueError("the recipe has a sync loss, and there is no SyncNet")
    return frozen.syncnet
