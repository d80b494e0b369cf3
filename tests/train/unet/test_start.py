"""What a U-Net begins with: all that fits is copied, the rest is named, and misfits are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from latentsync.compat import make_torchvision_importable
from latentsync.errors import WeightsError
from latentsync.models.unet import build_unet
from latentsync.recipe.networks import UNetConfig
from latentsync.train.unet.start import choose_trainable, start_unet
from latentsync.weights.checkpoints import save_checkpoint
from tests.networks import RELEASED_UNET

# As the released network: attention on three of four levels, two layers a level, so as many tensors.
PLAIN = RELEASED_UNET.replaced(
    block_out_channels=(8, 16, 32, 32),
    audio_dim=6,
    attention_head_dim=2,
    norm_num_groups=4,
    motion=False,
)
MOVING = PLAIN.replaced(motion=True)


@pytest.fixture(scope="module")
def stable_diffusion() -> dict[str, Tensor]:
    """Stable Diffusion 1.5's U-Net in small: 4 channels in, and keys and values twice as wide."""
    make_torchvision_importable()
    from diffusers import UNet2DConditionModel

    torch.manual_seed(2)
    network: Any = UNet2DConditionModel(
        block_out_channels=(8, 16, 32, 32), cross_attention_dim=12, attention_head_dim=2, norm_num_groups=4
    )
    tensors: dict[str, Tensor] = network.state_dict()
    return tensors


@pytest.mark.parametrize("config", [PLAIN, MOVING], ids=["plain", "motion"])
def test_stable_diffusion_gives_all_but_33_tensors(
    stable_diffusion: dict[str, Tensor], tmp_path: Path, config: UNetConfig
) -> None:
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(stable_diffusion, path)
    unet, begun = start_unet(config, path)
    new = {name for name in begun.new if ".motion_modules." not in name}
    assert len(new) == 33
    assert all(
        name == "conv_in.weight" or name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in new
    )
    assert begun.copied == len(stable_diffusion) - 33 == 686 - 33
    assert begun.left_out == ()
    state = unet.state_dict()
    assert all(torch.equal(state[key], value) for key, value in stable_diffusion.items() if key not in new)
    assert (
        state["conv_in.weight"].abs().sum() > 0
    )  # at zero, nothing could be learnt from the latents at first
    message = " ".join(begun.lines())
    assert "653 tensors copied" in message and f"{len(begun.new)} (" in message


def test_another_view_takes_all_but_the_ends(tmp_path: Path) -> None:
    path, seen = tmp_path / "unet.safetensors", PLAIN.replaced(view="mouth", latent_channels=32)
    save_checkpoint(path, build_unet(PLAIN).state_dict(), kind="unet", config=PLAIN)
    _, begun = start_unet(seen, path)
    assert set(begun.new) == {"conv_in.weight", "conv_out.weight", "conv_out.bias"}
    with pytest.raises(WeightsError, match="has shape"):
        start_unet(seen.replaced(view="face"), path)


def test_stage_two_begins_with_stage_one(tmp_path: Path) -> None:
    torch.manual_seed(3)
    first = build_unet(PLAIN)
    nn.init.normal_(first.network.conv_out.weight)  # type: ignore[union-attr, arg-type]
    path = tmp_path / "unet.safetensors"
    save_checkpoint(path, first.state_dict(), kind="unet", config=PLAIN)
    second, begun = start_unet(MOVING, path)
    assert all(".motion_modules." in name for name in begun.new) and begun.new
    sample, audio = torch.randn(1, 13, 2, 8, 8), torch.randn(2, 5, 6)
    with torch.no_grad():
        expected = first.eval()(sample, torch.tensor([7]), audio)
        found = second.eval()(sample, torch.tensor([7]), audio)
    torch.testing.assert_close(found, expected)  # temporal layers begin as if they were not there

    save_checkpoint(path, second.state_dict(), kind="unet", config=MOVING)
    _, back = start_unet(PLAIN, path)
    assert back.new == () and set(back.left_out) == set(begun.new)
    _, half = start_unet(MOVING.replaced(motion_modules="decoder"), path)
    assert half.left_out and all(name.startswith("down_blocks.") for name in half.left_out)


def test_a_reference_residual_may_be_new(tmp_path: Path) -> None:
    path = tmp_path / "unet.safetensors"
    save_checkpoint(path, build_unet(PLAIN).state_dict(), kind="unet", config=PLAIN)
    _, begun = start_unet(PLAIN.replaced(reference_residual=True), path)
    assert set(begun.new) == {"residual.weight", "residual.bias"}


def test_a_warp_may_be_new(tmp_path: Path) -> None:
    path, sizes = tmp_path / "unet.safetensors", PLAIN.replaced(view="mouth", adapter_dim=8)
    save_checkpoint(path, build_unet(sizes).state_dict(), kind="unet", config=sizes)
    unet, begun = start_unet(sizes.replaced(warp_widths=(8,)), path)
    assert unet.warp is not None
    assert set(begun.new) == {f"warp.{name}" for name in unet.warp.state_dict()}


def test_scratch_copies_nothing() -> None:
    unet, begun = start_unet(PLAIN, None)
    assert (begun.copied, set(begun.new)) == (0, set(unet.state_dict()))


def test_misfits_are_refused(stable_diffusion: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "unet.safetensors"
    cases = {
        "missing keys: 1": {key: value for key, value in stable_diffusion.items() if key != "conv_out.bias"},
        "unexpected keys: 1": stable_diffusion | {"extra.weight": torch.zeros(1)},
        "has shape": stable_diffusion | {"conv_norm_out.weight": torch.zeros(9)},
        "inpainting": stable_diffusion | {"conv_in.weight": torch.zeros(8, 9, 3, 3)},
    }
    for message, tensors in cases.items():
        save_file(tensors, path)
        with pytest.raises(WeightsError, match=message):
            start_unet(PLAIN, path)


def test_settings_that_no_tensor_shows_must_agree(tmp_path: Path) -> None:
    path = tmp_path / "unet.safetensors"
    save_checkpoint(path, build_unet(PLAIN).state_dict(), kind="unet", config=PLAIN)
    with pytest.raises(WeightsError, match="attention_head_dim = 2, but the recipe has 4"):
        start_unet(PLAIN.replaced(attention_head_dim=4), path)


def test_patterns_choose_what_is_trained() -> None:
    unet = build_unet(MOVING)
    trained = choose_trainable(unet.network, ("motion_modules.", "attn2."))
    for name, parameter in unet.network.named_parameters():
        assert parameter.requires_grad == ("motion_modules." in name or "attn2." in name), name
    assert 0 < trained < sum(parameter.numel() for parameter in unet.parameters())
    assert choose_trainable(unet.network, ()) == sum(parameter.numel() for parameter in unet.parameters())
    with pytest.raises(ValueError, match="'motion_modul3s'"):
        choose_trainable(unet.network, ("motion_modul3s",))


@pytest.mark.parametrize(
    ("modules", "patterns", "tensors", "numbers"),
    [
        ("all", ("motion_modules.", "attentions."), 936, 674_792_320),
        ("decoder", ("motion_modules.", "attn2."), 392, 284_660_480),
    ],
)
def test_as_many_are_trained_as_in_the_official_stage_two(
    modules: Any, patterns: tuple[str, ...], tensors: int, numbers: int
) -> None:
    with torch.device("meta"):
        network = build_unet(RELEASED_UNET.replaced(motion_modules=modules)).network
        assert choose_trainable(network, patterns) == numbers
    assert sum(parameter.requires_grad for parameter in network.parameters()) == tensors
