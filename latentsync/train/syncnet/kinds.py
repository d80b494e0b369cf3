"""What differs between the kinds of SyncNet: the network, what a sample of its data is, and a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from latentsync.manifest import ManifestClip
from latentsync.models.framewise import build_framewise
from latentsync.models.syncnet import MEL_BANDS, build_syncnet
from latentsync.models.vae import FaceVAE
from latentsync.recipe.networks import FramewiseConfig, SyncNetConfig
from latentsync.recipe.train_syncnet import SyncNetRecipe
from latentsync.train.batches import Batch
from latentsync.train.clips import Features, Windows
from latentsync.train.pictures import DecodedCache, Region, decode_clip, is_cached
from latentsync.train.syncnet.data import ClipWindows, SyncSamples, check_length
from latentsync.train.syncnet.objective import Pairs, make_step
from latentsync.train.syncnet.runs import (
    STATES_PER_FRAME,
    ClipRuns,
    LipRegion,
    RunSamples,
    compare_run,
    make_run_step,
)
from latentsync.train.syncnet.validate import compare_windows


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of SyncNet, on the data of one run.

    checkpoint  the kind that its weights files say they are
    config      what the network is built from
    build       makes the network
    inputs      makes what the network takes of one sample, all zero
    check       refuses a clip that is of no use, with MediaError or ValueError, and decodes it
    samples     the data set over clips to train on
    step        the losses of a batch
    compare     cosines (n n) of a clip's windows, frames by speech
    """

    checkpoint: str
    config: SyncNetConfig | FramewiseConfig
    build: Callable[[], Any]
    inputs: Callable[[], tuple[Tensor, Tensor]]
    check: Callable[[ManifestClip], None]
    samples: Callable[[Sequence[ManifestClip]], Dataset[Any]]
    step: Callable[[nn.Module, Batch], dict[str, Tensor]]
    compare: Callable[[nn.Module, ManifestClip], Tensor]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run finds its data: the clips, files computed from them, and whether these hold frames."""

    clips: Sequence[ManifestClip]
    features: Features
    decoded_cache: DecodedCache


def choose_kind(recipe: SyncNetRecipe, place: Place, vae: FaceVAE | None, pairs: Pairs) -> Kind:
    """The kind that the recipe names.

    Args:
        vae: encodes frames for a network that sees latents.
        pairs: takes predictions, for a picture.
    """
    if recipe.syncnet == "framewise":
        return _framewise(recipe, place)
    return _windowed(recipe, place, vae, pairs)


def _windowed(recipe: SyncNetRecipe, place: Place, vae: FaceVAE | None, pairs: Pairs) -> Kind:
    config = recipe.network
    region = Region(config.resolution, config.is_lower_half and config.space == "pixel")
    is_decoded = is_cached(place.decoded_cache, place.clips, region)
    windows = Windows(config.frames, config.mel_steps)
    source = ClipWindows(windows, region, place.features, is_decoded)
    count = recipe.negatives.windows_per_clip if recipe.negatives.pairing == "in_clip_matrix" else 1

    def inputs() -> tuple[Tensor, Tensor]:
        side = config.resolution if config.space == "pixel" else config.resolution // 8
        rows = side // 2 if config.is_lower_half else side
        frames = torch.zeros(count, config.visual_channels, rows, side)
        return frames, torch.zeros(count, 1, MEL_BANDS, config.mel_steps)

    def check(clip: ManifestClip) -> None:
        check_length(clip, source.starts_in(clip), recipe.negatives, windows)
        if is_decoded:
            decode_clip(clip, region, place.features)

    return Kind(
        checkpoint="syncnet",
        config=config,
        build=lambda: build_syncnet(config),
        inputs=inputs,
        check=check,
        samples=lambda clips: SyncSamples(recipe, clips, source),
        step=make_step(recipe, config, vae, pairs),
        compare=lambda model, clip: compare_windows(model, clip, source, recipe, (config, vae)),
    )


def _framewise(recipe: SyncNetRecipe, place: Place) -> Kind:
    config = recipe.framewise
    run_frames = recipe.negatives.run_frames
    region = LipRegion(config)
    is_decoded = is_cached(place.decoded_cache, place.clips, region)
    source = ClipRuns(run_frames, region, place.features, is_decoded)

    def inputs() -> tuple[Tensor, Tensor]:
        states = torch.zeros(1, run_frames * STATES_PER_FRAME, config.whisper_states, config.whisper_dim)
        return torch.zeros(1, 3, run_frames, config.rows, config.columns), states

    def check(clip: ManifestClip) -> None:
        source.starts_in(clip)
        if is_decoded:
            decode_clip(clip, region, place.features)

    frames = recipe.validation.windows_per_clip + config.frames - 1
    return Kind(
        checkpoint="framewise_syncnet",
        config=config,
        build=lambda: build_framewise(config),
        inputs=inputs,
        check=check,
        samples=lambda clips: RunSamples(recipe, clips, source),
        step=make_run_step(recipe),
        compare=lambda model, clip: compare_run(model, clip, source, frames=frames),
    )
