"""What a training begins with: Stable Diffusion 1.5, a released or trained U-Net, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latentsync.errors import WeightsError
from latentsync.models.unet import LipUNet, build_unet
from latentsync.recipe.networks import UNetConfig
from latentsync.weights.checkpoints import config_of, is_checkpoint, read_note
from latentsync.weights.read import name_keys, read_tensors
from latentsync.weights.released import OTHER_UNETS, SAMPLE_CHANNELS, read_unet_file, rename_unet

MOTION = ".motion_modules."
STABLE_DIFFUSION_CHANNELS = 4
# Parameters whose size may differ from that in the file; they start at random values.
FROM_STABLE_DIFFUSION = ("conv_in.weight", "attn2.to_k.weight", "attn2.to_v.weight")
FROM_OTHER_VIEW = ("conv_in.weight", "conv_out.weight", "conv_out.bias")
# Settings that no tensor shows: a network with other ones would load and compute something else.
UNSEEN = ("attention_head_dim", "norm_num_groups", "norm_over")


@dataclass(frozen=True, slots=True)
class Start:
    """What became of the tensors of a network and of a file.

    copied    how many were taken from the file
    new       names of those that were not, and keep their random values
    left_out  names in the file that the network has no use for
    """

    source: str
    copied: int
    new: tuple[str, ...]
    left_out: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report for people."""
        said = [f"start: {self.source}: {self.copied} tensors copied"]
        for names, what in ((self.new, "new, with random values"), (self.left_out, "left out")):
            if names:
                said.append(f"start: {what}: {name_keys(set(names))}")
        return said


def start_unet(config: UNetConfig, path: Path | None) -> tuple[LipUNet, Start]:
    """Build the U-Net that `config` describes and give it all that fits from `path`.

    From Stable Diffusion 1.5, the first convolution (13 channels for 4) and the keys and values of the
    attention to speech (384 for 768 wide) are new; from a network with another view of the face, the first
    and the last convolution. From a network without motion modules, those are new; into one without, they are
    left out. Anything else that does not fit is an error.

    Args:
        path: a U-Net of diffusers, of a LatentSync release, or trained here; None: random values from torch's
            global generator.

    Raises:
        WeightsError: the file is damaged, or of another network.

    Source: the paper, section 3.2. The official code leaves the first convolution at zero; ours is random,
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
        may_differ = FROM_OTHER_VIEW
    fitting = {key: tensor for key, tensor in tensors.items() if _fits(key, tensor, own)}
    new = tuple(key for key in own if key not in fitting)
    left_out = tuple(key for key in tensors if key not in own)
    _refuse_misfits(own, tensors, path, may_differ=may_differ)
    unet.load_state_dict({**own, **fitting})
    return unet, Start(str(path), len(fitting), new, left_out)


def choose_trainable(network: torch.nn.Module, patterns: tuple[str, ...]) -> int:
    """Train only the parameters whose name contains one of `patterns`, or all without any; how many numbers.

    Raises:
        ValueError: a pattern is found in no name.
    """
    named = dict(network.named_parameters())
    for pattern in patterns:
        if not any(pattern in name for name in named):
            raise ValueError(f"'{pattern}' is in no parameter's name, such as {next(iter(named))}")
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
    missing = {key for key in own if key not in tensors and MOTION not in key}
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
            f"{str(path)!r} holds a {note.kind}, expected a unet", hint="give a U-Net to start from"
        )
    made = config_of(note, UNetConfig)
    for name in UNSEEN:
        found, wanted = getattr(made, name), getattr(config, name)
        if found != wanted:
            raise WeightsError(
                f"{str(path)!r} was made with {name} = {found!r}, and the recipe has {wanted!r}",
                hint="use the recipe's sizes of the earlier stage",
            )
