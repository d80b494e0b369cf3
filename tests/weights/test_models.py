"""Which files a model is made of, where they are looked for, and what the message is when one is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latentsync.errors import WeightsError
from latentsync.files import sha256_of
from latentsync.models.unet import build_unet
from latentsync.models.vae import build_vae
from latentsync.models.wav2lip import build_wav2lip
from latentsync.recipe.networks import VAEConfig, Wav2LipConfig
from latentsync.weights import models, named
from latentsync.weights.catalog import with_needs
from latentsync.weights.checkpoints import save_checkpoint
from latentsync.weights.hub import path_of
from latentsync.weights.named import record_networks
from tests.networks import TINY_UNET as UNET

VAE = VAEConfig(block_out_channels=(8, 8), num_blocks=1, latent_channels=2, norm_num_groups=4)


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of bundled files whose contents nobody reads."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    for name in ("unet.safetensors", "vae.safetensors", "whisper-tiny-en.safetensors"):
        (folder / name).write_bytes(b"weights")
    for module in (models, named):
        monkeypatch.setattr(module, "BUNDLED", folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LATENTSYNC_CACHE", str(folder))
    return folder


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")


def released_files(folder: Path) -> list[Path]:
    vae = folder / "sd-vae-ft-mse" / "diffusion_pytorch_model.safetensors"
    return [folder / "latentsync_unet.pt", vae, folder / "whisper" / "tiny.pt"]


def save_unet(path: Path) -> None:
    save_checkpoint(path, build_unet(UNET).state_dict(), kind="unet", config=UNET)


def save_vae(path: Path) -> None:
    save_checkpoint(path, build_vae(VAE).state_dict(), kind="vae", config=VAE)


def test_compact_is_bundled(bundled: Path) -> None:
    spec = models.find_model("compact")
    assert spec.name == "compact"
    assert {spec.unet.parent, spec.vae.parent, spec.whisper.parent} == {bundled}
    assert (spec.resolution, spec.steps, spec.is_released) == (128, 1, False)


@pytest.mark.parametrize(
    ("name", "resolution"), [("latentsync-1.0", 256), ("latentsync-1.5", 256), ("latentsync-1.6", 512)]
)
def test_released_models_lie_in_the_cache(name: str, resolution: int, cache: Path) -> None:
    put(*released_files(cache / name))
    spec = models.find_model(name)
    assert (spec.name, spec.resolution, spec.is_released) == (name, resolution, True)
    assert (spec.steps, spec.guidance, spec.prediction_type) == (20, 1.5, "epsilon")
    assert {path.relative_to(cache).parts[0] for path in (spec.unet, spec.vae, spec.whisper)} == {name}


def test_released_models_share_files_beside_them(cache: Path) -> None:
    unet, *shared = released_files(cache)
    put(cache / "latentsync-1.6" / unet.name, *shared)
    spec = models.find_model("latentsync-1.6")
    assert (spec.vae, spec.whisper) == (cache / "sd-vae-ft-mse", cache / "whisper" / "tiny.pt")


def test_our_unet_by_file_or_folder(bundled: Path, tmp_path: Path) -> None:
    path = tmp_path / "run" / "unet.safetensors"
    save_unet(path)
    for name in (path, path.parent):
        spec = models.find_model(str(name))
        assert (spec.unet, spec.name, spec.is_released) == (path, str(path), False)
        assert spec.vae.parent == bundled


def test_the_autoencoder_beside_our_unet_is_taken(bundled: Path, tmp_path: Path) -> None:
    save_unet(tmp_path / "unet.safetensors")
    put(tmp_path / "vae.safetensors")
    assert models.find_model(str(tmp_path)).vae == tmp_path / "vae.safetensors"


def test_a_released_unet_by_file_or_folder(tmp_path: Path) -> None:
    put(*released_files(tmp_path), tmp_path / "mine.pt")
    assert models.find_model(str(tmp_path)).unet == tmp_path / "latentsync_unet.pt"
    spec = models.find_model(str(tmp_path / "mine.pt"))
    assert (spec.unet, spec.is_released, spec.resolution) == (tmp_path / "mine.pt", True, 256)


def test_the_resolution_can_be_chosen(bundled: Path) -> None:
    assert models.find_model("compact", resolution=256).resolution == 256


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_file_is_named(missing: int, cache: Path) -> None:
    files = released_files(cache / "latentsync-1.5")
    absent = files.pop(missing)
    put(*files)
    named = absent.parent if absent.suffix == ".safetensors" else absent
    with pytest.raises(WeightsError) as failure:
        models.find_model("latentsync-1.5")
    assert "'latentsync-1.5'" in str(failure.value)
    assert f"'{named}' does not exist" in str(failure.value)
    assert "run 'latentsync models pull latentsync-1.5'" in (failure.value.hint or "")
    assert "compact" in (failure.value.hint or "")


def test_all_missing_files_are_named_at_once(cache: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"its U-Net is missing: .*; its VAE is missing: .*; its Whisper is"
    ):
        models.find_model("latentsync-1.6")


def test_a_download_that_was_begun_is_missing(cache: Path) -> None:
    unet, vae, whisper = released_files(cache / "latentsync-1.5")
    put(unet, vae.with_name(f"{vae.name}.part"), whisper)
    with pytest.raises(WeightsError, match="its VAE is missing"):
        models.find_model("latentsync-1.5")


def test_the_files_that_a_pull_brings_make_a_model(cache: Path) -> None:
    for name in models.RESOLUTION_OF:
        put(*map(path_of, with_needs([name])))
        models.find_model(name)


def test_a_missing_file_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="its U-Net is missing") as failure:
        models.find_model(str(tmp_path))
    assert "pull" not in (failure.value.hint or "")


def test_the_official_layout_lacks_the_vae_which_a_command_brings(cache: Path, tmp_path: Path) -> None:
    """What `hf download ByteDance/LatentSync-1.5 --local-dir` leaves."""
    unet, vae, whisper = released_files(tmp_path / "checkpoints")
    put(unet, whisper)
    with pytest.raises(WeightsError, match="its VAE is missing") as failure:
        models.find_model(str(unet.parent))
    assert (failure.value.hint or "").startswith("run 'latentsync models pull sd-vae-ft-mse'")
    put(vae)
    assert models.find_model(str(unet.parent)).whisper == whisper


def test_an_unknown_model() -> None:
    with pytest.raises(WeightsError, match="'nosuch': neither a known name nor") as failure:
        models.find_model("nosuch")
    assert all(name in (failure.value.hint or "") for name in ("compact", *models.RESOLUTION_OF))


def test_our_networks_are_loaded_to_the_right_places(tmp_path: Path) -> None:
    save_unet(tmp_path / "unet.safetensors")
    save_vae(tmp_path / "vae.safetensors")
    spec = models.find_model(str(tmp_path))
    model = models.load_model(spec, device=torch.device("cpu"), dtype=torch.float16)
    assert (model.unet.config, model.vae.config) == (UNET, VAE)
    # Whisper is a small part of the time on a CPU, and stays in float32 there.
    for network, dtype in (
        (model.unet, torch.float16),
        (model.vae, torch.float16),
        (model.whisper, torch.float32),
    ):
        assert {tensor.dtype for tensor in network.parameters()} == {dtype}
        assert not network.training


def test_another_networks_file(tmp_path: Path) -> None:
    save_vae(tmp_path / "vae.safetensors")
    spec = models.find_model(str(tmp_path / "vae.safetensors"))
    with pytest.raises(WeightsError, match=r"vae.safetensors' holds vae weights, expected unet weights"):
        models.load_model(spec, device=torch.device("cpu"), dtype=torch.float32)


def save_trained(path: Path, **facts: object) -> None:
    path.parent.mkdir(exist_ok=True)
    facts_of_file = {"origin": "trained", "resolution": 64, "prediction_type": "epsilon"} | facts
    save_checkpoint(path, build_unet(UNET).state_dict(), kind="unet", config=UNET, facts=facts_of_file)


def networks(**files: tuple[str, Path]) -> dict[str, dict[str, str]]:
    """What `train-unet` states about the files it was given, by their names in the recipe."""
    return record_networks(
        {use: name for use, (name, _) in files.items()}, {use: path for use, (_, path) in files.items()}
    )


def test_steps_follow_what_was_trained_and_not_the_autoencoder(bundled: Path, tmp_path: Path) -> None:
    unet = tmp_path / "run" / "unet.safetensors"
    used = networks(
        vae=("compact", bundled / "vae.safetensors"),
        whisper=("compact", bundled / "whisper-tiny-en.safetensors"),
    )
    save_trained(unet, networks=used)
    for name in (unet, unet.parent):
        spec = models.find_model(str(name))
        assert (spec.unet, spec.vae) == (unet, bundled / "vae.safetensors")
        assert spec.whisper == bundled / "whisper-tiny-en.safetensors"
        assert (spec.steps, spec.guidance, spec.prediction_type) == (20, 1.5, "epsilon")
        assert (spec.timestep_spacing, spec.resolution) == ("leading", 64)
    save_trained(unet, networks=used, prediction_type="sample")  # noise.prediction = "clean"
    spec = models.find_model(str(unet))
    assert (spec.steps, spec.guidance, spec.timestep_spacing) == (1, 1.7, "trailing")
    assert spec.audio_context_frames == 2
    save_trained(unet, networks=used, audio_context_frames=4)
    assert models.find_model(str(unet)).audio_context_frames == 4


def test_a_trained_unet_takes_the_very_networks_it_was_trained_with(
    bundled: Path, cache: Path, tmp_path: Path
) -> None:
    unet, own = tmp_path / "run" / "unet.safetensors", tmp_path / "autoencoder.safetensors"
    save_vae(own)
    tiny = cache / "whisper" / "tiny.pt"
    put(tiny)
    save_trained(unet, networks=networks(vae=(str(own), own), whisper=("whisper-tiny", tiny)))
    spec = models.find_model(str(unet))
    assert (spec.vae, spec.whisper) == (own, tiny)  # where they were in training
    beside = unet.with_name("vae.safetensors")
    beside.write_bytes(b"of another model")
    assert models.find_model(str(unet)).vae == own
    own.rename(beside)
    assert models.find_model(str(unet)).vae == beside
    put(bundled / "vae.safetensors", tmp_path / "sd-vae-ft-mse" / "diffusion_pytorch_model.safetensors")
    beside.write_bytes(b"of another model")
    with pytest.raises(WeightsError, match=r"its VAE is missing: it was trained with '.*autoencoder") as lost:
        models.find_model(str(unet))
    assert f"'{beside}'" in str(lost.value) and "is another one" in str(lost.value)
    assert str(lost.value.hint) == f"put the file it was trained with there as '{beside}'"


def test_another_whisper_is_refused_with_how_to_get_the_right_one(cache: Path, tmp_path: Path) -> None:
    tiny = cache / "whisper" / "tiny.pt"
    put(tiny)
    save_trained(tmp_path / "unet.safetensors", networks=networks(whisper=("whisper-tiny", tiny)))
    tiny.write_bytes(b"another download")
    with pytest.raises(
        WeightsError, match="its Whisper is missing: it was trained with 'whisper-tiny'"
    ) as lost:
        models.find_model(str(tmp_path))
    assert lost.value.hint == "run 'latentsync models pull whisper-tiny'"


def test_a_trained_unet_that_names_no_contents_takes_the_names(
    bundled: Path, cache: Path, tmp_path: Path
) -> None:
    """As checkpoints before version 0.1."""
    put(*released_files(cache), cache / "mine.safetensors")
    save_trained(tmp_path / "unet.safetensors", vae=str(cache / "mine.safetensors"), whisper="compact")
    spec = models.find_model(str(tmp_path))
    assert spec.vae == cache / "mine.safetensors"
    assert spec.whisper == bundled / "whisper-tiny-en.safetensors"


def test_a_folder_is_known_by_the_weights_in_it(tmp_path: Path) -> None:
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    put(file)
    assert networks(vae=("mine", tmp_path))["vae"]["sha256"] == sha256_of(file)


def test_a_trained_wav2lip_is_a_model_of_its_own(tmp_path: Path) -> None:
    config = Wav2LipConfig(resolution=48, first_channels=4, most_channels=32)
    path = tmp_path / "run" / "wav2lip.safetensors"
    state = build_wav2lip(config).state_dict()
    facts = {"origin": "trained", "resolution": 256}
    save_checkpoint(path, state, kind="wav2lip", config=config, facts=facts)
    for name in (path, path.parent):
        spec = models.find_model(str(name))
        assert (spec.kind, spec.unet, spec.resolution, spec.steps) == ("wav2lip", path, 48, 1)
    model = models.load_model(spec, device=torch.device("cpu"), dtype=torch.float32)
    assert model.wav2lip is not None and model.wav2lip.config == config
