"""The objectives of the U-Net and of Wav2Lip. `LOSSES` registers every loss, once.

To add a loss, add its weight to the recipe's table `loss` (`LossWeights`) and an entry to `LOSSES`. If it
needs a network that no other loss needs, add that to `latentsync.train.unet.frozen` as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from latentsync.axes import batch_to_frames, expect_axes, frames_to_batch, to_pm1, to_u8
from latentsync.diffusion.conditioning import Conditioning
from latentsync.diffusion.noise import mixed_noise, shared_noise
from latentsync.diffusion.sampling import build_scheduler, denoise, one_step_clean
from latentsync.diffusion.view import Encode, Warp, build_view, condition
from latentsync.faces.align import mouth_mask
from latentsync.models.framewise import FramewiseSyncNet, cut_region
from latentsync.models.syncnet import SyncNet, stack_frames
from latentsync.models.videomae import VideoEncoder, trepa_distance
from latentsync.models.warp import Warped
from latentsync.models.wav2lip import lower_half_out
from latentsync.recipe.train_unet import LossWeights, NoiseTable, UNetTrainingRecipe
from latentsync.runtime import Seeds
from latentsync.train.loop import Batch
from latentsync.train.losses import mouth_region, mouth_weights, reconstruction_loss, sync_loss
from latentsync.train.unet.frozen import LPIPS, SCRATCH, FrozenNetworks
from latentsync.train.unet.warp import Generated, ShownReferences, warp_loss

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

KEPT_WEIGHT = 0.25  # in `clean`, of latents outside the mask: the U-Net is given them, so copying is easy
EDGE_WEIGHT = 0.5
DISCRIMINATOR = "discriminator"  # in the log, the loss of the discriminator


@dataclass(frozen=True, slots=True)
class LossTerm:
    """One loss of the recipe's table `loss`; with a weight of 0 it is neither computed nor logged.

    name     key of its weight in that table, and its name in the log
    compute  the loss, a scalar, from a prediction, the frozen networks and the table
    network  the frozen network that it needs: a field of `FrozenNetworks`
    """

    name: str
    compute: Callable[[Any, FrozenNetworks, LossWeights], Tensor]
    network: str | None = None


def wanted_weights(recipe: UNetTrainingRecipe) -> dict[str, str]:
    """Names of the weights that a recipe needs, by use. A loss without a weight needs none."""
    weights, losses = recipe.weights, loss_weights(recipe.loss)
    wanted = {"start": weights.start}
    if recipe.generator == "unet":
        wanted |= {"vae": weights.vae, "whisper": weights.whisper}
    for term in LOSSES:
        if term.network and term.name in losses:
            wanted[term.network] = LPIPS if term.network == "perceptual" else getattr(weights, term.network)
    return {use: name for use, name in wanted.items() if name != SCRATCH}


def loss_weights(table: LossWeights) -> dict[str, float]:
    """The weights above 0, by the names of their losses."""
    return {term.name: weight for term in LOSSES if (weight := getattr(table, term.name)) > 0}


class UNetObjective:
    """Noise in stage 1; SyncNet, LPIPS and TREPA on the decoded frames besides in stage 2.

    Source: the paper, section 3.1.
    """

    def __init__(self, recipe: UNetTrainingRecipe, frozen: FrozenNetworks) -> None:
        if frozen.vae is None:
            raise ValueError("a U-Net is trained on the latents of a VAE, and none was loaded")
        self.recipe, self.frozen, self.vae = recipe, frozen, frozen.vae
        self.is_adversarial = recipe.loss.adversarial > 0
        self.weights = _with_discriminator(loss_weights(recipe.loss))
        self.scheduler = build_training_scheduler(recipe.noise)
        mask = torch.from_numpy(mouth_mask(recipe.windows.resolution)).to(next(self.vae.parameters()))  # h w
        self.view = build_view(recipe.network.view, mask, factor=self.vae.factor)
        weights = mouth_weights(mask.float(), mouth=recipe.loss.mouth, kept=KEPT_WEIGHT)
        self.latent_weights = self.view.small(weights)  # h w

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The losses of a micro-batch of `LipSamples`, by the names of the recipe's table `loss`."""
        encoded = self.encode(batch)
        noisy = self.scheduler.add_noise(encoded.latents, encoded.noise, encoded.timesteps)
        audio = batch["audio"].flatten(0, 1)  # b·f n d
        sample = encoded.conditioning.join(noisy)
        if encoded.shown is not None:  # the network encodes the reference once it is warped
            sample = sample[:, : -noisy.shape[1]]
        if encoded.shown is None and not self.is_adversarial:
            predicted = model(sample, encoded.timesteps, audio)  # b c f h w
            made = Generated(predicted, None, encoded.conditioning.reference)
        else:
            real = encoded.latents if self.is_adversarial else None
            made = model(sample, encoded.timesteps, audio, encoded.shown, real)
        prediction = UNetPrediction(batch, encoded, noisy, made, self)
        losses = compute_losses(prediction, self.recipe.loss, self.frozen)
        if self.is_adversarial:
            losses[DISCRIMINATOR] = discriminator_loss(*made.scores[1:])
        return losses

    @torch.no_grad()
    def encode(self, batch: Batch) -> Encoded:
        """Turn a batch into latents, noise and timesteps.

        All that is drawn depends on the sample's number alone, so a sample is the same in every batch.
        """
        target, reference = (
            to_video(batch[name]).to(self.view.mask) for name in ("target_u8", "reference_u8")
        )  # b c f h w
        latents: list[Tensor] = []
        masked: list[Tensor] = []
        other: list[Tensor] = []
        noise: list[Tensor] = []
        timesteps: list[Tensor] = []
        warps, frames = bool(self.recipe.network.warp_widths), target.shape[2]
        last = len(self.scheduler.alphas_cumprod)
        for index, number in enumerate(batch["number"].tolist()):
            generator = Seeds(self.recipe.seed).generator(f"noise/{number}")
            sample = partial(self.vae.encode, generator=generator, mode="sample")
            own, others = (frames_to_batch(video[index, None]) for video in (target, reference))  # f c h w
            latents.append(sample(self.view.cut(own)).movedim(0, 1))  # c f h w
            masked.append(self.view.known(own, sample).movedim(0, 1))
            if warps:  # encoded once it is warped; until then nothing
                other.append(torch.zeros_like(latents[-1]))
            else:
                other.append(sample(self.view.cut(others)).movedim(0, 1))
            noise.append(draw_noise(latents[-1][None].shape, generator, self.recipe.noise)[0])
            # Both are always drawn, so that `noisiest_share` shifts no other draw.
            anywhere = torch.randint(last, (), generator=generator)
            is_noisiest = bool(torch.rand((), generator=generator) < self.recipe.noise.noisiest_share)
            timesteps.append(torch.tensor(last - 1) if is_noisiest else anywhere)
        known = Conditioning(
            mask=self.view.small(self.view.mask).float().expand(len(target), 1, frames, -1, -1),
            masked=torch.stack(masked).float(),
            reference=torch.stack(other).float().expand(-1, -1, frames, -1, -1),
        )
        return Encoded(
            target=target,
            latents=torch.stack(latents).float(),
            conditioning=known,
            noise=torch.stack(noise).to(target.device),
            timesteps=torch.stack(timesteps).to(target.device),
            shown=self.show(reference, frames_to_batch(known.masked), encode=self.vae.encode)
            if warps
            else None,
        )

    def show(self, reference: Tensor, known: Tensor, *, encode: Encode | None) -> ShownReferences:
        """References as a network that warps takes them.

        Args:
            reference: (b 3 f h w), or one for all frames (b 3 1 h w).
            known: (b·f k h w) seen of the targets.
        """
        frames = len(known) // len(reference)
        references = frames_to_batch(reference.expand(-1, -1, frames, -1, -1))
        return ShownReferences(self.view.cut(references), known, encode)

    def decode(self, latents: Tensor, target: Tensor) -> Tensor:
        """Decode scaled latents (b c f h w) into the frames `target` (b 3 f h w) in -1..1; gradients pass."""
        images = self.vae.decode(frames_to_batch(latents).to(self.view.mask.dtype))
        faces = self.view.insert(images, frames_to_batch(target).to(images.dtype))
        return batch_to_frames(faces, frames=latents.shape[2])

    def generate(self, model: nn.Module, batch: Batch) -> NDArray[np.uint8]:
        """Denoise a batch of one window, and keep what the mask shows.

        The reference is the target itself, as in `sync`: where it is warped, one frame from elsewhere.

        Returns:
            The frames (f h w c).

        Source: the official validation: 20 steps, guidance 1.5, and the frame itself outside the mask.
        """
        target = to_video(batch["target_u8"]).to(self.view.mask)  # b c f h w
        faces, table = frames_to_batch(target), self.recipe.validation  # f c h w
        audio = batch["audio"].flatten(0, 1)  # b·f n d
        warp = self._warp_for(model, audio)
        references = faces if warp is None else self._reference_of(batch).expand_as(faces)
        known = condition(
            self.view, faces, references, lambda images: self.vae.encode(images).float(), warp=warp
        )
        generator = Seeds(self.recipe.seed).generator("validation")
        shared = self.recipe.noise.replaced(kind="shared")  # as `sync` draws it
        noise = draw_noise(known.reference.shape, generator, shared).to(target.device)
        scheduler = build_training_scheduler(self.recipe.noise)
        latents = denoise(model, scheduler, noise, known, audio, steps=table.steps, guidance=table.guidance)
        return self._shown(frames_to_batch(self.decode(latents, target)), faces)

    def _warp_for(self, model: nn.Module, audio: Tensor) -> Warp | None:
        """What warps references for the speech (f n d) as `sync` does; None where nothing is warped."""
        network: Any = extract_model_from_parallel(model)
        warp = network.warp_for(audio, self.recipe.validation.guidance)
        if warp is None:
            return None
        # Its weights are in float32 in training, whatever those of the autoencoder are.
        return lambda references, known: warp(references.float(), known.float()).to(references)

    def _reference_of(self, batch: Batch) -> Tensor:
        """The reference (1 3 h w) of all frames of a batch of one window."""
        return frames_to_batch(to_video(batch["reference_u8"]).to(self.view.mask))[:1]

    def _shown(self, made: Tensor, faces: Tensor) -> NDArray[np.uint8]:
        """Generated faces (f 3 h w) where the mask hides the real ones (f 3 h w), as (f h w c)."""
        return _to_frames_u8(made * (1 - self.view.mask) + faces * self.view.mask)


class WarpObjective(UNetObjective):
    """The warp of the reference alone, and what judges its pixels; no latents are needed."""

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The losses of a micro-batch of `LipSamples`, by the names of the recipe's table `loss`."""
        target, reference = (
            to_video(batch[name]).to(self.view.mask) for name in ("target_u8", "reference_u8")
        )  # b c f h w
        faces = frames_to_batch(target)
        shown = self.show(reference, self.view.known(faces, self.vae.encode), encode=None)
        warped: Warped = model(None, None, batch["audio"].flatten(0, 1), shown)
        frames = batch_to_frames(self.view.insert(warped.pictures, faces), frames=target.shape[2])
        prediction = WarpPrediction(batch, target, frames, warped=warped, objective=self)
        return compute_losses(prediction, self.recipe.loss, self.frozen)

    def generate(self, model: nn.Module, batch: Batch) -> NDArray[np.uint8]:
        """Warp one frame from elsewhere to a batch of one window: the frames (f h w c)."""
        faces = frames_to_batch(to_video(batch["target_u8"]).to(self.view.mask))  # f c h w
        warp = self._warp_for(model, batch["audio"].flatten(0, 1))
        if warp is None:
            raise ValueError("a warp is trained alone, and the network has no warp_widths")
        windows = self.view.cut(self._reference_of(batch)).expand(len(faces), -1, -1, -1)
        made = warp(windows, self.view.known(faces, self.vae.encode))
        return self._shown(self.view.insert(made, faces), faces)


class Wav2LipObjective:
    """Pixels, and the same SyncNet, LPIPS and TREPA as the U-Net's.

    With the loss `adversarial` the model is a `Wav2LipInTraining`, whose discriminator's own loss is taken
    with a weight of 1. Both networks take their step from the same frames, as in the released code, where the
    discriminator sees the frames that were generated before the generator's step.

    Source: Prajwal et al. 2020, sections 3.2 and 3.3; TREPA as in the paper, table 4.
    """

    def __init__(self, recipe: UNetTrainingRecipe, frozen: FrozenNetworks) -> None:
        self.recipe, self.frozen = recipe, frozen
        self.is_adversarial = recipe.loss.adversarial > 0
        self.weights = _with_discriminator(loss_weights(recipe.loss))
        self.resolution = recipe.wav2lip.resolution

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The losses of a micro-batch of `LipSamples`, by the names of the recipe's table `loss`."""
        target, reference = (
            resized(to_video(batch[name]), self.resolution) for name in ("target_u8", "reference_u8")
        )  # b c f h w
        frames, *scores = self._draw(model, target, reference, batch)
        prediction = FramePrediction(batch, target, frames, *scores[:1])
        losses = compute_losses(prediction, self.recipe.loss, self.frozen)
        if self.is_adversarial:
            losses[DISCRIMINATOR] = discriminator_loss(*scores[1:])
        return losses

    def generate(self, model: nn.Module, batch: Batch) -> NDArray[np.uint8]:
        """Generate a batch of one window, whose reference is the target itself: the frames (f h w c)."""
        target = resized(to_video(batch["target_u8"]), self.resolution)
        return _to_frames_u8(frames_to_batch(self._draw(model, target, target, batch)[0]))

    def _draw(self, model: nn.Module, target: Tensor, reference: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        """The frames (b 3 f h w), and with a discriminator its scores, as `Wav2LipInTraining` gives them."""
        given = (lower_half_out(target), reference, batch["frame_mel"])
        drawn: tuple[Tensor, ...] = model(*given, target) if self.is_adversarial else (model(*given),)
        return drawn


def choose_objective(recipe: UNetTrainingRecipe, frozen: FrozenNetworks) -> UNetObjective | Wav2LipObjective:
    """The objective of the generator that the recipe trains."""
    if recipe.generator == "wav2lip":
        return Wav2LipObjective(recipe, frozen)
    is_warp_alone = recipe.loss.warp > 0 and not any((recipe.loss.noise, recipe.loss.clean))
    return WarpObjective(recipe, frozen) if is_warp_alone else UNetObjective(recipe, frozen)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch in latent space.

    target        (b 3 f h w)  the frames to be generated, in -1..1
    latents       (b c f h w)  the part of them that is generated, through the VAE, scaled
    conditioning  what the U-Net is given beside the noisy latents
    noise         (b c f h w)  to be predicted
    timesteps     (b)
    shown         the references, where they are to be warped; `conditioning` has zeros for their latents then
    """

    target: Tensor
    latents: Tensor
    conditioning: Conditioning
    noise: Tensor
    timesteps: Tensor
    shown: ShownReferences | None = None


@dataclass(frozen=True)
class UNetPrediction:
    """What the U-Net predicted for a batch. Frames are decoded when a loss first asks for them.

    noisy  (b c f h w)  the latents that it was given
    made   what it made of them: the noise, or with noise.prediction = "clean" the latents
    """

    batch: Batch
    encoded: Encoded
    noisy: Tensor
    made: Generated
    objective: UNetObjective

    @property
    def target(self) -> Tensor:
        """(b 3 f h w) in -1..1."""
        return self.encoded.target

    @cached_property
    def clean(self) -> Tensor:
        """The clean latents (b c f h w). Source: the paper, equation 1."""
        timesteps, scheduler = self.encoded.timesteps, self.objective.scheduler
        return one_step_clean(self.noisy, self.made.predicted, timesteps, scheduler)

    @cached_property
    def frames(self) -> Tensor:
        """(b 3 f h w) in -1..1."""
        return self.objective.decode(self.clean, self.target)


@dataclass(frozen=True, slots=True)
class FramePrediction:
    """What Wav2Lip generated for a batch: `frames` and `target` (b 3 f h w) in -1..1.

    scores  (b·f) of the discriminator, whose parameters are constants here
    """

    batch: Batch
    target: Tensor
    frames: Tensor
    scores: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpPrediction(FramePrediction):
    """Target frames with the warped windows in them, and these windows themselves."""

    warped: Warped
    objective: WarpObjective


def _with_discriminator(weights: dict[str, float]) -> dict[str, float]:
    """The weights of all losses: a discriminator's own is taken as it is."""
    return weights | ({DISCRIMINATOR: 1.0} if "adversarial" in weights else {})


def compute_losses(
    prediction: UNetPrediction | FramePrediction, table: LossWeights, frozen: FrozenNetworks
) -> dict[str, Tensor]:
    """All losses that have a weight, by name."""
    wanted = loss_weights(table)
    return {term.name: term.compute(prediction, frozen, table) for term in LOSSES if term.name in wanted}


def noise_loss(predicted: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the predicted noise (b c f h w), in float32, the same everywhere in the picture.

    Source: the paper, section 3.1; the official code gives the mouth no more weight than the rest.
    """
    return functional.mse_loss(predicted.float(), noise.float())


def clean_loss(predicted: Tensor, latents: Tensor, weights: Tensor) -> Tensor:
    """Mean absolute error of predicted latents (b c f h w), in float32, weighted by position (h w).

    Source: ours. With a single denoising step the network predicts a mean of what is possible; the mean that
    squared errors ask for would be a mouth that never quite closes.
    """
    return ((predicted.float() - latents.float()).abs() * weights).mean()


def mouth_loss(made: Tensor, target: Tensor) -> Tensor:
    """How far generated mouths are from real ones, in colours and edges, of frames (b 3 f h w) in -1..1.

    Source: ours.
    """
    rows, columns = mouth_region(made.shape[3])
    mouths = [frames_to_batch(video)[:, :, rows, columns].float() for video in (made, target)]  # b·f c h w
    return reconstruction_loss(*mouths, edge_weight=EDGE_WEIGHT)


def pixel_sync_loss(made: Tensor, batch: Batch, syncnet: SyncNet | FramewiseSyncNet) -> Tensor:
    """How badly frames (b 3 f h w) in -1..1 fit the speech, for a SyncNet that takes pixels.

    Args:
        batch: `mel` (b 80 t), or `states` (b t n d) for a framewise SyncNet; `has_speech` (b,) 1 or 0.

    Source: the paper, section 3.1: SyncNet's own loss, for pairs that belong together. The official code
    resizes bicubically where the SyncNet takes another size.
    """
    frames, weight = made.shape[2], next(syncnet.parameters())
    images = frames_to_batch(made)
    if isinstance(syncnet, FramewiseSyncNet):
        visual = syncnet.embed_frames(_region(made, syncnet))  # b 1 d
        audio = syncnet.embed_speech(batch["states"].to(weight))
        probability = (1 + (visual * audio).sum((1, 2))) / 2  # its cosine lies in -1..1
        return _mean_with_speech(sync_loss(probability, torch.ones_like(probability)), batch)
    side = syncnet.config.resolution
    if images.shape[2:] != (side, side):
        images = functional.interpolate(images.float(), (side, side), mode="bicubic")
    return latent_sync_loss(batch_to_frames(images, frames=frames), batch, syncnet)


def adversarial_loss(scores: Tensor) -> Tensor:
    """Binary cross-entropy of the logits (n) of generated frames, which are to be taken for real ones.

    Source: Prajwal et al. 2020, section 3.3, and `perceptual_forward` of the released code.
    """
    return functional.binary_cross_entropy_with_logits(scores.float(), torch.ones_like(scores.float()))


def discriminator_loss(generated: Tensor, real: Tensor) -> Tensor:
    """Binary cross-entropy of the logits (n) of generated and of real frames, the sum of both means.

    Source: Prajwal et al. 2020, section 3.3; the sum as in the released code.
    """
    fake = functional.binary_cross_entropy_with_logits(generated.float(), torch.zeros_like(generated.float()))
    return fake + adversarial_loss(real)


def latent_sync_loss(video: Tensor, batch: Batch, syncnet: SyncNet | FramewiseSyncNet) -> Tensor:
    """How badly latents (b c f h w), or frames of the SyncNet's own size, fit the speech `mel` (b 80 t)."""
    if isinstance(syncnet, FramewiseSyncNet):
        raise ValueError("a framewise SyncNet takes pixels")
    weight = next(syncnet.parameters())
    stacked = stack_frames(video, syncnet.config).to(weight)  # b f·c h w
    visual, audio = syncnet(stacked, batch["mel"][:, None].to(weight))
    cosine = (visual * audio).sum(1)
    return _mean_with_speech(sync_loss(cosine, torch.ones_like(cosine)), batch)


def perceptual_loss(made: Tensor, target: Tensor, network: nn.Module) -> Tensor:
    """LPIPS between the lower halves of frames (b 3 f h w) in -1..1, in float32.

    Source: the official `train_unet.py`; the lower half is where the mouth is.
    """
    rows = made.shape[3] // 2
    halves = [frames_to_batch(video)[:, :, rows:].float() for video in (made, target)]  # b·f c h w
    distances: Tensor = checkpoint(network, *halves, use_reentrant=False)
    return distances.mean()


def temporal_features(network: VideoEncoder | FramewiseSyncNet) -> Callable[[Tensor], Tensor]:
    """The features (b d) that TREPA compares, of windows of video (b 3 f h w) in -1..1.

    Of a framewise SyncNet they are the features of each frame, for all frames in a row: the path of the lips.

    Source: the paper (TREPA's video encoder); the SyncNet instead of it is ours.
    """
    if isinstance(network, VideoEncoder):
        return network.features
    return lambda video: network.look(_region(video, network)).flatten(1)


def _sync(prediction: Any, frozen: FrozenNetworks, table: LossWeights) -> Tensor:
    syncnet = frozen.syncnet
    if syncnet is None:
        raise ValueError("the loss sync needs a SyncNet, and none was loaded")
    if table.sync_space == "latent":
        return latent_sync_loss(prediction.clean, prediction.batch, syncnet)
    return pixel_sync_loss(prediction.frames, prediction.batch, syncnet)


def _reconstruction(prediction: Any, frozen: FrozenNetworks, table: LossWeights) -> Tensor:
    if isinstance(prediction, FramePrediction):
        return functional.l1_loss(prediction.frames, prediction.target)
    return mouth_loss(prediction.frames, prediction.target)


def _warp(prediction: Any, frozen: FrozenNetworks, table: LossWeights) -> Tensor:
    is_alone = isinstance(prediction, WarpPrediction)
    warped = prediction.warped if is_alone else prediction.made.warped
    return warp_loss(warped, frames_to_batch(prediction.target), prediction.objective.view)


def _adversarial(prediction: Any, frozen: FrozenNetworks, table: LossWeights) -> Tensor:
    is_frames = isinstance(prediction, FramePrediction)
    return adversarial_loss(prediction.scores if is_frames else prediction.made.scores[0])


def _perceptual(prediction: Any, frozen: FrozenNetworks, table: LossWeights) -> Tensor:
    if frozen.perceptual is None:
        raise ValueError("the loss perceptual needs LPIPS, and it was not loaded")
    return perceptual_loss(prediction.frames, prediction.target, frozen.perceptual)


def _trepa(prediction: Any, frozen: FrozenNetworks, table: LossWeights) -> Tensor:
    if frozen.temporal is None:
        raise ValueError("the loss trepa needs a video encoder, and none was loaded")
    features = temporal_features(frozen.temporal)
    return trepa_distance(prediction.frames, prediction.target, features, normalise=table.trepa_normalise)


LOSSES = (
    LossTerm("noise", lambda it, frozen, table: noise_loss(it.made.predicted, it.encoded.noise)),
    LossTerm(
        "clean",
        lambda it, frozen, table: clean_loss(
            it.made.predicted, it.encoded.latents, it.objective.latent_weights
        ),
    ),
    LossTerm(
        "change",
        lambda it, frozen, table: clean_loss(it.clean, it.made.latents, it.objective.latent_weights),
    ),
    LossTerm("reconstruction", _reconstruction),
    LossTerm("warp", _warp),
    LossTerm("sync", _sync, network="syncnet"),
    LossTerm("adversarial", _adversarial),
    LossTerm("perceptual", _perceptual, network="perceptual"),
    LossTerm("trepa", _trepa, network="temporal"),
)


def build_training_scheduler(noise: NoiseTable) -> DDIMScheduler:
    """The schedule that noise is added by, which knows what the U-Net predicts.

    A network that predicts clean latents starts denoising at the noisiest timestep ("trailing").
    """
    return build_scheduler("sample", "trailing") if noise.prediction == "clean" else build_scheduler()


def draw_noise(size: torch.Size, generator: torch.Generator, table: NoiseTable) -> Tensor:
    """Noise (b c f h w) of the recipe's kind, on the CPU.

    Source: the paper, section 3.1 (mixed); without it the official code shares one frame.
    """
    batch, channels, frames, rows, columns = size
    shape = (batch, channels, frames, rows, columns)
    if table.kind == "shared":
        return shared_noise(shape, generator)
    return mixed_noise(shape, generator, alpha=table.alpha if table.kind == "mixed" else 0.0)


def to_video(frames_u8: Tensor) -> Tensor:
    """Frames (b f h w c) in 0..255 as video (b c f h w) in -1..1."""
    expect_axes(frames_u8, "b f h w c", c=3)
    return to_pm1(frames_u8.permute(0, 4, 1, 2, 3))  # b c f h w


def resized(video: Tensor, side: int) -> Tensor:
    """Video (b c f h w) with pictures of `side` pixels a side."""
    if video.shape[3:] == (side, side):
        return video
    images = functional.interpolate(frames_to_batch(video), (side, side), mode="bilinear", antialias=True)
    return batch_to_frames(images, frames=video.shape[2])


def _region(video: Tensor, syncnet: FramewiseSyncNet) -> Tensor:
    """The region that a framewise SyncNet takes of frames (b 3 f h w): (b c f rows columns)."""
    region = cut_region(frames_to_batch(video), syncnet.config)
    return batch_to_frames(region, frames=video.shape[2]).to(next(syncnet.parameters()))


def _mean_with_speech(losses: Tensor, batch: Batch) -> Tensor:
    """Mean of losses (b,) over the samples with speech: with silence no mouth is in or out of sync."""
    counts = batch["has_speech"].to(losses)
    return (losses * counts).sum() / counts.sum().clamp(min=1)


def _to_frames_u8(images_pm1: Tensor) -> NDArray[np.uint8]:
    """Pictures (f c h w) in -1..1 as (f h w c) in 0..255."""
    return to_u8(images_pm1.float()).permute(0, 2, 3, 1).cpu().numpy()
