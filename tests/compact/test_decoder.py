"""Finishing a tiny decoder: what it sees, what it changes, that it learns and resumes."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latentsync.errors import MediaError
from latentsync.events import Report, ignore
from latentsync.manifest import ManifestClip
from latentsync.models.unet import build_unet
from latentsync.models.vae import FaceVAE, build_vae
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.networks import VAEConfig
from latentsync.train.clips import WHISPER_KIND, FeatureFiles, find_clips
from latentsync.weights.checkpoints import load_checkpoint, save_checkpoint
from latentsync.weights.read import read_tensors
from recipes.compact.decoder import (
    DecoderInTraining,
    DecoderObjective,
    DecoderRecipe,
    FramePairs,
    run,
)
from recipes.compact.discriminator import PatchDiscriminator
from recipes.compact.predicted import (
    PredictedWindow,
    WindowsTable,
    load_window,
    plan_windows,
)
from tests.compact.trainer_runs import check_resumed_run, losses_of, tiny_run
from tests.networks import RELEASED_UNET
from tests.train.made_clips import write_clip

SETTINGS = (
    'held_out=["person_01*"]',
    "adversarial_after_samples=2",
    "discriminator_channels=[4, 4]",
    "windows.frames=3",
    "windows.per_person=2",
    "windows.reference_gap_frames=4",
    *tiny_run(samples=12, batch_samples=1, learning_rate=5e-3),
)
VAE = VAEConfig(block_out_channels=(8, 8, 8), num_blocks=1, latent_channels=2, norm_num_groups=4, patch=2)
UNET = RELEASED_UNET.replaced(
    block_out_channels=(16, 16),
    attention_levels=(False, True),
    layers_per_block=1,
    attention_head_dim=2,
    norm_num_groups=4,
    latent_channels=2,
    motion=False,
    norm_over="frame",
)


def made_clip(person: str, number: int, frames: int = 31) -> ManifestClip:
    name = f"{person}/{number}.mp4"
    return ManifestClip(
        path=Path(name),
        name=name,
        source=name,
        frames=frames,
        resolution=128,
        split="train",
        person=person,
        sha256=f"{person}{number}",
        offset_frames=0,
        confidence=1.0,
        quality=0.0,
    )


class Job(NamedTuple):
    """Processed clips, and the folder of a model."""

    data: Path
    model: Path


@pytest.fixture
def recipe() -> DecoderRecipe:
    return load_recipe("compact/decoder", DecoderRecipe, overrides=SETTINGS)


@pytest.fixture
def windows() -> list[PredictedWindow]:
    random = np.random.default_rng(2)
    latents = random.standard_normal((2, 3, 2, 4, 4)).astype(np.float16)
    return [PredictedWindow(random.integers(0, 255, (3, 32, 32, 3)).astype(np.uint8), *latents)]


@pytest.fixture
def vae() -> FaceVAE:
    torch.manual_seed(4)
    return build_vae(VAE)


def test_people_have_the_same_number_of_windows() -> None:
    table = WindowsTable(frames=8, per_person=6, reference_gap_frames=6)
    clips = [made_clip("many", k) for k in range(20)] + [made_clip("one", 0), made_clip("short", 0, 18)]
    planned = plan_windows(clips, table, seed=1)
    owned = [window.clip.person for window in planned]
    assert (owned.count("many"), owned.count("one"), owned.count("short")) == (6, 6, 0)
    assert len({window.clip for window in planned}) == 7  # of many clips, no clip twice
    for window in planned:
        assert abs(window.start - window.reference_start) >= 6
        assert min(window.start, window.reference_start) >= 0
        assert max(window.start, window.reference_start) + 8 <= 31


def test_pairs_follow_each_other_and_belong_together(windows: list[PredictedWindow]) -> None:
    pair = FramePairs(windows).draw(np.random.default_rng(1))
    crops_u8 = torch.from_numpy(windows[0].crops_u8)
    first = next(k for k in range(3) if torch.equal(crops_u8[k], pair["crops_u8"][0]))
    assert torch.equal(crops_u8[first + 1], pair["crops_u8"][1])
    for name, kept in (("true", windows[0].true), ("predicted", windows[0].predicted)):
        assert torch.equal(pair[name], torch.from_numpy(kept[first : first + 2]))


def test_a_tint_does_not_count_in_predicted_frames(
    vae: FaceVAE, windows: list[PredictedWindow], recipe: DecoderRecipe
) -> None:
    objective = DecoderObjective(vae, recipe, side_px=32)
    real = torch.from_numpy(windows[0].crops_u8[:2]).permute(0, 3, 1, 2) / 127.5 - 1  # n c h w
    made = torch.cat([real, real + 0.25])
    shown = objective.paste(made, real.repeat(2, 1, 1, 1))
    assert objective.differences(real, made[:2], shown[2:])["rebuilt"] == 0
    assert objective.differences(real, made[:2], shown[2:])["coarse"] < 1e-6
    judgement = objective.judgement(PatchDiscriminator((4, 4)), real, shown)
    assert judgement["predicted_features"] < 1e-5


def test_each_of_the_two_learns_from_its_own_losses(
    vae: FaceVAE, windows: list[PredictedWindow], recipe: DecoderRecipe
) -> None:
    model = DecoderInTraining(vae, PatchDiscriminator((4, 4)))
    pair = FramePairs(windows).draw(np.random.default_rng(1))
    batch = {name: array[None] for name, array in pair.items()} | {"number": torch.tensor([100])}
    losses = DecoderObjective(vae, recipe, side_px=32).losses(model, batch)

    def learners(name: str) -> set[str]:
        model.zero_grad()
        losses[name].backward(retain_graph=True)
        return {key.split(".")[0] for key, value in model.named_parameters() if value.grad is not None}

    assert learners("discriminator") == {"discriminator"}
    assert learners("adversarial") == learners("features") == learners("rebuilt") == {"network"}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Two short clips whose speech is encoded already, and a tiny model."""
    data, networks = tmp_path / "data", tmp_path / "networks"
    for number in range(2):
        write_clip(data / f"person_{number:02d}.mp4", number, frames=15)
    features = FeatureFiles.beside(data, tmp_path)
    for clip in find_clips(data, held_out=("nobody",))[0]:
        states = {"whisper": torch.randn(30, 5, 384).half()}
        features.write(clip, WHISPER_KIND, partial(save_file, states, metadata={"whisper": "compact"}))
    torch.manual_seed(5)
    networks.mkdir()
    for kind, config, network in (("vae", VAE, build_vae(VAE)), ("unet", UNET, build_unet(UNET))):
        path = networks / f"{kind}.safetensors"
        save_checkpoint(path, network.state_dict(), kind=kind, config=config)
    return Job(data, networks)


def test_it_learns_resumes_and_keeps_the_encoder(job: Job, recipe: DecoderRecipe, tmp_path: Path) -> None:
    def train(output: Path, report: Report) -> Path:
        return run(job.data, output, recipe, report, model=str(job.model))

    before = read_tensors(job.model / "vae.safetensors")
    result = check_resumed_run(train, tmp_path / "whole", tmp_path / "stopped")
    losses = losses_of(tmp_path / "whole", "rebuilt")
    assert sum(losses[-3:]) < sum(losses[:3])
    discriminator = losses_of(tmp_path / "whole", "adversarial")
    assert discriminator[0] == 0 != discriminator[-1]
    after = read_tensors(result)
    vae = load_checkpoint(result, kind="vae", config_type=VAEConfig, build=build_vae)
    assert vae.config == VAE
    for key, tensor in before.items():
        is_trained = key.startswith(("decoder.", "post_quant_conv."))
        assert is_trained or torch.equal(tensor.half(), after[key]), key
    windows = [load_window(path) for path in sorted((tmp_path / "whole").glob("windows-*/*"))]
    assert len(windows) == 2  # of one person; the other is held out
    assert windows[0].crops_u8.shape == (3, 128, 128, 3)
    assert windows[0].true.shape == windows[0].predicted.shape == (3, 2, 16, 16)


def test_a_window_is_predicted_once_unless_it_would_differ(
    job: Job, recipe: DecoderRecipe, tmp_path: Path
) -> None:
    def train(recipe: DecoderRecipe, output: str) -> None:
        run(job.data, tmp_path / output, recipe, ignore, model=str(job.model))

    train(recipe, "out")
    first, *_ = sorted((tmp_path / "out").glob("windows-*/*"))
    written = first.stat().st_mtime_ns
    train(recipe, "out")
    assert first.stat().st_mtime_ns == written
    shutil.rmtree(tmp_path / "out" / "checkpoints")
    plain = recipe.pictures.model_copy(update={"mirror": 0.0})
    train(recipe.model_copy(update={"pictures": plain}), "out")
    assert len(list((tmp_path / "out").glob("windows-*"))) == 2  # other pictures are other windows


def test_all_clips_too_short(job: Job, recipe: DecoderRecipe, tmp_path: Path) -> None:
    windows = recipe.windows.model_copy(update={"reference_gap_frames": 9})
    with pytest.raises(MediaError, match="too short"):
        run(job.data, tmp_path, recipe.model_copy(update={"windows": windows}), ignore, model=str(job.model))
