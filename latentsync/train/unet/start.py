"""The network that `train-unet` trains: built, initialised from weights or not, and frozen in part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from latentsync.axes import batch_to_frames, frames_to_batch
from latentsync.diffusion.view import Warp
from latentsync.errors import RecipeError, WeightsError
from latentsync.events import Note, Report
from latentsync.models.autoencoder import AnyAutoencoder
from latentsync.models.discriminator import LatentDiscriminator
from latentsync.models.unet import LipUNet, build_unet
from latentsync.models.warp import Warped
from latentsync.models.wav2lip import LowerHalfDiscriminator, Wav2Lip, build_wav2lip
from latentsync.recipe.networks import UNetConfig, Wav2LipConfig
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.train.checkpoint import export_best
from latentsync.train.setup import TrainingJob
from latentsync.train.unet.frozen import Networks
from latentsync.train.unet.objective import build_training_scheduler
from latentsync.train.unet.warp import Generated, ShownReferences
from latentsync.weights.checkpoints import config_of, is_checkpoint, load_checkpoint, read_note
from latentsync.weights.read import name_keys, read_tensors
from latentsync.weights.released import OTHER_UNETS, SAMPLE_CHANNELS, read_unet_file, rename_unet

MOTION = ".motion_modules."
RESIDUAL, WARP = "residual.", "warp."
MAY_BE_NEW = (MOTION, RESIDUAL, WARP)
STABLE_DIFFUSION_CHANNELS = 4
NetworkConfig = UNetConfig | Wav2LipConfig
# Parameters whose size may differ from that in the file; they start at random values.
FROM_STABLE_DIFFUSION = ("conv_in.weight", "attn2.to_k.weight", "attn2.to_v.weight")
FROM_OTHER_VIEW = ("conv_in.weight", "conv_out.weight", "conv_out.bias")
# Settings that no tensor shows: a network with others would load without an error and compute nonsense.
UNSEEN = ("attention_head_dim", "norm_num_groups", "norm_over")


@dataclass(frozen=True, slots=True)
class Start:
    """What became of the tensors of a network and of a file.

    copied    how many were taken from the file
    new       names of those that were not, and keep their random values
    left_out  names in the file that the network does not have
    """

    source: str
    copied: int
    new: tuple[str, ...]
    left_out: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report, a line each."""
        lines = [f"start: {self.source}: {self.copied} tensors copied"]
        for names, what in ((self.new, "new, with random values"), (self.left_out, "left out")):
            if names:
                lines.append(f"start: {what}: {name_keys(set(names))}")
        return lines


def start_unet(config: UNetConfig, path: Path | None) -> tuple[LipUNet, Start]:
    """Build the U-Net that `config` describes and give it all that fits from `path`.

    From Stable Diffusion 1.5, the first convolution (13 channels for 4) and the keys and values of the
    attention to speech (384 for 768 wide) are new; from a network with another view of the face, the first
    and the last convolution. From a network without motion modules, reference residual or warp, those are
    new; into one without motion modules, they are left out. Anything else that does not fit is an error.

    Args:
        path: a U-Net of diffusers, of a LatentSync release, or trained here; None: random values from torch's
            global generator.

    Raises:
        WeightsError: the file is damaged, or of another network.

    Source: the paper, section 3.1. The official code leaves the first convolution at zero; ours is random,
    because nothing could be learnt from the latents in the first steps.
    """
    unet = build_unet(config)
    if path is None:
        return unet, Start("scratch", 0, tuple(unet.state_dict()), ())
    is_ours = is_checkpoint(path)
    if is_ours:
        _refuse_unseen_differences(config, path)
    tensors = read_tensors(path) if is_ours else rename_unet(read_unet_file(path))
    own = unet.state_dict()
    may_differ = FROM_STABLE_DIFFUSION if _is_from_stable_diffusion(tensors, config) else ()
    if is_ours and read_note(path).config.get("view", "face") != config.view:
        # The first and last convolution depend on what is seen and generated; the blocks between do not.
        may_differ = FROM_OTHER_VIEW
    fitting = {key: tensor for key, tensor in tensors.items() if _fits(key, tensor, own)}
    new = tuple(key for key in own if key not in fitting)
    left_out = tuple(key for key in tensors if key not in own)
    _refuse_misfits(own, tensors, path, may_differ=may_differ)
    # Strict: what the file lacks is there with the network's own random values.
    unet.load_state_dict({**own, **fitting})
    return unet, Start(str(path), len(fitting), new, left_out)


def choose_trainable(network: torch.nn.Module, patterns: tuple[str, ...]) -> int:
    """Train only the parameters whose name contains one of `patterns`, or all without any; counts them.

    Raises:
        ValueError: a pattern is found in no name.
    """
    named = dict(network.named_parameters())
    for pattern in patterns:
        if not any(pattern in name for name in named):
            raise ValueError(f"'{pattern}' matches no parameter name such as {next(iter(named))}")
    for name, parameter in named.items():
        parameter.requires_grad_(not patterns or any(pattern in name for pattern in patterns))
    return sum(parameter.numel() for parameter in named.values() if parameter.requires_grad)


def _fits(key: str, tensor: Tensor, own: Mapping[str, Tensor]) -> bool:
    return key in own and own[key].shape == tensor.shape


def _is_from_stable_diffusion(tensors: Mapping[str, Tensor], config: UNetConfig) -> bool:
    """Whether the tensors are Stable Diffusion's, by their first convolution, and `config` is not."""
    first = tensors.get("conv_in.weight")
    return first is not None and first.shape[1] == STABLE_DIFFUSION_CHANNELS != config.in_channels


def _refuse_misfits(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path, *, may_differ: tuple[str, ...]
) -> None:
    faults = []
    missing = {key for key in own if key not in tensors and not any(part in key for part in MAY_BE_NEW)}
    extra = {key for key in tensors if key not in own and MOTION not in key}
    for names, word in ((missing, "missing"), (extra, "unexpected")):
        if names:
            faults.append(f"{word} keys: {name_keys(names)}")
    for key, tensor in tensors.items():
        if key in own and own[key].shape != tensor.shape and not key.endswith(may_differ):
            faults.append(f"{key!r} has shape {tuple(tensor.shape)}, expected {tuple(own[key].shape)}")
            break
    if not faults:
        return
    channels = tensors["conv_in.weight"].shape[1]
    known = f" (its first convolution takes {channels} channels, {OTHER_UNETS.get(channels)})"
    raise WeightsError(
        f"{str(path)!r} does not fit the recipe's U-Net{known if channels in OTHER_UNETS else ''}:"
        f" {'; '.join(faults)}",
        hint=f"give a U-Net of the sizes in the recipe's table network, with {SAMPLE_CHANNELS} channels or"
        " Stable Diffusion 1.5's, or weights.start=scratch",
    )


def _refuse_unseen_differences(config: UNetConfig, path: Path) -> None:
    note = read_note(path)
    if note.kind != "unet":
        raise WeightsError(
            f"{str(path)!r} holds {note.kind} weights, expected unet weights",
            hint="give a U-Net to start from",
        )
    made = config_of(note, UNetConfig)
    for name in UNSEEN:
        found, wanted = getattr(made, name), getattr(config, name)
        if found != wanted:
            raise WeightsError(
                f"{str(path)!r} was trained with {name} = {found!r}, but the recipe has {wanted!r}",
                hint="use the recipe's sizes of the earlier stage",
            )


class UNetInTraining(nn.Module):
    """A `LipUNet` whose state dict has its network under its own name, as checkpoints of a training need.

    Checkpoints hold the discriminator that may be trained beside it, exports do not.
    """

    def __init__(self, unet: LipUNet, discriminator: LatentDiscriminator | None = None) -> None:
        super().__init__()
        for name, part in unet.named_children():  # the network, and what it has of adapter and residual
            self.add_module(name, part)
        self._unet = (unet,)  # in a tuple, so that its parameters are not registered twice
        self.discriminator = discriminator

    def forward(
        self,
        sample: Tensor,
        timesteps: Tensor,
        audio: Tensor,
        shown: ShownReferences | None = None,
        real: Tensor | None = None,
    ) -> Tensor | Warped | Generated:
        """What `LipUNet` predicts; with `shown` also the warped references, whose latents `sample` lacks.

        The warped references alone, if `shown` has no `encode`. With `real` latents (b c f h w) also what the
        discriminator makes of them.
        """
        unet = self._unet[0]
        if shown is None:
            predicted = torch.as_tensor(unet(sample, timesteps, audio))
            if real is None:
                return predicted
            reference = sample[:, -real.shape[1] :]
            return Generated(predicted, None, reference, self._scores(predicted, real, sample, audio))
        warped = unet.warp_reference(shown.windows_pm1, shown.known, audio)
        if shown.encode is None:
            return warped
        # The warp has a loss of its own: through the autoencoder it would learn to please the U-Net.
        latents = batch_to_frames(shown.encode(warped.pictures.detach()), frames=sample.shape[2])
        predicted = unet(torch.cat([sample, latents.to(sample)], dim=1), timesteps, audio)
        scores = () if real is None else self._scores(predicted, real, sample, audio)
        return Generated(predicted, warped, latents, scores)

    def _scores(
        self, predicted: Tensor, real: Tensor, sample: Tensor, audio: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert self.discriminator is not None
        channels, config = real.shape[1], self._unet[0].config
        last = config.in_channels - channels  # behind noisy latents and mask, before the reference
        known = frames_to_batch(sample[:, channels + 1 : last])
        adapter = self._unet[0].adapter
        tokens = None if adapter is None else adapter(audio)[0].detach()
        made = frames_to_batch(predicted)
        judged = self.discriminator.judge(made, known, tokens)
        generated = self.discriminator(made.detach(), known, tokens)
        return judged, generated, self.discriminator(frames_to_batch(real), known, tokens)

    def warp_for(self, audio: Tensor, guidance: float = 1.0) -> Warp | None:
        """As `LipUNet.warp_for`."""
        return self._unet[0].warp_for(audio, guidance)


class Wav2LipInTraining(nn.Module):
    """A Wav2Lip and the discriminator that is trained beside it: checkpoints hold it, exports do not."""

    def __init__(self, network: Wav2Lip) -> None:
        super().__init__()
        self.network = network
        self.discriminator = LowerHalfDiscriminator(network.config)

    def forward(self, masked: Tensor, reference: Tensor, mel: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """The frames (b 3 f h w) in -1..1, and three times logits (b·f).

        They are of these frames for the generator's loss, and of these frames and of `target` for the
        discriminator's. Gradients of the first do not reach the discriminator, those of the others not the
        generator.
        """
        frames: Tensor = self.network(masked, reference, mel)
        judged = self.discriminator(frames, mode="judge")
        generated = self.discriminator(frames.detach(), mode="train")
        return frames, judged, generated, self.discriminator(target, mode="train")


def build_generator(
    recipe: UNetTrainingRecipe, vae: AnyAutoencoder | None, start: Path | None, report: Report
) -> tuple[nn.Module, NetworkConfig]:
    """Build the network to train, with its initial weights; only the parameters that the recipe names train.

    Raises:
        RecipeError: a pattern of `trainable` matches nothing.
        WeightsError: the start is of another network.
    """
    torch.manual_seed(recipe.seed)  # model initialisation
    model: nn.Module
    config: NetworkConfig
    if recipe.generator == "unet" and vae is not None:
        config = recipe.network.replaced(latent_channels=vae.latent_channels)
        unet, begun = start_unet(config, start)
        for line in begun.lines() if start is not None else ():
            report(Note(line))
        if recipe.run.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        discriminator = None
        if recipe.loss.adversarial:
            # Latents, and what the U-Net is given but other latents, those of the reference, and the mask.
            seen = config.in_channels - config.latent_channels - 1
            discriminator = LatentDiscriminator(seen, tokens_dim=config.adapter_dim)
        model = UNetInTraining(unet, discriminator)
    else:
        config = recipe.wav2lip
        wav2lip = build_wav2lip(config)
        if start is not None:
            begun_with = load_checkpoint(
                start, kind="wav2lip", config_type=Wav2LipConfig, build=build_wav2lip
            )
            wav2lip.load_state_dict(begun_with.state_dict())
        model = Wav2LipInTraining(wav2lip) if recipe.loss.adversarial else wav2lip
    train_only(model, recipe.trainable)
    return model, config


def train_only(model: nn.Module, patterns: tuple[str, ...]) -> int:
    """Train what the recipe's `trainable` names; returns how many numbers.

    Raises:
        RecipeError: a pattern is in no parameter's name.
    """
    try:
        return choose_trainable(model, patterns)
    except ValueError as error:
        raise RecipeError(f"trainable: {error}", hint="use parts of parameter names, or []") from error


def describe_training(model: nn.Module, weights: Mapping[str, float]) -> str:
    """A line of the plan: how much of the network is trained, and with which losses."""
    every = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    losses = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
    return f"training: {trained / 1e6:.2f} of {every / 1e6:.2f} million parameters; losses: {losses}"


def export_generator(
    job: TrainingJob, recipe: UNetTrainingRecipe, *, networks: Networks, is_main: bool
) -> Path:
    """Export the best EMA weights, with what `sync` must know to use them; returns the file.

    Args:
        networks: the networks it was trained with, which `sync` requires; see `record_networks`.
    """
    facts = {
        "origin": "trained",
        "resolution": recipe.windows.resolution,
        "prediction_type": build_training_scheduler(recipe.noise).config.prediction_type,
        "audio_context_frames": recipe.windows.audio_context_frames,
        "networks": dict(networks),
    }
    path = job.output / f"{recipe.generator}.safetensors"
    return export_best(job.checkpoints, path, facts=facts, is_main=is_main)
