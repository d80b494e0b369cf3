"""Finishing a tiny decoder: what it sees, what it changes, and that it goes on where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from decoder import TrainDecoderJob, Trainer, run
from made_clips import write_clip
from predicted import PredictedWindow, load_window, plan_windows
from safetensors.torch import save_file
from schemas import DecoderRecipe, PredictedWindows

from latentsync.errors import MediaError
from latentsync.events import Event, Progress, ignore
from latentsync.manifest import ManifestClip
from latentsync.models.unet import build_unet
from latentsync.models.vae import FaceVAE, build_vae
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.networks import VAEConfig
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.train.clips import WHISPER_KIND, Features, find_clips
from latentsync.weights.checkpoints import load_checkpoint, save_checkpoint
from latentsync.weights.read import read_tensors

RELEASED_UNET = load_recipe("stage2", UNetTrainingRecipe).network

SETTINGS = (
    'held_out=["person_01*"]',
    "steps=2",
    "save_every_steps=1",
    "adversarial_after=0",
    "batch_pairs=1",
    "warmup_steps=1",
    "discriminator_channels=[4, 4]",
    "windows.frames=3",
    "windows.per_person=2",
    "windows.reference_gap_frames=4",
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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are the same from run to run only if they are split the same way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    table = PredictedWindows(frames=8, per_person=6, reference_gap_frames=6)
    clips = [made_clip("many", k) for k in range(20)] + [made_clip("one", 0), made_clip("short", 0, 18)]
    planned = plan_windows(clips, table, seed=1)
    owned = [window.clip.person for window in planned]
    assert (owned.count("many"), owned.count("one"), owned.count("short")) == (6, 6, 0)
    assert len({window.clip for window in planned}) == 7  # of many clips, no clip twice
    for window in planned:
        assert abs(window.start - window.reference_start) >= 6
        assert min(window.start, window.reference_start) >= 0
        assert max(window.start, window.reference_start) + 8 <= 31


def test_pairs_follow_each_other_and_belong_together(
    vae: FaceVAE, windows: list[PredictedWindow], recipe: DecoderRecipe, tmp_path: Path
) -> None:
    pairs = Trainer(vae, windows, recipe, tmp_path / "state.pt").draw()
    frames = torch.from_numpy(windows[0].crops_u8).permute(0, 3, 1, 2) / 127.5 - 1  # f c h w
    first = next(k for k in range(3) if torch.equal(frames[k], pairs.real[0]))
    assert torch.equal(frames[first + 1], pairs.real[1])
    for found, kept in ((pairs.true, windows[0].true), (pairs.predicted, windows[0].predicted)):
        assert torch.equal(found, torch.from_numpy(kept[first : first + 2]).float())


def test_only_the_decoder_learns(
    vae: FaceVAE, windows: list[PredictedWindow], recipe: DecoderRecipe, tmp_path: Path
) -> None:
    before = {key: tensor.clone() for key, tensor in vae.state_dict().items()}
    trainer = Trainer(vae, windows, recipe, tmp_path / "state.pt")
    losses = trainer.train(1)
    assert set(losses) > {"rebuilt", "adversarial", "discriminator"}
    moved = {
        key.split(".")[0] for key, tensor in vae.state_dict().items() if not torch.equal(tensor, before[key])
    }
    assert moved == {"decoder", "post_quant_conv"}


def test_a_tint_does_not_count_in_spoken_frames(
    vae: FaceVAE, windows: list[PredictedWindow], recipe: DecoderRecipe, tmp_path: Path
) -> None:
    trainer = Trainer(vae, windows, recipe, tmp_path / "state.pt")
    trainer.discriminator.eval()
    real = trainer.draw().real
    tinted = real + 0.25
    made = torch.cat([real, tinted])
    losses = trainer.losses(real, made, trainer.paste(made, real.repeat(2, 1, 1, 1)))
    assert losses["rebuilt"] == 0
    assert losses["coarse"] < 1e-6 and losses["spoken_features"] < 1e-5


@pytest.fixture
def job(tmp_path: Path) -> TrainDecoderJob:
    """Two short clips that were heard already, and a tiny model."""
    data, networks = tmp_path / "data", tmp_path / "networks"
    for number in range(2):
        write_clip(data / f"person_{number:02d}.mp4", number, frames=15)
    features = Features.beside(data, tmp_path)
    for clip in find_clips(data, held_out=("nobody",))[0]:
        states = {"whisper": torch.randn(30, 5, 384).half()}
        features.write(clip, WHISPER_KIND, partial(save_file, states, metadata={"whisper": "compact"}))
    torch.manual_seed(5)
    networks.mkdir()
    for kind, config, network in (("vae", VAE, build_vae(VAE)), ("unet", UNET, build_unet(UNET))):
        path = networks / f"{kind}.safetensors"
        save_checkpoint(path, network.state_dict(), kind=kind, config=config)
    return TrainDecoderJob(data, tmp_path / "whole", str(networks))


def stop_in_second_step(event: Event) -> None:
    if isinstance(event, Progress) and event.stage == "training" and event.done == 2:
        raise KeyboardInterrupt


def test_a_stopped_run_ends_as_if_it_had_not_been(job: TrainDecoderJob, recipe: DecoderRecipe) -> None:
    stopped = replace(job, output=job.output.with_name("stopped"))
    result = run(job, recipe, ignore)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, recipe, stop_in_second_step)
    kept = torch.load(stopped.output / "decoder.pt", weights_only=True)
    assert kept["step"] == 1
    again = run(stopped, recipe, ignore)

    saved = [torch.load(path.parent / "decoder.pt", weights_only=True) for path in (result, again)]
    assert saved[0]["step"] == saved[1]["step"] == 2
    assert saved[0]["random"] == saved[1]["random"]
    for part in ("decoder", "discriminator"):
        assert all(torch.equal(tensor, saved[1][part][key]) for key, tensor in saved[0][part].items()), part
    assert read_tensors(result).keys() == read_tensors(again).keys()
    vae = load_checkpoint(result, kind="vae", config_type=VAEConfig, build=build_vae)
    assert vae.config == VAE
    means = iter(saved[0]["average"])
    for parameter in [*vae.network.post_quant_conv.parameters(), *vae.network.decoder.parameters()]:
        assert torch.equal(parameter, next(means).half().float())
    windows = [load_window(path) for path in sorted(job.output.glob("windows-*/*"))]
    assert len(windows) == 2  # of one person; the other is held out
    assert windows[0].crops_u8.shape == (3, 128, 128, 3)
    assert windows[0].true.shape == windows[0].predicted.shape == (3, 2, 16, 16)
    assert not list(job.output.parent.rglob("*.part"))


def test_a_window_is_predicted_once_unless_it_would_differ(
    job: TrainDecoderJob, recipe: DecoderRecipe
) -> None:
    run(job, recipe, ignore)
    first, *_ = sorted(job.output.glob("windows-*/*"))
    written = first.stat().st_mtime_ns
    run(job, recipe.model_copy(update={"steps": 3}), ignore)
    assert first.stat().st_mtime_ns == written
    plain = recipe.pictures.model_copy(update={"mirror": 0.0})
    run(job, recipe.model_copy(update={"pictures": plain}), ignore)
    assert len(list(job.output.glob("windows-*"))) == 2  # other pictures are other windows


def test_all_clips_too_short(job: TrainDecoderJob, recipe: DecoderRecipe) -> None:
    windows = recipe.windows.model_copy(update={"reference_gap_frames": 9})
    with pytest.raises(MediaError, match="too short"):
        run(job, recipe.model_copy(update={"windows": windows}), ignore)
