"""The objective of the U-Net: noise in stage 1; SyncNet, LPIPS and TREPA beside it in stage 2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from latentsync.axes import batch_to_frames, expect_axes, frames_to_batch
from latentsync.diffusion.conditioning import Conditioning
from latentsync.diffusion.noise import mixed_noise, shared_noise
from latentsync.diffusion.sampling import build_scheduler, one_step_clean
from latentsync.diffusion.view import View, build_view
from latentsync.faces.align import mouth_mask
from latentsync.models.autoencoder import AnyAutoencoder
from latentsync.models.framewise import FramewiseSyncNet, cut_region
from latentsync.models.syncnet import SyncNet, stack_frames
from latentsync.models.videomae import VideoEncoder, trepa_distance
from latentsync.recipe.train_unet import LossWeights, NoiseTable, UNetTrainingRecipe
from latentsync.runtime import Seeds
from latentsync.train.batches import Batch
from latentsync.train.losses import mouth_region, mouth_weights, reconstruction_loss, sync_loss
from latentsync.train.unet.frozen import FrozenNetworks

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

KEPT_WEIGHT = 0.25  # of latents that the mask leaves visible, in `clean`
EDGE_WEIGHT = 0.5

Step = Callable[[nn.Module, Batch], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch in latent space.

    target        (b 3 f h w)  the frames to be made, in -1..1
    latents       (b c f h w)  what is generated of them, through the VAE, scaled
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
    vae, loss = _need_vae(frozen), recipe.loss
    scheduler = build_training_scheduler(recipe.noise)
    view = make_view(recipe, vae)
    encode = make_encode(recipe, vae, view, scheduler)
    weights = view.small(mouth_weights(view.mask.float(), mouth=loss.mouth, kept=KEPT_WEIGHT))  # h w

    def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        encoded = encode(batch)
        noisy = scheduler.add_noise(encoded.latents, encoded.noise, encoded.timesteps)
        predicted = model(
            encoded.conditioning.join(noisy), encoded.timesteps, batch["audio"].flatten(0, 1)
        )  # b c f h w
        if recipe.noise.prediction == "clean":
            losses = {"clean": clean_loss(predicted, encoded.latents, weights)}
        else:
            losses = {"noise": noise_loss(predicted, encoded.noise)}
        if not (loss.is_decoded or loss.sync):
            return losses
        clean = one_step_clean(noisy, predicted, encoded.timesteps, scheduler)  # the paper's equation 1
        if loss.sync and loss.sync_space == "latent":
            losses["sync"] = latent_sync_loss(clean, batch, _need_syncnet(frozen))
        if loss.is_decoded:
            made = place(view, decode(vae, clean), encoded.target)  # b 3 f h w
            if loss.reconstruction:
                losses["reconstruction"] = mouth_loss(made, encoded.target)
            losses |= pixel_losses(made, encoded.target, batch, loss, frozen)
        return losses

    return step


def noise_loss(predicted: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the predicted noise (b c f h w), in float32, the same everywhere in the picture.

    Source: the paper, section 3.2; the official code gives the mouth no more weight than the rest.
    """
    return functional.mse_loss(predicted.float(), noise.float())


def clean_loss(predicted: Tensor, latents: Tensor, weights: Tensor) -> Tensor:
    """Mean absolute error of predicted latents (b c f h w), in float32, weighted by place (h w).

    Source: ours. A network with one step to take predicts a mean of what may be; that of squares would be a
    mouth that is never quite closed.
    """
    return ((predicted.float() - latents.float()).abs() * weights).mean()


def mouth_loss(made: Tensor, target: Tensor) -> Tensor:
    """How far mouths are from real ones, in colours and edges, of frames (b 3 f h w) in -1..1.

    Source: ours.
    """
    rows, columns = mouth_region(made.shape[3])
    seen = [frames_to_batch(video)[:, :, rows, columns].float() for video in (made, target)]  # b·f c h w
    return reconstruction_loss(*seen, edge_weight=EDGE_WEIGHT)


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
        features = temporal_features(frozen.temporal)
        losses["trepa"] = trepa_distance(made, target, features, normalise=loss.trepa_normalise)
    return losses


def temporal_features(network: VideoEncoder | FramewiseSyncNet) -> Callable[[Tensor], Tensor]:
    """What TREPA compares: features (b d) of windows of video (b 3 f h w) in -1..1.

    Of a framewise SyncNet, what each frame comes to, for all frames in a row: the way the lips take.

    Source: the paper, section 3.4 (video encoder); the SyncNet in its place is ours.
    """
    if isinstance(network, VideoEncoder):
        return network.features

    def look(video: Tensor) -> Tensor:
        return network.look(_region(video, network)).flatten(1)

    return look


def pixel_sync_loss(made: Tensor, heard: Batch, syncnet: SyncNet | FramewiseSyncNet) -> Tensor:
    """How little frames (b 3 f h w) in -1..1 fit the speech, for a SyncNet that sees pixels.

    Args:
        heard: `mel` (b 80 t), or `steps` (b t n d) for a framewise SyncNet; `is_heard` (b,) 1 or 0.

    Source: the paper, section 3.3: SyncNet's own loss, for pairs that belong together. The official code
    resizes bicubically where the SyncNet sees another size.
    """
    frames, weight = made.shape[2], next(syncnet.parameters())
    images = frames_to_batch(made)
    if isinstance(syncnet, FramewiseSyncNet):
        seen = syncnet.embed_frames(_region(made, syncnet))  # b 1 d
        spoken = syncnet.embed_speech(heard["steps"].to(weight))
        share = (1 + (seen * spoken).sum((1, 2))) / 2  # its cosine lies in -1..1
        return _mean_of_heard(sync_loss(share, torch.ones_like(share)), heard)
    side = syncnet.config.resolution
    if images.shape[2:] != (side, side):
        images = functional.interpolate(images.float(), (side, side), mode="bicubic")
    return latent_sync_loss(batch_to_frames(images, frames=frames), heard, syncnet)


def _region(video: Tensor, syncnet: FramewiseSyncNet) -> Tensor:
    """What a framewise SyncNet sees of frames (b 3 f h w): (b c f rows columns)."""
    region = cut_region(frames_to_batch(video), syncnet.config)
    return batch_to_frames(region, frames=video.shape[2]).to(next(syncnet.parameters()))


def latent_sync_loss(video: Tensor, heard: Batch, syncnet: SyncNet | FramewiseSyncNet) -> Tensor:
    """How little latents (b c f h w), or frames of the SyncNet's own size, fit the speech `mel` (b 80 t)."""
    if isinstance(syncnet, FramewiseSyncNet):
        raise ValueError("a framewise SyncNet sees pixels")
    weight = next(syncnet.parameters())
    stacked = stack_frames(video, syncnet.config).to(weight)  # b f·c h w
    seen, spoken = syncnet(stacked, heard["mel"][:, None].to(weight))
    cosine = (seen * spoken).sum(1)
    return _mean_of_heard(sync_loss(cosine, torch.ones_like(cosine)), heard)


def _mean_of_heard(losses: Tensor, heard: Batch) -> Tensor:
    """Mean of losses (b,) over the samples whose speech the generator hears: silence has no step to keep."""
    share = heard["is_heard"].to(losses)
    return (losses * share).sum() / share.sum().clamp(min=1)


def perceptual_loss(made: Tensor, target: Tensor, network: nn.Module) -> Tensor:
    """LPIPS between the lower halves of frames (b 3 f h w) in -1..1, in float32.

    Source: the official `train_unet.py`; the lower half is where the mouth is.
    """
    rows = made.shape[3] // 2
    seen = [frames_to_batch(video)[:, :, rows:].float() for video in (made, target)]  # b·f c h w
    distances: Tensor = checkpoint(network, *seen, use_reentrant=False)
    return distances.mean()


def decode(vae: AnyAutoencoder, latents: Tensor) -> Tensor:
    """Scaled latents (b c f h w) as frames (b 3 f h w); gradients pass."""
    images = vae.decode(frames_to_batch(latents).to(next(vae.parameters()).dtype))
    return batch_to_frames(images, frames=latents.shape[2])


def place(view: View, made: Tensor, target: Tensor) -> Tensor:
    """Frames (b 3 f h w) with what was made of them in its place; gradients pass."""
    faces = view.place(frames_to_batch(made), frames_to_batch(target).to(made.dtype))
    return batch_to_frames(faces, frames=target.shape[2])


def make_view(recipe: UNetTrainingRecipe, vae: AnyAutoencoder) -> View:
    """The view of the network that is trained, where the autoencoder is."""
    mask = torch.from_numpy(mouth_mask(recipe.windows.resolution)).to(next(vae.parameters()))
    return build_view(recipe.network.view, mask, factor=vae.factor)


def make_encode(
    recipe: UNetTrainingRecipe, vae: AnyAutoencoder, view: View, scheduler: DDIMScheduler
) -> Callable[[Batch], Encoded]:
    """What turns a batch of `LipSamples` into latents, noise and timesteps.

    All that is drawn depends on the sample's number alone, so a sample is the same in every batch.
    """
    weight = next(vae.parameters())
    small_mask = view.small(view.mask)
    seeds, last = Seeds(recipe.seed), len(scheduler.alphas_cumprod)

    @torch.no_grad()
    def encode(batch: Batch) -> Encoded:
        target, reference = (to_pm1(batch[name]).to(weight) for name in ("target_u8", "reference_u8"))
        latents: list[Tensor] = []
        masked: list[Tensor] = []
        other: list[Tensor] = []
        noise: list[Tensor] = []
        timesteps: list[Tensor] = []
        for index, number in enumerate(batch["number"].tolist()):
            generator = seeds.generator(f"noise/{number}")
            sample = partial(vae.encode, generator=generator, mode="sample")
            own, others = (frames_to_batch(video[index, None]) for video in (target, reference))  # f c h w
            latents.append(sample(view.cut(own)).movedim(0, 1))  # c f h w
            masked.append(view.known(own, sample).movedim(0, 1))
            other.append(sample(view.cut(others)).movedim(0, 1))
            noise.append(draw_noise(latents[-1][None].shape, generator, recipe.noise)[0])
            anywhere = torch.randint(last, (), generator=generator)
            is_noisiest = bool(torch.rand((), generator=generator) < recipe.noise.noisiest_share)
            timesteps.append(torch.tensor(last - 1) if is_noisiest else anywhere)
        frames = target.shape[2]
        known = Conditioning(
            mask=small_mask.float().expand(len(target), 1, frames, -1, -1),
            masked=torch.stack(masked).float(),
            reference=torch.stack(other).float().expand(-1, -1, frames, -1, -1),
        )
        return Encoded(
            target=target,
            latents=torch.stack(latents).float(),
            conditioning=known,
            noise=torch.stack(noise).to(weight.device),
            timesteps=torch.stack(timesteps).to(weight.device),
        )

    return encode


def build_training_scheduler(noise: NoiseTable) -> DDIMScheduler:
    """The schedule that noise is added by, which knows what the U-Net predicts.

    A network that predicts clean latents is used with the noisiest timestep first ("trailing").
    """
    return build_scheduler("sample", "trailing") if noise.prediction == "clean" else build_scheduler()


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
    names: tuple[Literal["noise", "clean", "reconstruction", "sync", "perceptual", "trepa"], ...]
    names = ("noise", "clean", "reconstruction", "sync", "perceptual", "trepa")
    return {name: weight for name in names if (weight := getattr(loss, name)) > 0}


def _need_vae(frozen: FrozenNetworks) -> AnyAutoencoder:
    if frozen.vae is None:
        raise ValueError("a U-Net is trained on the latents of a VAE, and there is none")
    return frozen.vae


def _need_syncnet(frozen: FrozenNetworks) -> SyncNet | FramewiseSyncNet:
    if frozen.syncnet is None:
        raise ValueError("the recipe has a sync loss, and there is no SyncNet")
    return frozen.syncnet
