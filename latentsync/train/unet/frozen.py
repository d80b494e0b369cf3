"""The networks that are not trained: found before anything is read, loaded once, without gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latentsync.errors import MediaError, RecipeError, WeightsError
from latentsync.events import Note, Report
from latentsync.metrics.networks import load_lpips
from latentsync.models.autoencoder import AnyAutoencoder
from latentsync.models.framewise import FramewiseSyncNet
from latentsync.models.syncnet import SyncNet, build_syncnet
from latentsync.models.vae import FaceVAE, build_vae
from latentsync.models.videomae import VideoEncoder, build_video_encoder
from latentsync.recipe.networks import SyncNetConfig, VAEConfig, VideoEncoderConfig
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.train.checkpoint import find_last
from latentsync.weights.catalog import COMPACT, load_catalog
from latentsync.weights.checkpoints import is_checkpoint, load_checkpoint, read_note
from latentsync.weights.hub import is_present
from latentsync.weights.judges import RELEASED_SYNCNETS, load_syncnet, videomae_from_released
from latentsync.weights.models import load_autoencoder
from latentsync.weights.named import find_named, record_networks, used_networks

SCRATCH, LPIPS = "scratch", "vgg-lpips"
Networks = Mapping[str, Mapping[str, str]]  # as `record_networks` returns them


@dataclass(frozen=True, slots=True)
class FrozenNetworks:
    """In eval mode, without gradients; None where the recipe does not use one."""

    vae: AnyAutoencoder | None = None
    syncnet: SyncNet | FramewiseSyncNet | None = None
    perceptual: nn.Module | None = None
    temporal: VideoEncoder | FramewiseSyncNet | None = None

    def present(self) -> Iterator[nn.Module]:
        """Those that are used."""
        for field in fields(self):
            network = getattr(self, field.name)
            if network is not None:
                yield network


@dataclass(frozen=True, slots=True)
class NetworkSource:
    """How one of the frozen networks is made.

    load   from a file; on the meta device this reads no more than the sizes
    build  without a file, for an estimate, with the sizes of the release that the recipe's default names
    """

    load: Callable[..., nn.Module]
    build: Callable[[UNetTrainingRecipe], nn.Module]


def find_weights(wanted: Mapping[str, str], *, data: Path, checkpoints: Path) -> dict[str, Path]:
    """Find the files of `wanted`, the names of weights by use.

    Args:
        data: the training data; where it is missing, the error names everything to be run first.
        checkpoints: of the run; with one of them, the weights that training started from are not needed.

    Raises:
        WeightsError: some are missing; all of them are named, with the command that gets them.
        MediaError: there is no data.
    """
    if find_last(checkpoints) is not None:
        wanted = {use: name for use, name in wanted.items() if use != "start"}
    if data.exists():
        return _find_files(wanted)
    first = ["'latentsync preprocess RAW data'"]
    try:
        _find_files(wanted)
    except WeightsError as error:
        first.append((error.hint or "").removeprefix("run "))
    raise MediaError(f"'{data}': there is no data here", hint=f"run first: {'; then '.join(first)}")


def _find_files(wanted: Mapping[str, str]) -> dict[str, Path]:
    catalog = load_catalog()
    missing = sorted({name for name in wanted.values() if name in catalog and not is_present(catalog[name])})
    if missing:
        uses = ", ".join(f"{name} ({_use_of(name, wanted)})" for name in missing)
        raise WeightsError(
            f"weights are missing: {uses}", hint=f"run 'latentsync models pull {' '.join(missing)}'"
        )
    keys = {use: f"{'loss' if use == 'perceptual' else 'weights'}.{use}" for use in wanted}
    return {use: find_named(name, use=use, key=keys[use]) for use, name in wanted.items()}


def load_frozen(
    recipe: UNetTrainingRecipe, files: Mapping[str, Path], *, device: torch.device, dtype: torch.dtype
) -> FrozenNetworks:
    """Load what the losses need. LPIPS stays in fp32, as in the reference.

    Raises:
        WeightsError: a file is damaged or of another network.
        RecipeError: the SyncNet or the video encoder takes other windows than the recipe cuts.
    """
    networks = {
        use: source.load(files[use], device=device, dtype=dtype)
        for use, source in SOURCES.items()
        if use in files
    }
    return _freeze(recipe, networks)


def build_frozen(recipe: UNetTrainingRecipe, wanted: Mapping[str, str]) -> FrozenNetworks:
    """Build what the losses need on the meta device, for an estimate: no weight is loaded.

    The sizes are those of the weights' files; of a file that is missing, those of the released network.

    Raises:
        RecipeError: the SyncNet or the video encoder takes other windows than the recipe cuts.
    """
    meta, networks = torch.device("meta"), {}
    for use, source in SOURCES.items():
        if use in wanted:
            try:
                path = _find_files({use: wanted[use]})[use]
            except WeightsError:
                with meta:
                    networks[use] = source.build(recipe)
            else:
                networks[use] = source.load(path, device=meta, dtype=torch.float32)
    return _freeze(recipe, networks)


def _freeze(recipe: UNetTrainingRecipe, networks: Mapping[str, Any]) -> FrozenNetworks:
    frozen = FrozenNetworks(**networks)
    for network in frozen.present():
        # Gradients still pass through them to what is trained.
        network.eval().requires_grad_(False)
    _check_fit(recipe, frozen)
    if recipe.run.gradient_checkpointing:
        _checkpoint_gradients(frozen)
    return frozen


def load_vae(path: Path, *, device: torch.device, dtype: torch.dtype) -> AnyAutoencoder:
    """Load an autoencoder of any kind, laid out for fast convolutions: encoding takes a third of the time."""
    vae = load_autoencoder(path, device=device, dtype=dtype)
    laid_out: AnyAutoencoder = vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return laid_out


def load_temporal(path: Path, *, device: torch.device, dtype: torch.dtype) -> VideoEncoder | FramewiseSyncNet:
    """Load a video encoder, ours or a released VideoMAE-v2 of any size, or a framewise SyncNet.

    The file decides which.
    """
    if not is_checkpoint(path):
        return videomae_from_released(path, device=device, dtype=dtype)
    if read_note(path).kind != "temporal":
        network = load_syncnet(path, device=device, dtype=dtype)
        if isinstance(network, FramewiseSyncNet):
            return network
    return load_checkpoint(
        path,
        kind="temporal",
        config_type=VideoEncoderConfig,
        build=build_video_encoder,
        device=device,
        dtype=dtype,
    )


def _load_perceptual(path: Path, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return load_lpips(path, device=device)  # in fp32, whatever the others are


def _build_syncnet(recipe: UNetTrainingRecipe) -> SyncNet:
    """The released SyncNet, for windows of as many frames as the recipe cuts: yours may be trained later."""
    released = RELEASED_SYNCNETS["16_pixel_attn" if recipe.loss.sync_space == "pixel" else "16_latent"]
    audio = released.audio
    if recipe.windows.frames <= 5:  # 16 columns of mel are one sixteenth wide, where 52 are three
        audio = audio.replaced(factors=(*audio.factors[:-1], (2, 1)))
    return build_syncnet(released.replaced(frames=recipe.windows.frames, audio=audio))


def _build_perceptual(recipe: UNetTrainingRecipe) -> nn.Module:
    from latentsync.compat import make_torchvision_importable

    make_torchvision_importable()
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it calls torchvision in an older way
        network: nn.Module = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    return network.to("meta")  # its constants are made on the CPU


SOURCES = {
    "vae": NetworkSource(load_vae, lambda recipe: build_vae(VAEConfig())),
    "syncnet": NetworkSource(load_syncnet, _build_syncnet),
    "perceptual": NetworkSource(_load_perceptual, _build_perceptual),
    "temporal": NetworkSource(load_temporal, lambda recipe: build_video_encoder(VideoEncoderConfig())),
}


def _use_of(name: str, wanted: Mapping[str, str]) -> str:
    return " and ".join(use for use, other in wanted.items() if other == name)


def _check_fit(recipe: UNetTrainingRecipe, frozen: FrozenNetworks) -> None:
    frames, space = recipe.windows.frames, recipe.loss.sync_space
    if frozen.syncnet is not None:
        config = frozen.syncnet.config
        found = config.space if isinstance(config, SyncNetConfig) else "pixel"
        # Its speech tower knows the states of one Whisper only; others have the same shape.
        if isinstance(frozen.syncnet, FramewiseSyncNet) and recipe.weights.whisper != COMPACT:
            raise RecipeError(
                f"weights.syncnet takes states of the bundled Whisper, but weights.whisper ="
                f" '{recipe.weights.whisper}'",
                hint="use a SyncNet that takes mel, or weights.whisper=compact with generator=unet",
            )
        if config.frames != frames:
            raise RecipeError(
                f"weights.syncnet takes windows of {config.frames} frames, but windows.frames = {frames}",
                hint=f"use windows.frames={config.frames} or another SyncNet",
            )
        if found != space:
            raise RecipeError(
                f"weights.syncnet takes {found} space, but loss.sync_space = '{space}'",
                hint=f"train one with 'latentsync train-syncnet --set network.space={space}', or change"
                " loss.sync_space",
            )
    if frozen.temporal is not None and frozen.temporal.config.frames != frames:
        raise RecipeError(
            f"weights.temporal takes windows of {frozen.temporal.config.frames} frames, but windows.frames ="
            f" {frames}",
            hint="change windows.frames, or set loss.trepa=0",
        )
    if frozen.vae is not None and recipe.windows.resolution % frozen.vae.factor:
        raise RecipeError(
            f"windows.resolution = {recipe.windows.resolution} is not a multiple of {frozen.vae.factor}, the"
            " pixels of a latent",
            hint=f"use a multiple of {frozen.vae.factor}",
        )


def record_weights(
    recipe: UNetTrainingRecipe, wanted: Mapping[str, str], files: Mapping[str, Path], report: Report
) -> Networks:
    """Record the networks at the start, as a path may have other contents at the end, and check their fit.

    Args:
        wanted: their names, by use.
        files: of the weights, by use.

    Raises:
        RecipeError: the SyncNet was trained on the latents of another autoencoder.
    """
    networks = record_networks(wanted, files)
    _refuse_other_vae(recipe, files, networks)
    for note in start_differences(files, networks):
        report(Note(note, "warning"))
    return networks


def start_differences(files: Mapping[str, Path], networks: Networks) -> list[str]:
    """What the weights that training begins with were trained with and this training is not, a line each.

    Args:
        files: of the weights that the recipe needs, by use.
        networks: of this training, as `record_networks` returns them.
    """
    start = files.get("start")
    used = used_networks(read_note(start).facts) if start is not None and is_checkpoint(start) else {}
    return [
        f"weights.start was trained with {use} '{used[use].name}', which is not the file of weights.{use} ="
        f" '{networks[use]['name']}': the first steps repair that"
        for use in ("vae", "whisper")
        if use in used and use in networks and used[use].sha256 not in ("", networks[use]["sha256"])
    ]


def _refuse_other_vae(recipe: UNetTrainingRecipe, files: Mapping[str, Path], networks: Networks) -> None:
    """Refuse a latent-space SyncNet that was trained on the latents of another autoencoder."""
    path = files.get("syncnet")
    if path is None or recipe.loss.sync_space != "latent" or not is_checkpoint(path):
        return
    vae = used_networks(read_note(path).facts).get("vae")
    if vae is not None and vae.sha256 != networks["vae"]["sha256"]:
        raise RecipeError(
            f"weights.syncnet takes latents of '{vae.name}', which is not the file of weights.vae ="
            f" '{recipe.weights.vae}'",
            hint=f"use weights.vae={vae.name}, or train a SyncNet with"
            f" 'latentsync train-syncnet --set weights.vae={recipe.weights.vae}'",
        )


def _checkpoint_gradients(frozen: FrozenNetworks) -> None:
    if isinstance(frozen.vae, FaceVAE):
        frozen.vae.network.enable_gradient_checkpointing()
    # `SyncNet` refuses to checkpoint Wav2Lip's towers.
    if isinstance(frozen.syncnet, SyncNet) and frozen.syncnet.config.kind != "wav2lip":
        frozen.syncnet.enable_gradient_checkpointing()
    if isinstance(frozen.temporal, VideoEncoder):
        frozen.temporal.enable_gradient_checkpointing()
