"""Models by name: which files they are made of, where those are, and how a whole model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latentsync.errors import WeightsError
from latentsync.recipe.networks import TinyAutoencoderConfig, VAEConfig, Wav2LipConfig
from latentsync.types import PredictionType, TimestepSpacing
from latentsync.weights.catalog import COMPACT, find_entry
from latentsync.weights.hub import path_of
from latentsync.weights.named import BUNDLED, find_used, used_networks

if TYPE_CHECKING:
    import torch

    from latentsync.audio.whisper import WhisperEncoder
    from latentsync.models.autoencoder import AnyAutoencoder
    from latentsync.models.unet import LipUNet
    from latentsync.models.wav2lip import Wav2Lip

DEFAULT_MODEL = COMPACT
RESOLUTION_OF = {"latentsync-1.0": 256, "latentsync-1.5": 256, "latentsync-1.6": 512}
VAE, WHISPER = "sd-vae-ft-mse", "whisper-tiny"  # entries of the catalogue that every released U-Net needs
TINY = Path("whisper", "tiny.pt")  # of that Whisper, below a folder of released files


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model: its files, and how it wants to be used.

    resolution      side of the aligned crop in pixels
    view            what is generated of it, see `latentsync.diffusion.view`
    steps           denoising steps when the recipe names none
    guidance        guidance when the recipe names none
    overlap_frames  frames that two windows share when the recipe names none
    note            what a person should know about it, one line
    audio_context_frames  neighbouring frames whose speech conditions a frame, on either side
    kind            "wav2lip" is the comparison of the paper's table 4: one network, in `unet`
    """

    name: str
    unet: Path
    vae: Path
    whisper: Path
    resolution: int
    steps: int
    guidance: float
    overlap_frames: int
    prediction_type: PredictionType
    timestep_spacing: TimestepSpacing
    is_released: bool
    note: str
    view: Literal["face", "mouth"] = "face"
    audio_context_frames: int = 2
    kind: Literal["unet", "wav2lip"] = "unet"


@dataclass(frozen=True, slots=True)
class LipModel:
    """The networks of one model, loaded; of a Wav2Lip only `wav2lip`, and the first three are None."""

    spec: ModelSpec
    unet: LipUNet
    vae: AnyAutoencoder
    whisper: WhisperEncoder
    device: torch.device
    dtype: torch.dtype
    wav2lip: Wav2Lip | None = None


def _compact(unet: Path) -> ModelSpec:
    """The compact model, or a U-Net trained like it, with the autoencoder beside it or the bundled one.

    Source: ours. The network was trained to give the clean latents from pure noise, so one step is enough;
    without guidance it mumbles, and with 2 it opens too far (docs/experiments.md).
    """
    vae = unet.with_name("vae.safetensors")
    return ModelSpec(
        name="compact" if unet.parent == BUNDLED else str(unet),
        unet=unet,
        vae=vae if vae.exists() else BUNDLED / "vae.safetensors",
        whisper=BUNDLED / "whisper-tiny-en.safetensors",
        resolution=_trained_at(unet) or 128,
        steps=1,
        guidance=1.7,
        overlap_frames=0,
        prediction_type="sample",
        timestep_spacing="trailing",
        is_released=False,
        view=_view_of(unet),
        note="small, for drafts on a CPU; better: run 'latentsync models pull latentsync-1.5', "
        "then add --model latentsync-1.5",
    )


def _released(name: str, folder: Path, *, resolution: int) -> ModelSpec:
    """A released model in `folder`, with the files' released names.

    Source: the official `configs/unet/stage2*.yaml` and inference defaults.
    """
    beside = (folder, folder.parent)
    return ModelSpec(
        name=name,
        unet=folder / "latentsync_unet.pt",
        vae=_first(*(near / VAE for near in beside), path_of(find_entry(VAE))),
        whisper=_first(*(near / TINY for near in beside), path_of(find_entry(WHISPER))),
        resolution=resolution,
        steps=20,
        guidance=1.5,
        overlap_frames=4,
        prediction_type="epsilon",
        timestep_spacing="leading",
        is_released=True,
        note="released weights",
    )


def find_model(name: str, *, resolution: int | None = None) -> ModelSpec:
    """The model called `name`, or the one whose U-Net or folder is at that path. Loads nothing.

    Args:
        resolution: overrides the side of the crop; needed for 512 px weights that are given by path.

    Raises:
        WeightsError: there is no such model, or one of its files is missing.
    """
    spec = _look_up(name)
    parts = (("U-Net", spec.unet, None), ("VAE", spec.vae, VAE), ("Whisper", spec.whisper, WHISPER))
    missing = [part for part in parts if not _has_weights(part[1])]
    if missing:
        faults = "; ".join(f"its {part} is missing: '{path}' does not exist" for part, path, _ in missing)
        entries = [name] if name in RESOLUTION_OF else [entry for _, _, entry in missing if entry]
        can_pull = name in RESOLUTION_OF or (spec.is_released and len(entries) == len(missing))
        remedy = f"run 'latentsync models pull {' '.join(entries)}'" if can_pull else "put the file there"
        raise WeightsError(
            f"model '{name}': {faults}",
            hint=f"{remedy}, or use --model {DEFAULT_MODEL}, which needs no download",
        )
    if resolution is None or resolution == spec.resolution:
        return spec
    known = RESOLUTION_OF.get(name) or _trained_at(spec.unet)
    if known is not None:
        raise WeightsError(
            f"model '{name}' was trained on crops of {known} px, and {resolution} px were asked for",
            hint=f"leave the resolution out, or use a model that was trained at {resolution} px",
        )
    return replace(spec, resolution=resolution)


def _look_up(name: str) -> ModelSpec:
    if name == DEFAULT_MODEL:
        return _compact(BUNDLED / "unet.safetensors")
    if name in RESOLUTION_OF:
        unet = path_of(find_entry(name))
        return _released(name, unet.parent, resolution=RESOLUTION_OF[name])
    from latentsync.weights.checkpoints import is_checkpoint

    path = Path(name)
    if path.is_dir():
        ours = path / "unet.safetensors"
        wav2lip = path / "wav2lip.safetensors"
        if not ours.exists() and is_checkpoint(wav2lip):
            return _from_checkpoint(wav2lip)
        if is_checkpoint(ours):
            return _from_checkpoint(ours)
        return _compact(ours) if ours.exists() else _released(name, path, resolution=256)
    if path.is_file():
        if is_checkpoint(path):
            return _from_checkpoint(path)
        # No tensor tells 1.5 from 1.6; only 1.6 was trained at 512 px.
        return replace(_released(name, path.parent, resolution=256), unet=path)
    known = ", ".join([DEFAULT_MODEL, *RESOLUTION_OF])
    raise WeightsError(
        f"model '{name}': neither a known name nor an existing file or folder",
        hint=f"use one of {known}, or the path of a weights file",
    )


def _from_checkpoint(unet: Path) -> ModelSpec:
    """A trained U-Net or Wav2Lip, or a released U-Net that `models import` has converted."""
    from latentsync.weights.checkpoints import read_note

    note = read_note(unet)
    facts = note.facts
    if note.kind == "wav2lip":
        return _wav2lip(unet, note.config)
    if facts.get("origin") == "trained":
        return _trained(unet, facts)
    if facts.get("origin") != "released":
        return _compact(unet)
    return replace(_released(str(unet), unet.parent, resolution=_trained_at(unet) or 256), unet=unet)


def _wav2lip(path: Path, config: Mapping[str, Any]) -> ModelSpec:
    """A Wav2Lip of `latentsync train-unet`, which needs no other network."""
    side = config.get("resolution")
    return ModelSpec(
        name=str(path),
        unet=path,
        vae=path,
        whisper=path,
        resolution=side if type(side) is int else 96,
        steps=1,
        guidance=1.0,
        overlap_frames=0,
        prediction_type="sample",
        timestep_spacing="trailing",
        is_released=False,
        note="a Wav2Lip trained here, for comparison",
        kind="wav2lip",
    )


def _trained(unet: Path, facts: Mapping[str, Any]) -> ModelSpec:
    """A U-Net of `latentsync train-unet`, with exactly the networks it was trained with.

    Networks of one's own lie beside it as vae.safetensors and whisper.safetensors, or where they were in
    training. Steps and guidance follow what the U-Net predicts, whatever its autoencoder.
    """
    is_clean = facts.get("prediction_type") == "sample"
    spec = _compact(unet) if is_clean else _released(str(unet), unet.parent, resolution=256)
    used, folders = used_networks(facts), (unet.parent, unet.parent.parent)
    context = facts.get("audio_context_frames")
    directories = {
        "vae": [unet.with_name("vae.safetensors"), *(near / VAE for near in folders)],
        "whisper": [
            unet.with_name("whisper.safetensors"),
            *(near / TINY for near in folders),
        ],
    }
    found = {
        use: find_used(used[use], beside=directories[use], model=str(unet))
        for use in directories
        if use in used
    }
    return replace(
        spec,
        unet=unet,
        vae=found.get("vae", spec.vae),
        whisper=found.get("whisper", spec.whisper),
        resolution=_trained_at(unet) or spec.resolution,
        view=_view_of(unet),
        note="trained here",
        audio_context_frames=context if type(context) is int else spec.audio_context_frames,
    )


def _trained_at(unet: Path) -> int | None:
    """The resolution that an imported U-Net was trained at, where its file says so."""
    from latentsync.weights.checkpoints import is_checkpoint, read_note

    known = read_note(unet).facts.get("resolution") if is_checkpoint(unet) else None
    return known if type(known) is int else None


def _view_of(unet: Path) -> Literal["face", "mouth"]:
    """What the U-Net in `unet` was built to generate."""
    from latentsync.weights.checkpoints import is_checkpoint, read_note

    seen = read_note(unet).config.get("view") if is_checkpoint(unet) else None
    return "mouth" if seen == "mouth" else "face"


def _first(*paths: Path) -> Path:
    """The first path that holds weights, or the first of all."""
    return next((path for path in paths if _has_weights(path)), paths[0])


def _has_weights(path: Path) -> bool:
    """Whether `path` is a file, or a folder with weights in it, not only a download that was begun."""
    return path.is_file() or any(file.suffix in (".safetensors", ".bin") for file in path.rglob("*"))


def load_autoencoder(path: Path, *, device: torch.device, dtype: torch.dtype) -> AnyAutoencoder:
    """Load an autoencoder: ours of either kind, or Stable Diffusion's, decided by the file.

    Raises:
        WeightsError: the file is damaged or belongs to another network.
    """
    import torch

    from latentsync.models.autoencoder import build_tiny_autoencoder
    from latentsync.models.vae import build_vae
    from latentsync.weights.checkpoints import is_checkpoint, load_checkpoint, read_note
    from latentsync.weights.released import vae_from_released

    if path.is_dir() or not is_checkpoint(path):
        return vae_from_released(path, device=device, dtype=dtype)
    if read_note(path).kind == "autoencoder":
        tiny = load_checkpoint(
            path,
            kind="autoencoder",
            config_type=TinyAutoencoderConfig,
            build=build_tiny_autoencoder,
            device=device,
            dtype=dtype,
        )
        # Takes a quarter of the time away on a CPU (docs/performance.md).
        tiny.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return tiny
    return load_checkpoint(
        path, kind="vae", config_type=VAEConfig, build=build_vae, device=device, dtype=dtype
    )


def load_model(spec: ModelSpec, *, device: torch.device, dtype: torch.dtype) -> LipModel:
    """Load the networks of `spec`, strictly.

    Raises:
        WeightsError: a file is damaged or belongs to another network.
    """
    import torch

    from latentsync.weights.released import load_unet, load_whisper

    if spec.kind == "wav2lip":
        return _load_wav2lip(spec, device=device, dtype=dtype)
    vae = load_autoencoder(spec.vae, device=device, dtype=dtype)
    version = spec.name.removeprefix("latentsync-") if spec.name in RESOLUTION_OF else None
    unet = load_unet(spec.unet, device=device, dtype=dtype, version=version)
    # A thirtieth of the work of one frame: on a CPU its states keep their precision.
    whisper_dtype = torch.float32 if device.type == "cpu" else dtype
    whisper = load_whisper(spec.whisper, device=device, dtype=whisper_dtype)
    return LipModel(spec, unet, vae, whisper, device, dtype)


def _load_wav2lip(spec: ModelSpec, *, device: torch.device, dtype: torch.dtype) -> LipModel:
    from latentsync.models.wav2lip import build_wav2lip
    from latentsync.weights.checkpoints import load_checkpoint

    network = load_checkpoint(
        spec.unet, kind="wav2lip", config_type=Wav2LipConfig, build=build_wav2lip, device=device, dtype=dtype
    )
    absent: Any = None
    return LipModel(spec, absent, absent, absent, device, dtype, wav2lip=network)
