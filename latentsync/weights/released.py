"""Weights that others have published: LatentSync 1.0, 1.5 and 1.6, and the Stable Diffusion autoencoder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from latentsync.audio.whisper import WhisperEncoder
from latentsync.errors import WeightsError
from latentsync.models.unet import LipUNet, build_unet
from latentsync.models.vae import FaceVAE, build_vae
from latentsync.recipe.networks import UNetConfig, VAEConfig, WhisperDims
from latentsync.weights.checkpoints import FORMAT, assign_strictly, is_checkpoint, load_checkpoint, read_note
from latentsync.weights.fingerprints import describe_unknown, identify
from latentsync.weights.read import DOWNLOAD_AGAIN, Content, read_content

SAMPLE_CHANNELS = 13  # noisy, mask, masked, reference: 4 + 1 + 4 + 4
LATENT_CHANNELS = 4
MANY_DIGITS = 4  # of a block's number in a key
OTHER_UNETS = {
    4: "as Stable Diffusion's",
    8: "as MuseTalk's and InstructPix2Pix's",
    9: "as Stable Diffusion inpainting's",
}
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

WHISPER_RENAMES = (
    (r"^positional_embedding$", "embed_positions.weight"),
    (r"^blocks\.", "layers."),
    (r"^ln_post\.", "layer_norm."),
    (r"\.attn\.query\.", ".self_attn.q_proj."),
    (r"\.attn\.key\.", ".self_attn.k_proj."),
    (r"\.attn\.value\.", ".self_attn.v_proj."),
    (r"\.attn\.out\.", ".self_attn.out_proj."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
)
WHISPER_PREFIXES = ("model.encoder.", "encoder.")
WHISPER_DECODER = ("model.decoder.", "decoder.", "proj_out.")
WHISPER_NAMED = "give OpenAI's tiny.pt, a Hugging Face Whisper folder or its model.safetensors"
HEAD_CHANNELS = 64  # of every released Whisper, where a file does not say

VERSION_NEEDS = {"1.0": "1.0", "1.5": "1.5 or 1.6", "1.6": "1.5 or 1.6"}


def read_unet_file(path: Path) -> dict[str, Tensor]:
    """Read a U-Net's tensors under the reference's names: bare, or under "state_dict" beside "global_step".

    Raises:
        WeightsError: the file is damaged or holds another network, which the message names.
    """
    content = read_content(path)
    require_unet(content, path)
    return content.tensors


def require_unet(content: Content, path: Path) -> None:
    """Refuse what is no U-Net by its keys, and say what it is.

    Raises:
        WeightsError: it holds another network.
    """
    found = identify(content)
    if (
        found is not None
        or "conv_in.weight" not in content.tensors
        or "conv_out.weight" not in content.tensors
    ):
        found = found or describe_unknown(content.tensors)
        raise WeightsError(f"{str(path)!r} is not a LatentSync U-Net: it {found.what}", hint=found.use)


def name_of(key: str) -> str | None:
    """What diffusers calls the reference's U-Net key `key`; None for a table that is the same as another.

    >>> name_of("down_blocks.0.attentions.0.transformer_blocks.0.audio_cross_attn.norm.bias")
    'down_blocks.0.attentions.0.transformer_blocks.0.norm2.bias'
    """
    if key.endswith(SECOND_TABLE):
        return None
    for theirs, ours in UNET_RENAMES:
        key = key.replace(theirs, ours)
    return key


def rename_unet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the reference's U-Net tensors, of any version, the names that diffusers uses.

    Raises:
        WeightsError: the two positional tables of a temporal transformer differ, so that one cannot do for
            both, or two keys name one tensor.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = name_of(key)
        if name is None:
            first = tensors.get(key.replace("attention_blocks.1", "attention_blocks.0"))
            # diffusers keeps one table for both attentions, so a second one may only repeat it.
            if first is not None and not first.is_meta and not _is_equal(first, tensor):
                raise WeightsError(f"{key!r} differs from the first attention's table", hint=NAMED)
        elif name in renamed:
            raise WeightsError(f"{key!r} is given twice, under the names of two versions", hint=NAMED)
        else:
            renamed[name] = tensor
    return renamed


def unet_config_of(tensors: Mapping[str, Tensor], path: Path) -> UNetConfig:
    """Read the sizes of a U-Net from its tensors (under diffusers' names); heads and groups are as released.

    Raises:
        WeightsError: the channels are those of another kind of U-Net.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    levels = _count(shapes, r"down_blocks\.(\d+)\.")
    block_out_channels = tuple(
        _size(shapes, f"down_blocks.{level}.resnets.0.conv1.weight", 0) for level in range(levels)
    )
    audio_keys = [
        key for key in shapes if key.endswith("attn2.to_k.weight") and ".motion_modules." not in key
    ]
    sample_channels = _size(shapes, "conv_in.weight", 1)
    latent_channels = _size(shapes, "conv_out.weight", 0)
    moving = [key for key in shapes if ".motion_modules." in key]
    tables = [key for key in moving if key.endswith(".pos_embed.pe")]
    audio_width = _size(shapes, audio_keys[0], 1) if audio_keys else 0
    faults = []
    if sample_channels != SAMPLE_CHANNELS:
        known = f" ({OTHER_UNETS[sample_channels]})" if sample_channels in OTHER_UNETS else ""
        faults.append(f"it takes {sample_channels} channels{known}, expected {SAMPLE_CHANNELS}")
    if latent_channels != LATENT_CHANNELS:
        faults.append(f"it predicts {latent_channels} latent channels, expected {LATENT_CHANNELS}")
    if audio_width not in WHISPER_WIDTHS:
        faults.append(f"it takes audio features of width {audio_width}, expected one of {WHISPER_WIDTHS}")
    if 0 in block_out_channels or not levels:
        faults.append(f"levels without a first convolution: {block_out_channels}")
    try:
        if faults:
            raise ValueError("; ".join(faults))
        return UNetConfig(
            block_out_channels=block_out_channels,
            layers_per_block=_count(shapes, r"down_blocks\.0\.resnets\.(\d+)\."),
            motion=bool(moving),
            motion_max_frames=_size(shapes, tables[0], 1) if tables else 24,
            attention_levels=tuple(
                f"down_blocks.{level}.attentions.0.norm.weight" in shapes for level in range(levels)
            ),
            motion_modules="decoder" if moving and not any("down" in key for key in moving) else "all",
            audio_dim=audio_width,
            adapter_dim=0,
            attention_head_dim=8,
            norm_num_groups=32,
            norm_over="window",
            view="face",
            reference_residual=False,
            warp_widths=(),
        )
    except ValueError as error:
        raise WeightsError(f"{str(path)!r} is not a LatentSync U-Net: {error}", hint=NAMED) from error


def version_of(config: UNetConfig) -> str:
    """Which released version has this structure; 1.5 and 1.6 differ only in what they were trained on."""
    if not config.motion:
        return "1.0"
    return "1.5 or 1.6" if config.motion_modules == "all" else "stage2_efficient"


def require_version(config: UNetConfig, path: Path, version: str | None) -> None:
    """Refuse the U-Net of another released version than `version` ("1.0", "1.5" or "1.6"); None takes any.

    Raises:
        WeightsError: it is another one's.
    """
    found = version_of(config)
    if version is None or VERSION_NEEDS.get(version) == found:
        return
    has = "with motion modules" if config.motion else "without motion modules"
    has = "with motion modules in the decoder only" if config.motion_modules == "decoder" else has
    named = "latentsync-1.0" if found == "1.0" else "latentsync-1.5, or the file's own path,"
    raise WeightsError(
        f"{str(path)!r} is the U-Net of LatentSync {found} ({has}), and not that of {version}",
        hint=f"use it with --model {named} or run `latentsync models pull latentsync-{version}`",
    )


def unet_from_released(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    version: str | None = None,
) -> LipUNet:
    """Load the U-Net of LatentSync 1.0 (no motion), 1.5 or 1.6, or a decoder-only one, in eval mode.

    Args:
        version: the only one that will do, "1.0", "1.5" or "1.6"; None: any.

    Raises:
        WeightsError: the file is damaged, holds another network or version, or a key is missing or left over.
    """
    tensors = rename_unet(read_unet_file(path))
    config = unet_config_of(tensors, path)
    require_version(config, path, version)
    with torch.device("meta"):
        # Nothing is allocated or drawn there: the file's own tensors are put in.
        unet = build_unet(config)
    assign_strictly(unet, tensors, path, device=device, dtype=dtype)
    return unet.eval()


def load_unet(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    version: str | None = None,
) -> LipUNet:
    """Load a U-Net, as released or ours (imported or trained), decided by the file, in eval mode.

    Raises:
        WeightsError: the file is damaged, holds another network or version, or a key is missing or left over.
    """
    if not is_checkpoint(path):
        return unet_from_released(path, device=device, dtype=dtype, version=version)
    unet = load_checkpoint(
        path, kind="unet", config_type=UNetConfig, build=build_unet, device=device, dtype=dtype
    )
    require_version(unet.config, path, version)
    return unet


def vae_from_released(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> FaceVAE:
    """Load Stable Diffusion's autoencoder from a diffusers folder or its weights file, in eval mode.

    Raises:
        WeightsError: the file is damaged, is no such autoencoder, or a key is missing or left over.
    """
    if path.is_dir():
        path = _weights_in(path)
    content = read_content(path)
    tensors = content.tensors
    if "encoder.down_blocks.0.resnets.0.conv1.weight" not in tensors or "quant_conv.weight" not in tensors:
        found = identify(content) or describe_unknown(tensors)
        raise WeightsError(
            f"{str(path)!r} is not Stable Diffusion's VAE in diffusers layout: it {found.what}",
            hint="run `latentsync models pull sd-vae-ft-mse`, which gets diffusion_pytorch_model.safetensors",
        )
    for theirs, ours in VAE_RENAMES:
        tensors = {key.replace(theirs, ours): tensor for key, tensor in tensors.items()}
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    latent_channels = _size(shapes, "decoder.conv_in.weight", 1)
    if latent_channels != LATENT_CHANNELS:
        raise WeightsError(
            f"the VAE {str(path)!r} has {latent_channels} latent channels, expected {LATENT_CHANNELS}",
            hint="LatentSync works on the latents of stabilityai/sd-vae-ft-mse",
        )
    levels = range(_count(shapes, r"encoder\.down_blocks\.(\d+)\."))
    config = VAEConfig(
        block_out_channels=tuple(
            _size(shapes, f"encoder.down_blocks.{level}.resnets.0.conv1.weight", 0) for level in levels
        ),
        num_blocks=_count(shapes, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
    )
    with torch.device("meta"):
        vae = build_vae(config)
    assign_strictly(vae, tensors, path, device=device, dtype=dtype)
    return vae.eval()


def load_whisper(path: Path, *, device: torch.device | str, dtype: torch.dtype) -> WhisperEncoder:
    """Load the encoder of a Whisper model, in eval mode and without gradients.

    Args:
        path: OpenAI's `tiny.pt`, a Hugging Face folder or its `model.safetensors`, or our own safetensors.
        device: where the encoder goes.
        dtype: number format of its weights and of its states.

    Raises:
        WeightsError: the file is missing, damaged, or not a Whisper encoder with 80 mel bands.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    tensors, dims = whisper_of(read_content(file), file)
    with torch.device("meta"):
        encoder = WhisperEncoder(dims)
    assign_strictly(encoder.transformer, tensors, file, device=device, dtype=dtype)
    return encoder.eval().requires_grad_(False)


def whisper_of(content: Content, path: Path) -> tuple[dict[str, Tensor], WhisperDims]:
    """The tensors of a Whisper encoder under Hugging Face's names, and its dimensions.

    Raises:
        WeightsError: it holds another network, or its dimensions are not those of its tensors.
    """
    names = {key: whisper_name(key) for key in content.tensors if not key.startswith(WHISPER_DECODER)}
    tensors = {name: content.tensors[key] for key, name in names.items()}
    if "conv1.weight" not in tensors or "embed_positions.weight" not in tensors:
        found = identify(content) or describe_unknown(content.tensors)
        raise WeightsError(f"{str(path)!r} is not a Whisper: it {found.what}", hint=WHISPER_NAMED)
    return tensors, _whisper_dims(path, tensors, _stated_dims(content, path))


def whisper_name(key: str) -> str:
    """What Hugging Face calls the encoder tensor `key` of any layout.

    >>> whisper_name("encoder.blocks.0.attn.query.weight")
    'layers.0.self_attn.q_proj.weight'
    """
    name = next((key.removeprefix(prefix) for prefix in WHISPER_PREFIXES if key.startswith(prefix)), key)
    for pattern, replacement in WHISPER_RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _stated_dims(content: Content, path: Path) -> Mapping[str, object]:
    """The dimensions that a Whisper file states: in itself, or in the config.json beside it."""
    if content.beside.get("format") == FORMAT:
        note = read_note(path)
        if note.kind != "whisper":
            raise WeightsError(
                f"{str(path)!r} holds {note.kind} weights, expected whisper weights", hint=WHISPER_NAMED
            )
        return note.config
    if isinstance(content.beside.get("dims"), dict):  # OpenAI's layout
        return dict(content.beside["dims"])
    config = path.with_name("config.json")
    try:
        stated = json.loads(config.read_bytes()) if config.is_file() else {}
        return {"n_audio_head": stated["encoder_attention_heads"]} if stated else {}
    except (ValueError, LookupError, TypeError, OSError, RecursionError) as error:
        message = f"'{config}' does not state the Whisper's number of attention heads"
        raise WeightsError(message, hint=DOWNLOAD_AGAIN) from error


def _whisper_dims(path: Path, tensors: Mapping[str, Tensor], stated: Mapping[str, object]) -> WhisperDims:
    """Dimensions as the file states them; what it does not state follows from the tensors."""
    positions, conv = tensors["embed_positions.weight"], tensors["conv1.weight"]
    if (positions.ndim, conv.ndim) != (2, 3):
        raise WeightsError(f"{str(path)!r} has Whisper's names but not its shapes", hint=WHISPER_NAMED)
    context, width = positions.shape
    found = {
        "n_mels": conv.shape[1],
        "n_audio_ctx": context,
        "n_audio_state": width,
        "n_audio_head": width // HEAD_CHANNELS,
        "n_audio_layer": len({name.split(".")[1] for name in tensors if name.startswith("layers.")}),
    }
    for name, number in found.items():
        value = stated.get(name, number)
        if value != number and (name != "n_audio_head" or type(value) is not int):
            fault = f"{name} is {value!r}, but its tensors say {number}"
            raise WeightsError(f"{str(path)!r}: {fault}", hint=DOWNLOAD_AGAIN)
        found[name] = number if name != "n_audio_head" else value
    dims = WhisperDims(**found)
    if (dims.n_mels, dims.n_audio_ctx) != (80, 1500):
        raise WeightsError(
            f"{str(path)!r}: {dims.n_mels} mel bands and {dims.n_audio_ctx} states, expected 80 and 1500",
            hint="use Whisper tiny, which the released models were trained with",
        )
    if dims.n_audio_head < 1 or dims.n_audio_state % dims.n_audio_head or not dims.n_audio_layer:
        heads = f"{dims.n_audio_state} features do not divide into {dims.n_audio_head} heads"
        raise WeightsError(f"{str(path)!r}: {heads}", hint=WHISPER_NAMED)
    return dims


def _weights_in(folder: Path) -> Path:
    names = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
    for candidate in (folder / inner / name for inner in ("", "vae") for name in names):
        if candidate.is_file():
            return candidate
    hint = "give the folder that diffusers saved the VAE in"
    raise WeightsError(f"no {names[0]} in {str(folder)!r}", hint=hint)


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    """How many there are, numbered without a gap, so that no number in a key makes a network of any size."""
    found = {
        int(match[1]) for key in shapes if (match := re.match(pattern, key)) and len(match[1]) < MANY_DIGITS
    }
    return next(number for number in range(len(found) + 1) if number not in found)


def _size(shapes: Mapping[str, tuple[int, ...]], key: str, axis: int) -> int:
    """The size of one axis of a tensor; 0 where there is no such tensor or axis."""
    shape = shapes.get(key, ())
    return shape[axis] if axis < len(shape) else 0


def _is_equal(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and first.shape == second.shape and torch.equal(first, second)
