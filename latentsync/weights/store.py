"""Models by name: which files they are made of, where those are, and how a whole model is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from latentsync.errors import WeightsError

if TYPE_CHECKING:
    import torch

    from latentsync.audio.whisper import WhisperEncoder
    from latentsync.models.unet import LipUNet
    from latentsync.models.vae import FaceVAE

BUNDLED = Path(__file__).parent.parent / "bundled"
DEFAULT_MODEL = "compact"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model: its files, and how it wants to be used.

    resolution      side of the aligned crop in pixels
    steps           denoising steps when the recipe names none
    guidance        guidance when the recipe names none
    overlap_frames  frames that two windows share when the recipe names none
    note            what a person should know about it, one line
    """

    name: str
    unet: Path
    vae: Path
    whisper: Path
    resolution: int
    steps: int
    guidance: float
    overlap_frames: int
    prediction_type: Literal["epsilon", "v_prediction", "sample"]
    timestep_spacing: Literal["leading", "trailing"]
    is_released: bool
    note: str


@dataclass(frozen=True, slots=True)
class LipModel:
    """The networks of one model, loaded."""

    spec: ModelSpec
    unet: LipUNet
    vae: FaceVAE
    whisper: WhisperEncoder
    device: torch.device
    dtype: torch.dtype


def cache_folder() -> Path:
    """Where released weights are looked for: LATENTSYNC_CACHE, or `latentsync` in the user's cache."""
    chosen = os.environ.get("LATENTSYNC_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "latentsync"


def _compact(unet: Path) -> ModelSpec:
    """The compact model, or a U-Net trained like it, with the autoencoder beside it or the bundled one.

    Source: ours. The network was trained to give the clean latents from pure noise, so one step is enough; it
    mumbles without guidance (docs/experiments.md).
    """
    vae = unet.with_name("vae.safetensors")
    return ModelSpec(
        name="compact" if unet.parent == BUNDLED else str(unet),
        unet=unet,
        vae=vae if vae.exists() else BUNDLED / "vae.safetensors",
        whisper=BUNDLED / "whisper-tiny-en.safetensors",
        resolution=128,
        steps=1,
        guidance=1.5,
        overlap_frames=0,
        prediction_type="sample",
        timestep_spacing="trailing",
        is_released=False,
        note="small, for drafts on a CPU; better: --model latentsync-1.5 with its files (see README)",
    )


def _released(name: str, folder: Path, *, resolution: int) -> ModelSpec:
    """A released model in `folder`, with the files' released names.

    Source: the official `configs/unet/stage2*.yaml` and inference defaults.
    """
    shared = folder.parent
    return ModelSpec(
        name=name,
        unet=folder / "latentsync_unet.pt",
        vae=_first(folder / "sd-vae-ft-mse", shared / "sd-vae-ft-mse"),
        whisper=_first(folder / "whisper" / "tiny.pt", shared / "whisper" / "tiny.pt"),
        resolution=resolution,
        steps=20,
        guidance=1.5,
        overlap_frames=4,
        prediction_type="epsilon",
        timestep_spacing="leading",
        is_released=True,
        note="released weights",
    )


RESOLUTION_OF = {"latentsync-1.0": 256, "latentsync-1.5": 256, "latentsync-1.6": 512}


def find_model(name: str, *, resolution: int | None = None) -> ModelSpec:
    """The model called `name`, or the one whose U-Net or folder is at that path. Loads nothing.

    Args:
        resolution: overrides the side of the crop; needed for 512 px weights that are given by path.

    Raises:
        WeightsError: there is no such model, or one of its files is missing.
    """
    spec = _look_up(name)
    for part, path in (("U-Net", spec.unet), ("VAE", spec.vae), ("Whisper", spec.whisper)):
        if not path.exists():
            raise WeightsError(
                f"model '{name}': its {part} is missing: '{path}' does not exist",
                hint=f"put the released file there, or use --model {DEFAULT_MODEL}, which needs no download",
            )
    return spec if resolution is None else replace(spec, resolution=resolution)


def _look_up(name: str) -> ModelSpec:
    if name == DEFAULT_MODEL:
        return _compact(BUNDLED / "unet.safetensors")
    if name in RESOLUTION_OF:
        return _released(name, cache_folder() / name, resolution=RESOLUTION_OF[name])
    path = Path(name)
    if path.is_dir():
        ours = path / "unet.safetensors"
        return _compact(ours) if ours.exists() else _released(name, path, resolution=256)
    if path.is_file():
        from latentsync.weights.checkpoints import is_checkpoint

        if is_checkpoint(path):
            return _compact(path)
        return replace(_released(name, path.parent, resolution=256), unet=path)
    known = ", ".join([DEFAULT_MODEL, *RESOLUTION_OF])
    raise WeightsError(
        f"model '{name}': neither a known name nor an existing file or folder",
        hint=f"use one of {known}, or the path of a weights file",
    )


def _first(*places: Path) -> Path:
    return next((place for place in places if place.exists()), places[0])


def load_model(spec: ModelSpec, *, device: torch.device, dtype: torch.dtype) -> LipModel:
    """Load the networks of `spec`, strictly.

    Raises:
        WeightsError: a file is damaged or belongs to another network.
    """
    from latentsync.audio.whisper import load_whisper
    from latentsync.models.unet import UNetConfig, build_unet
    from latentsync.models.vae import VAEConfig, build_vae
    from latentsync.weights.checkpoints import load_checkpoint
    from latentsync.weights.released import unet_from_released, vae_from_released

    if spec.is_released:
        unet = unet_from_released(spec.unet, device=device, dtype=dtype)
        vae = vae_from_released(spec.vae, device=device, dtype=dtype)
    else:
        unet = load_checkpoint(
            spec.unet, kind="unet", config_type=UNetConfig, build=build_unet, device=device, dtype=dtype
        )
        vae = load_checkpoint(
            spec.vae, kind="vae", config_type=VAEConfig, build=build_vae, device=device, dtype=dtype
        )
    whisper = load_whisper(spec.whisper, device=device, dtype=dtype)
    return LipModel(spec, unet, vae, whisper, device, dtype)
