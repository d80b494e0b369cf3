"""Whole runs of a tiny U-Net on made clips: they learn, continue, move nothing frozen, and fail clearly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from latentsync.errors import MediaError, MemoryShortage, RecipeError, WeightsError
from latentsync.events import Event, Note, Plan, ignore
from latentsync.files import sha256_of
from latentsync.metrics.sync import SyncScore
from latentsync.models.autoencoder import build_tiny_autoencoder
from latentsync.models.syncnet import build_syncnet
from latentsync.models.unet import build_unet
from latentsync.models.wav2lip import build_wav2lip
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.networks import TinyAutoencoderConfig, UNetConfig, Wav2LipConfig
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.recipe.training import RunTable
from latentsync.train.setup import TrainingJob, TrainingResult
from latentsync.train.unet import frozen
from latentsync.train.unet.frozen import start_differences
from latentsync.train.unet.objective import wanted_weights
from latentsync.train.unet.run import run
from latentsync.weights.checkpoints import load_checkpoint, read_note, save_checkpoint
from latentsync.weights.models import find_model
from latentsync.weights.read import read_tensors
from tests.networks import STAGE2_RECIPE
from tests.train.made_lips import (
    FRAMES,
    STAGE1,
    STAGE2,
    SYNCNET,
    StandInLpips,
    lip_recipe,
    write_lips,
    write_networks,
)


class Judge:
    """Finds that everything fits."""

    name = "made"


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """One thread, so that sums come out alike; a cache with an LPIPS backbone only, and a judge for free."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    backbone = tmp_path / "torch" / "hub" / "checkpoints" / "vgg16-397923af.pth"
    backbone.parent.mkdir(parents=True)
    backbone.write_bytes(b"stand-in")
    monkeypatch.setattr(frozen, "load_lpips", lambda path, device: StandInLpips())
    monkeypatch.setattr("latentsync.train.unet.validate.choose_judge", lambda name, device: Judge())
    monkeypatch.setattr(
        "latentsync.train.unet.validate.score_sync",
        lambda judge, made, samples: SyncScore(1, 4.5, 0.2, judge.name),
    )
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lips(tmp_path_factory.mktemp("data"))


def train(data: Path, output: Path, recipe: UNetTrainingRecipe, **changes: Any) -> TrainingResult:
    report = changes.pop("report", ignore)
    return run(TrainingJob(data=data, output=output, device="cpu", workers=0, **changes), recipe, report)


def write_autoencoder(path: Path) -> Path:
    sizes = TinyAutoencoderConfig(
        latent_channels=4,
        encoder_channels=(4, 4, 4),
        encoder_blocks=(1, 0, 0),
        decoder_channels=(4, 4, 4),
        decoder_blocks=(1, 0, 0),
    )
    save_checkpoint(path, build_tiny_autoencoder(sizes).state_dict(), kind="autoencoder", config=sizes)
    return path


def with_run(recipe: UNetTrainingRecipe, **changes: Any) -> UNetTrainingRecipe:
    table = RunTable.model_validate(recipe.run.model_dump() | changes)
    return recipe.model_copy(update={"run": table})


def log_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def test_stage_one_learns_and_sync_finds_the_result(data: Path, networks: Path, tmp_path: Path) -> None:
    recipe = lip_recipe(networks, loss=STAGE1)
    sizes = recipe.network.model_copy(update={"motion": False})
    rarely = recipe.validation.model_copy(update={"every_samples": 80})
    recipe = recipe.model_copy(update={"network": sizes, "validation": rarely})
    recipe = with_run(recipe, samples=80, micro_batch_samples=4, gradient_checkpointing=False)
    result = train(data, tmp_path / "out", recipe)
    losses = [row["losses"]["noise"] for row in log_of(tmp_path / "out") if "losses" in row]
    assert len(losses) == 20
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    assert result.weights == tmp_path / "out" / "unet.safetensors"
    load_checkpoint(result.weights, kind="unet", config_type=UNetConfig, build=build_unet)
    facts = read_note(result.weights).facts
    assert (facts["origin"], facts["resolution"], facts["samples"]) == ("trained", 32, 80)
    assert facts["networks"] == {
        use: {
            "name": str(networks / f"{use}.safetensors"),
            "sha256": sha256_of(networks / f"{use}.safetensors"),
        }
        for use in ("vae", "whisper")
    }
    found = find_model(str(result.weights))  # `sync` takes it with the autoencoder it was trained with
    assert (found.vae, found.whisper) == (networks / "vae.safetensors", networks / "whisper.safetensors")
    assert (found.prediction_type, found.steps, found.guidance) == ("epsilon", 20, 1.5)


def test_a_window_around_the_mouth_is_learnt_and_its_file_says_so(
    data: Path, networks: Path, tmp_path: Path
) -> None:
    vae = write_autoencoder(tmp_path / "vae.safetensors")
    recipe = lip_recipe(networks)
    recipe = recipe.replaced(
        windows=recipe.windows.replaced(resolution=64),
        weights=recipe.weights.replaced(vae=str(vae)),
        network=recipe.network.replaced(view="mouth"),
    )
    result = train(data, tmp_path / "out", recipe)
    note = read_note(result.weights)
    assert (note.config["view"], note.facts["resolution"]) == ("mouth", 64)
    assert read_tensors(result.weights)["conv_in.weight"].shape[1] == 105
    plan = train(data, tmp_path / "other", recipe, dry_run=True).plan
    assert plan is not None and plan["parameters"] > 0


def test_a_warp_is_learnt_alone_and_then_with_the_unet(data: Path, tmp_path: Path) -> None:
    recipe = lip_recipe(write_networks(tmp_path, whisper_layers=4))
    write_autoencoder(tmp_path / "vae.safetensors")
    warping = recipe.replaced(
        windows=recipe.windows.replaced(frames=1, reference="frame", resolution=64),
        network=recipe.network.replaced(view="mouth", motion=False, adapter_dim=8, warp_widths=(8, 8)),
        noise=recipe.noise.replaced(prediction="clean"),
        trainable=("warp.", "adapter."),
        loss=recipe.loss.replaced(noise=0.0, warp=1.0),
    )
    torch.manual_seed(warping.seed)
    begun = build_unet(warping.network.replaced(latent_channels=4)).state_dict()
    first = train(data, tmp_path / "warp", warping)
    judged = warping.replaced(
        windows=warping.windows.replaced(frames=FRAMES),
        loss=recipe.loss.replaced(noise=0.0, warp=1.0, sync=0.1, trepa=0.1),
    )
    assert {"warp", "sync", "trepa"} <= log_of(train(data, tmp_path / "sync", judged).output)[0][
        "losses"
    ].keys()
    both = warping.replaced(
        loss=recipe.loss.replaced(noise=0.0, clean=1.0, warp=1.0, adversarial=0.5),
        weights=warping.weights.replaced(start=str(first.weights)),
        trainable=(),
    )
    second = train(data, tmp_path / "both", both)
    assert {"adversarial", "discriminator"} <= log_of(second.output)[0]["losses"].keys()
    learnt, then = read_tensors(first.weights), read_tensors(second.weights)
    moved = {key.partition(".")[0] for key, tensor in learnt.items() if (tensor != begun[key]).any()}
    assert moved == {"warp", "adapter"}
    moved = {key.partition(".")[0] for key, tensor in then.items() if (tensor != learnt[key]).any()}
    assert moved >= {"warp", "adapter", "conv_in", "conv_out"}


def test_stage_two_trains_what_it_should_and_continues_bit_for_bit(
    data: Path, networks: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start.safetensors"
    trainable = ("motion_modules.", "attn2.")
    stage_two = lip_recipe(networks, loss=STAGE2, trainable=trainable, start=str(start))
    config = stage_two.network.replaced(motion=True)
    save_checkpoint(start, build_unet(config).state_dict(), kind="unet", config=config)
    begun = {key: value.clone() for key, value in read_tensors(start).items()}
    events: list[Event] = []
    whole = train(data, tmp_path / "whole", stage_two, report=events.append)
    one = read_tensors(_weights(whole))
    half = train(data, tmp_path / "halves", with_run(stage_two, samples=8))
    assert (half.samples, whole.samples) == (8, 16)
    start.unlink()  # what a run began with is not needed to continue it
    two = read_tensors(_weights(train(data, tmp_path / "halves", stage_two)))
    assert all(torch.equal(value, two[key]) for key, value in one.items())

    moved = {key for key, value in one.items() if not torch.equal(value, begun[key])}
    assert moved and all("motion_modules." in key or "attn2." in key for key in moved)

    rows = log_of(tmp_path / "whole")
    assert rows[0]["losses"].keys() == {"noise", "sync", "perceptual", "trepa"}
    measures = [row["validation"] for row in rows if "validation" in row]
    assert len(measures) == 2 and measures[-1]["confidence"] == 4.5 and measures[-1]["loss"] > 0
    videos = sorted(
        path.relative_to(tmp_path / "whole").as_posix() for path in (tmp_path / "whole").rglob("*.mp4")
    )
    assert videos == [f"validation/samples-{count:09d}/00-person_10.mp4" for count in (8, 16)]
    assert (tmp_path / "whole" / "pictures" / "learning.png").read_bytes().startswith(b"\x89PNG")
    plan = next(event for event in events if isinstance(event, Plan))
    assert any("losses: noise 1, sync 0.05, perceptual 0.1, trepa 10" in line for line in plan.lines)
    assert not list(tmp_path.rglob("*.part"))


def _weights(result: TrainingResult) -> Path:
    assert result.weights is not None
    return result.weights


def test_wav2lip_is_trained_alike(data: Path, networks: Path, tmp_path: Path) -> None:
    loss = STAGE2_RECIPE.loss.replaced(noise=0, reconstruction=1, sync=0.03, perceptual=0, trepa=10)
    recipe = with_run(lip_recipe(networks, loss=loss, generator="wav2lip"), samples=8)
    result = train(data, tmp_path / "out", recipe)
    assert result.weights == tmp_path / "out" / "wav2lip.safetensors"
    load_checkpoint(result.weights, kind="wav2lip", config_type=Wav2LipConfig, build=build_wav2lip)
    assert read_note(result.weights).facts["networks"].keys() == {"syncnet", "temporal"}
    assert log_of(tmp_path / "out")[0]["losses"].keys() == {"reconstruction", "sync", "trepa"}


def test_an_adversarial_wav2lip_resumes_with_its_discriminator(
    data: Path, networks: Path, tmp_path: Path
) -> None:
    loss = STAGE2_RECIPE.loss.replaced(
        noise=0, reconstruction=0.9, adversarial=0.07, sync=0.03, perceptual=0, trepa=0
    )
    recipe = lip_recipe(networks, loss=loss, generator="wav2lip")
    whole = train(data, tmp_path / "whole", recipe)
    train(data, tmp_path / "out", with_run(recipe, samples=8))
    resumed = train(data, tmp_path / "out", recipe)
    names = {"reconstruction", "sync", "adversarial", "discriminator"}
    assert log_of(tmp_path / "out")[0]["losses"].keys() == names
    assert whole.checkpoint is not None and resumed.checkpoint is not None
    states = [
        torch.load(result.checkpoint / "state.pt", weights_only=True)["rest"]["model.safetensors"]
        for result in (whole, resumed)
        if result.checkpoint
    ]
    assert states[0] and all(key.startswith("discriminator.") for key in states[0])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert resumed.weights is not None and whole.weights is not None
    made = [read_tensors(result) for result in (whole.weights, resumed.weights)]
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
    load_checkpoint(resumed.weights, kind="wav2lip", config_type=Wav2LipConfig, build=build_wav2lip)


def test_frozen_networks_are_still_and_unwanted_ones_are_not_loaded(networks: Path) -> None:
    recipe = lip_recipe(networks, loss=STAGE2_RECIPE.loss.replaced(perceptual=0, trepa=0))
    files = frozen.find_weights(wanted_weights(recipe), data=networks, checkpoints=networks)
    assert files.keys() == {"vae", "whisper", "syncnet"}
    loaded = frozen.load_frozen(recipe, files, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert loaded.perceptual is loaded.temporal is None
    assert loaded.vae is not None and loaded.syncnet is not None
    for network in (loaded.vae, loaded.syncnet):
        assert not network.training
        assert all(not p.requires_grad and p.dtype == torch.bfloat16 for p in network.parameters())
    assert loaded.vae.network.decoder.gradient_checkpointing
    assert loaded.syncnet.visual_encoder.is_checkpointing  # type: ignore[union-attr]


def test_missing_weights_are_named_before_data_is_read(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentsync.train.unet.data.find_clips", None)
    with pytest.raises(WeightsError, match="temporal") as caught:
        train(data, tmp_path / "out", load_recipe("stage2", UNetTrainingRecipe))
    assert caught.value.hint == (
        "run 'latentsync models pull latentsync-1.5 sd-vae-ft-mse stable-syncnet videomae-v2 whisper-tiny'"
    )
    assert not (tmp_path / "out").exists()


def test_a_path_that_is_not_there_says_what_to_train_first(data: Path, tmp_path: Path) -> None:
    recipe = load_recipe("compact/stage2", UNetTrainingRecipe)
    with pytest.raises(WeightsError, match=r"runs/compact-stage1/unet\.safetensors") as caught:
        train(data, tmp_path / "out", recipe)
    assert "train stage 1 first" in str(caught.value.hint)


def test_without_data_the_commands_to_run_first_are_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="there is no data here") as caught:
        train(tmp_path / "data", tmp_path / "out", load_recipe("stage1", UNetTrainingRecipe))
    assert caught.value.hint == (
        "run first: 'latentsync preprocess RAW data'; then"
        " 'latentsync models pull sd-1.5-unet sd-vae-ft-mse whisper-tiny'"
    )


def test_short_clips_are_dropped_and_reported(data: Path, networks: Path, tmp_path: Path) -> None:
    recipe = lip_recipe(networks)
    windows = recipe.windows.model_copy(update={"frames": 24})
    with pytest.raises(MediaError, match=r"no clip is left .*3 too_short.* 71 are needed") as caught:
        train(data, tmp_path / "out", recipe.model_copy(update={"windows": windows}))
    assert "lower windows.frames" in str(caught.value.hint)


def test_out_of_memory_names_what_to_lower(
    data: Path, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("latentsync.train.unet.objective.noise_loss", fill)
    for micro_batch, remedy in ((2, "lower run.micro_batch_samples"), (1, "leave out a loss")):
        recipe = with_run(lip_recipe(networks), micro_batch_samples=micro_batch)
        with pytest.raises(MemoryShortage, match=f"out of memory with {micro_batch} samples") as caught:
            train(data, tmp_path / "out", recipe)
        assert str(caught.value.hint).startswith(remedy)


def test_a_syncnet_of_another_window_is_refused(data: Path, networks: Path, tmp_path: Path) -> None:
    recipe = lip_recipe(networks, loss=STAGE2)
    windows = recipe.windows.model_copy(update={"frames": 6})
    with pytest.raises(RecipeError, match=r"takes windows of 5 frames, but windows\.frames = 6"):
        train(data, tmp_path / "out", recipe.model_copy(update={"windows": windows}))


def test_a_syncnet_of_other_latents_is_refused(data: Path, networks: Path, tmp_path: Path) -> None:
    recipe = lip_recipe(networks, loss=STAGE2.replaced(sync_space="latent"))
    other = tmp_path / "syncnet.safetensors"
    facts = {"networks": {"vae": {"name": "sd-vae-ft-mse", "sha256": "0" * 64}}}
    config = SYNCNET.replaced(space="latent")
    save_checkpoint(other, build_syncnet(config).state_dict(), kind="syncnet", config=config, facts=facts)
    recipe = recipe.replaced(weights=recipe.weights.replaced(syncnet=str(other)))
    with pytest.raises(RecipeError, match="takes latents of 'sd-vae-ft-mse', which is not the file of"):
        train(data, tmp_path / "out", recipe)


def test_a_start_with_other_networks_is_reported(tmp_path: Path) -> None:
    facts = {"networks": {use: {"name": "compact", "sha256": "0" * 64} for use in ("vae", "whisper")}}
    save_checkpoint(tmp_path / "start", {}, kind="unet", config=SYNCNET, facts=facts)
    now = {"vae": {"name": "mine", "sha256": "1" * 64}, "whisper": {"name": "compact", "sha256": "0" * 64}}
    assert start_differences({"start": tmp_path / "start"}, now) == [
        "weights.start was trained with vae 'compact', which is not the file of weights.vae = 'mine':"
        " the first steps repair that"
    ]


def test_a_loss_that_is_nan_stops_and_keeps_the_checkpoint(
    data: Path, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = lip_recipe(networks, loss=STAGE2_RECIPE.loss.replaced(perceptual=0, trepa=0))
    train(data, tmp_path / "out", with_run(recipe, samples=8))
    monkeypatch.setattr(
        "latentsync.train.unet.objective.pixel_sync_loss",
        lambda made, batch, syncnet: made.mean() * torch.nan,
    )
    with pytest.raises(RecipeError, match=r"step 3: the loss 'sync' is nan; the last good .*step-000002"):
        train(data, tmp_path / "out", recipe)
    assert (tmp_path / "out" / "checkpoints" / "step-000002").is_dir()


def test_a_dry_run_loads_nothing(networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentsync.train.unet.run.find_weights", None)
    events: list[Event] = []
    recipe = lip_recipe(
        networks,
        weights=STAGE2_RECIPE.weights.replaced(start="scratch", vae=str(networks / "vae.safetensors")),
    )
    result = train(tmp_path / "data", tmp_path / "out", recipe, dry_run=True, report=events.append)
    assert result.reason == "planned" and not (tmp_path / "out").exists()
    assert result.plan["parameters"] == result.plan["trained_parameters"] > 300_000
    assert result.plan["memory_bytes"] > 20 * result.plan["parameters"]
    assert not any(isinstance(event, Note) for event in events)
    with pytest.raises(RecipeError, match="trainable: 'motion_modul3s' matches no parameter name"):
        train(tmp_path, tmp_path, recipe.model_copy(update={"trainable": ("motion_modul3s",)}), dry_run=True)
