from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from latentsync.errors import WeightsError
from latentsync.models.unet import LipUNet, build_unet
from latentsync.models.vae import build_vae
from latentsync.recipe.networks import UNetConfig, VAEConfig
from latentsync.weights.checkpoints import save_checkpoint
from latentsync.weights.released import (
    load_unet,
    rename_unet,
    require_version,
    unet_config_of,
    unet_from_released,
    vae_from_released,
)
from tests.networks import RELEASED_UNET

Tensors = dict[str, Tensor]


def full_keys(golden: Path, variant: str) -> Tensors:
    shapes = json.loads((golden / f"keys_unet_{variant}_full.json").read_text())["state_dict"]
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def as_decoder_only(tensors: Tensors) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if not ("down" in key and "motion_modules" in key)}


def as_version_1_0(tensors: Tensors) -> Tensors:
    def named(key: str) -> str:
        if "motion_modules" in key:
            return key
        return key.replace(".norm2.", ".audio_cross_attn.norm.", 1) if "transformer_blocks" in key else key

    return {
        named(key).replace("0.attn2.", "0.audio_cross_attn.attn."): tensor for key, tensor in tensors.items()
    }


def check_full_size(tensors: Tensors, parameters: int) -> UNetConfig:
    renamed = rename_unet(tensors)
    config = unet_config_of(renamed, Path("latentsync_unet.pt"))
    with torch.device("meta"):
        unet = build_unet(config)
    built = {key: tensor.shape for key, tensor in unet.state_dict().items()}
    assert built == {key: tensor.shape for key, tensor in renamed.items()}
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters
    return config


def test_full_size_with_motion(golden: Path) -> None:
    tensors = full_keys(golden, "motion")
    assert len(tensors) == 1246
    assert check_full_size(tensors, 1_267_099_844) == RELEASED_UNET


def test_full_size_without_motion(golden: Path) -> None:
    tensors = full_keys(golden, "plain")
    assert len(tensors) == 686
    assert check_full_size(tensors, 849_962_244) == RELEASED_UNET.replaced(motion=False)


def test_full_size_version_1_0(golden: Path) -> None:
    tensors = as_version_1_0(full_keys(golden, "plain"))
    assert sum("audio_cross_attn" in key for key in tensors) == 16 * 7
    assert not any(".attn2." in key for key in tensors)
    assert check_full_size(tensors, 849_962_244) == RELEASED_UNET.replaced(motion=False)


def test_full_size_decoder_only(golden: Path) -> None:
    tensors = as_decoder_only(full_keys(golden, "motion"))
    assert len(tensors) == 1022
    assert check_full_size(tensors, 1_100_244_804) == RELEASED_UNET.replaced(motion_modules="decoder")


@pytest.fixture
def released(golden_tensors: Callable[[str], Tensors]) -> Tensors:
    return golden_tensors("unet_plain_small")


def write(tensors: Tensors, path: Path) -> Path:
    torch.save({"global_step": 1, "state_dict": tensors}, path)
    return path


def output_of(unet: LipUNet) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    sample, audio = (torch.randn(shape, generator=generator) for shape in ((1, 13, 2, 8, 8), (2, 50, 384)))
    with torch.no_grad():
        predicted: Tensor = unet(sample, torch.tensor([300]), audio)
    return predicted


def test_version_1_0_is_the_same_network(released: Tensors, tmp_path: Path) -> None:
    current = unet_from_released(write(released, tmp_path / "current.pt"))
    first = unet_from_released(write(as_version_1_0(released), tmp_path / "first.pt"))
    assert torch.equal(output_of(first), output_of(current))


def test_decoder_only_equals_silent_motion_modules(
    golden_tensors: Callable[[str], Tensors], tmp_path: Path
) -> None:
    whole = golden_tensors("unet_motion_small")
    for key, tensor in whole.items():
        if "down_blocks" in key and "temporal_transformer.proj_out" in key:
            tensor.zero_()
    silent = unet_from_released(write(whole, tmp_path / "whole.pt"))
    decoder_only = unet_from_released(write(as_decoder_only(whole), tmp_path / "decoder.pt"))
    torch.testing.assert_close(output_of(decoder_only), output_of(silent))


def test_half_precision_safetensors(released: Tensors, tmp_path: Path) -> None:
    save_file(released, tmp_path / "unet.safetensors")
    unet = unet_from_released(tmp_path / "unet.safetensors", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("mid_block.resnets.0.conv1.weight", r"missing keys: 1 \(mid_block.resnets.0.conv1.weight\)"),
        ("down_blocks.1.resnets.0.conv1.weight", "levels without a first convolution"),
    ],
)
def test_missing_key(key: str, message: str, released: Tensors, tmp_path: Path) -> None:
    del released[key]
    with pytest.raises(WeightsError, match=message):
        unet_from_released(write(released, tmp_path / "unet.pt"))


def test_left_over_key(released: Tensors, tmp_path: Path) -> None:
    released["up_blocks.1.lora"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"unexpected keys: 1 \(up_blocks.1.lora\)"):
        unet_from_released(write(released, tmp_path / "unet.pt"))


def test_positional_tables_that_differ(golden_tensors: Callable[[str], Tensors], tmp_path: Path) -> None:
    tensors = golden_tensors("unet_motion_small")
    key = next(key for key in tensors if key.endswith("attention_blocks.1.pos_encoder.pe"))
    tensors[key] = tensors[key] + 1
    with pytest.raises(WeightsError, match="differs from the first"):
        unet_from_released(write(tensors, tmp_path / "unet.pt"))


@pytest.mark.parametrize(
    ("changes", "channels", "message"),
    [
        ({}, 4, r"takes 4 channels \(as Stable Diffusion's\), expected 13"),
        ({"latent_channels": 16}, 49, "predicts 16 latent channels, expected 4"),
        ({"audio_dim": 512}, 13, "takes audio features of width 512"),
    ],
)
def test_another_unet(changes: dict[str, int], channels: int, message: str, tmp_path: Path) -> None:
    small = RELEASED_UNET.replaced(block_out_channels=(32,), attention_levels=(True,), motion=False)
    tensors = build_unet(small.replaced(**changes)).state_dict()
    tensors["conv_in.weight"] = tensors["conv_in.weight"][:, :channels].clone()
    path = write(tensors, tmp_path / "unet.pt")
    with pytest.raises(WeightsError, match=message):
        unet_from_released(path)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("audio_encoder.conv_in.weight", "a LatentSync SyncNet"),
        ("netcnnaud.0.weight", "SyncNet v2"),
        ("encoder.embed_positions.weight", r"a Whisper model \(Hugging Face"),
        ("blocks.0.attn.q_bias", "VideoMAE v2"),
        ("res.lda1_pool.0.weight", "is unknown"),
        ("encoder.positional_embedding", "a Whisper model"),
        ("encoder.down_blocks.0.resnets.0.conv1.weight", "a VAE"),
        ("model.diffusion_model.input_blocks.0.0.weight", "a whole Stable Diffusion checkpoint"),
        ("layer.weight", r"unknown, with keys 1 \(layer.weight\)"),
    ],
)
def test_weights_of_another_network_are_named(key: str, name: str, tmp_path: Path) -> None:
    path = write({key: torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=name) as caught:
        unet_from_released(path)
    assert "other.pt" in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "name", "use"),
    [
        (("vgg.0.weight", "extras.0.weight"), "the S3FD face detector", "nothing here needs it"),
        (("m0.b1_4.bn1.weight", "bl0.weight"), "the FAN landmark network", "models pull fan"),
        (("res.lda1_pool.0.weight", "fc1w_conv.weight"), "HyperIQA", "models pull hyperiqa"),
        (("module.conv_in.weight", "module.conv_out.weight"), "begin with 'module.'", "without the prefix"),
    ],
)
def test_what_to_do_instead(keys: tuple[str, ...], name: str, use: str, tmp_path: Path) -> None:
    path = write({key: torch.zeros(1) for key in keys}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=name) as caught:
        unet_from_released(path)
    assert use in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("beside", "name"),
    [
        ({"optimizer": {}, "step": 3, "generator": torch.zeros(1)}, "is the state of a training run"),
    ],
)
def test_what_lies_beside_the_weights_tells_too(beside: dict[str, object], name: str, tmp_path: Path) -> None:
    torch.save(beside, tmp_path / "last.ckpt")
    with pytest.raises(WeightsError, match=name):
        unet_from_released(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("case", "wanted", "is_right"),
    [
        ("unet_plain_small", "1.0", True),
        ("unet_plain_small", "1.5", False),
        ("unet_motion_small", "1.0", False),
        ("unet_motion_small", "1.6", True),
    ],
)
def test_the_version_that_was_asked_for(
    case: str, wanted: str, is_right: bool, golden_tensors: Callable[[str], Tensors]
) -> None:
    config = unet_config_of(rename_unet(golden_tensors(case)), Path("unet.pt"))
    if is_right:
        require_version(config, Path("unet.pt"), wanted)
        return
    with pytest.raises(WeightsError, match=f"and not that of {wanted}") as caught:
        require_version(config, Path("unet.pt"), wanted)
    assert f"models pull latentsync-{wanted}" in (caught.value.hint or "")


def test_ours_and_theirs_through_one_door(released: Tensors, tmp_path: Path) -> None:
    theirs = load_unet(write(released, tmp_path / "theirs.pt"))
    path = tmp_path / "ours.safetensors"
    save_checkpoint(path, theirs.state_dict(), kind="unet", config=theirs.config)
    # Not to the bit: the last digit depends on where in memory a file is mapped.
    torch.testing.assert_close(output_of(load_unet(path)), output_of(theirs))
    with pytest.raises(WeightsError, match=r"not that of 1\.6"):
        load_unet(path, version="1.6")


@pytest.fixture(scope="module")
def vae_tensors() -> Tensors:
    return build_vae(VAEConfig(block_out_channels=(32, 32), num_blocks=1)).state_dict()


def test_vae_with_old_attention_names(vae_tensors: Tensors, tmp_path: Path) -> None:
    old_names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = dict(vae_tensors)
    for ours, theirs in old_names.items():
        tensors = {key.replace(ours, theirs): tensor for key, tensor in tensors.items()}
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    vae = vae_from_released(tmp_path)
    assert vae.config == VAEConfig(block_out_channels=(32, 32), num_blocks=1)
    assert all(torch.equal(tensor, vae_tensors[key]) for key, tensor in vae.state_dict().items())


def test_vae_of_another_latent_space(tmp_path: Path) -> None:
    config = VAEConfig(block_out_channels=(32, 32), num_blocks=1, latent_channels=16)
    path = write(build_vae(config).state_dict(), tmp_path / "vae.pt")
    with pytest.raises(WeightsError, match="16 latent channels, expected 4"):
        vae_from_released(path)


def test_unet_in_place_of_the_vae(released: Tensors, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is not Stable Diffusion's VAE"):
        vae_from_released(write(released, tmp_path / "unet.pt"))


def test_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no diffusion_pytorch_model"):
        vae_from_released(tmp_path)
