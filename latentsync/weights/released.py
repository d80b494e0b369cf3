"""Weights that others have published: LatentSync 1.0, 1.5 and 1.6, and the Stable Diffusion autoencoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from latentsync.errors import WeightsError
from latentsync.models.unet import LipUNet, UNetConfig, build_unet
from latentsync.models.vae import FaceVAE, VAEConfig, build_vae
from latentsync.weights.checkpoints import assign_strictly
from latentsync.weights.tensor_files import name_keys, read_tensors

SAMPLE_CHANNELS = 13  # noisy, mask, masked, reference: 4 + 1 + 4 + 4
LATENT_CHANNELS = 4
OTHER_UNETS = {4: "as Stable Diffusion's", 9: "as Stable Diffusion inpainting's"}
NAMED = "the U-Net is the file that the LatentSync release calls latentsync_unet.pt"
WHISPER_WIDTHS = (384, 768)  # whisper tiny and small, the two that LatentSync was built for

UNET_RENAMES = (
    (".audio_cross_attn.norm.", ".norm2."),  # LatentSync 1.0
    (".audio_cross_attn.attn.", ".attn2."),
    (".temporal_transformer.", "."),
    (".attention_blocks.0.pos_encoder.pe", ".pos_embed.pe"),
    (".attention_blocks.0.", ".attn1."),
    (".attention_blocks.1.", ".attn2."),
    (".norms.0.", ".norm1."),
    (".norms.1.", ".norm2."),
    (".ff_norm.", ".norm3."),
)
SECOND_TABLE = ".attention_blocks.1.pos_encoder.pe"  # the same numbers as the first, which both read here

VAE_RENAMES = (
    (".query.", ".to_q."),
    (".key.", ".to_k."),
    (".value.", ".to_v."),
    (".proj_attn.", ".to_out.0."),
)

# A key that only this network has, and what to call the network; the first that fits is named in the error.
FINGERPRINTS = (
    ("audio_encoder.conv_in.weight", "a LatentSync SyncNet"),
    ("netcnnaud.0.weight", "the SyncNet v2 judge"),
    ("encoder.positional_embedding", "a Whisper model (OpenAI layout)"),
    ("model.encoder.embed_positions.weight", "a Whisper model (Hugging Face layout)"),
    ("encoder.embed_positions.weight", "a Whisper model (Hugging Face layout)"),
    ("model.diffusion_model.input_blocks.0.0.weight", "a whole Stable Diffusion checkpoint"),
    ("encoder.down.0.block.0.conv1.weight", "a VAE (original Stable Diffusion layout)"),
    ("encoder.down_blocks.0.resnets.0.conv1.weight", "a VAE"),
    ("decoder.layers.0.weight", "a small VAE"),
    ("blocks.0.attn.qkv.weight", "a vision transformer"),
)


def read_unet_file(path: Path) -> dict[str, Tensor]:
    """Read a U-Net's tensors under the reference's names: bare, or under "state_dict" beside "global_step".

    Raises:
        WeightsError: the file is damaged or holds another network, which the message names.
    """
    tensors = read_tensors(path)
    if "conv_in.weight" not in tensors or "conv_out.weight" not in tensors:
        raise WeightsError(
            f"{str(path)!r} is not a LatentSync U-Net: it {describe(tensors)}",
            hint=NAMED,
        )
    return tensors


def describe(tensors: Mapping[str, Tensor]) -> str:
    """Say which network `tensors` seem to belong to."""
    for key, name in FINGERPRINTS:
        if key in tensors:
            return f"seems to be {name}"
    if all("motion_modules." in key for key in tensors):
        return "seems to hold motion modules only"
    return f"is unknown, with keys {name_keys(set(tensors))}"


def rename_unet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the reference's U-Net tensors, of any version, the names that diffusers uses.

    Raises:
        WeightsError: the two positional tables of a temporal transformer differ, so one cannot do for both.
    """
    renamed = {}
    for key, tensor in tensors.items():
        if key.endswith(SECOND_TABLE):
            first = tensors.get(key.replace("attention_blocks.1", "attention_blocks.0"))
            if first is not None and not first.is_meta and not torch.equal(first, tensor):
                raise WeightsError(f"{key!r} differs from the first attention's table", hint=NAMED)
            continue
        for theirs, ours in UNET_RENAMES:
            key = key.replace(theirs, ours)
        renamed[key] = tensor
    return renamed


def unet_config_of(tensors: Mapping[str, Tensor], path: Path) -> UNetConfig:
    """Read the sizes of a U-Net from its tensors (under diffusers' names); heads and groups are as released.

    Raises:
        WeightsError: the channels are those of another kind of U-Net.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    levels = _count(shapes, r"down_blocks\.(\d+)\.")
    block_out_channels = tuple(
        shapes.get(f"down_blocks.{level}.resnets.0.conv1.weight", (0,))[0] for level in range(levels)
    )
    hearing = [key for key in shapes if key.endswith("attn2.to_k.weight") and ".motion_modules." not in key]
    sample_channels, latent_channels = shapes["conv_in.weight"][1], shapes["conv_out.weight"][0]
    moving = [key for key in shapes if ".motion_modules." in key]
    audio_width = shapes[hearing[0]][1] if hearing else 0
    faults = []
    if sample_channels != SAMPLE_CHANNELS:
        known = f" ({OTHER_UNETS[sample_channels]})" if sample_channels in OTHER_UNETS else ""
        faults.append(f"it takes {sample_channels} channels{known}, expected {SAMPLE_CHANNELS}")
    if latent_channels != LATENT_CHANNELS:
        faults.append(f"it predicts {latent_channels} latent channels, expected {LATENT_CHANNELS}")
    if audio_width not in WHISPER_WIDTHS:
        faults.append(f"it hears features of width {audio_width}, expected one of {WHISPER_WIDTHS}")
    if 0 in block_out_channels:
        faults.append(f"levels without a first convolution: {block_out_channels}")
    try:
        if faults:
            raise ValueError("; ".join(faults))
        return UNetConfig(
            block_out_channels=block_out_channels,
            cross_attention_dim=audio_width,
            layers_per_block=_count(shapes, r"down_blocks\.0\.resnets\.(\d+)\."),
            motion=bool(moving),
            motion_max_seq_length=next(
                (shape[1] for key, shape in shapes.items() if key.endswith(".pos_embed.pe")), 24
            ),
            attention_levels=tuple(
                f"down_blocks.{level}.attentions.0.norm.weight" in shapes for level in range(levels)
            ),
            motion_place="decoder" if moving and not any("down" in key for key in moving) else "everywhere",
        )
    except ValueError as error:
        raise WeightsError(f"{str(path)!r} is not a LatentSync U-Net: {error}", hint=NAMED) from error


def unet_from_released(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LipUNet:
    """Load the U-Net of LatentSync 1.0 (no motion), 1.5 or 1.6, or a decoder-only one, in eval mode.

    Raises:
        WeightsError: the file is damaged, holds another network, or a key is missing or left over.
    """
    tensors = rename_unet(read_unet_file(path))
    config = unet_config_of(tensors, path)
    with torch.device("meta"):
        unet = build_unet(config)
    assign_strictly(unet, tensors, path, device=device, dtype=dtype)
    return unet.eval()


def vae_from_released(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> FaceVAE:
    """Load Stable Diffusion's autoencoder from a diffusers folder or its weights file, in eval mode.

    Raises:
        WeightsError: the file is damaged, is no such autoencoder, or a key is missing or left over.
    """
    if path.is_dir():
        path = _weights_in(path)
    tensors = read_tensors(path)
    if "encoder.down_blocks.0.resnets.0.conv1.weight" not in tensors or "quant_conv.weight" not in tensors:
        raise WeightsError(
            f"{str(path)!r} is not Stable Diffusion's VAE in diffusers layout: it {describe(tensors)}",
            hint="get diffusion_pytorch_model.safetensors of stabilityai/sd-vae-ft-mse",
        )
    for theirs, ours in VAE_RENAMES:
        tensors = {key.replace(theirs, ours): tensor for key, tensor in tensors.items()}
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    latent_channels = shapes.get("decoder.conv_in.weight", (0, 0))[1]
    if latent_channels != LATENT_CHANNELS:
        raise WeightsError(
            f"the VAE {str(path)!r} has {latent_channels} latent channels, expected {LATENT_CHANNELS}",
            hint="LatentSync works on the latents of stabilityai/sd-vae-ft-mse",
        )
    levels = range(_count(shapes, r"encoder\.down_blocks\.(\d+)\."))
    config = VAEConfig(
        block_out_channels=tuple(
            shapes.get(f"encoder.down_blocks.{level}.resnets.0.conv1.weight", (0,))[0] for level in levels
        ),
        num_blocks=_count(shapes, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
    )
    with torch.device("meta"):
        vae = build_vae(config)
    assign_strictly(vae, tensors, path, device=device, dtype=dtype)
    return vae.eval()


def _weights_in(folder: Path) -> Path:
    names = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
    for candidate in (folder / place / name for place in ("", "vae") for name in names):
        if candidate.is_file():
            return candidate
    hint = "give the folder that diffusers saved the VAE in"
    raise WeightsError(f"no {names[0]} in {str(folder)!r}", hint=hint)


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    found = [int(match[1]) for key in shapes if (match := re.match(pattern, key))]
    return max(found, default=-1) + 1
