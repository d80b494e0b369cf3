"""The objective: what each part is, and that gradients reach the U-Net through all of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from latentsync.events import ignore
from latentsync.models.framewise import build_framewise
from latentsync.models.syncnet import SyncNet, build_syncnet
from latentsync.models.vae import build_vae
from latentsync.models.videomae import build_video_encoder, trepa_distance
from latentsync.models.wav2lip import lower_half_out
from latentsync.recipe.networks import TowerConfig
from latentsync.recipe.train_unet import NoiseTable
from latentsync.train.unet.frozen import FrozenNetworks
from latentsync.train.unet.objective import (
    UNetObjective,
    Wav2LipObjective,
    adversarial_loss,
    choose_objective,
    clean_loss,
    discriminator_loss,
    draw_noise,
    loss_weights,
    noise_loss,
    perceptual_loss,
    pixel_sync_loss,
    temporal_features,
)
from latentsync.train.unet.start import build_generator
from tests.networks import BUNDLED_SYNCNET, PAPER_SYNCNET, STAGE2_RECIPE
from tests.train.made_lips import FRAMES, STAGE1, STAGE2, SYNCNET, TEMPORAL, VAE, StandInLpips, lip_recipe

NOWHERE = Path("nowhere")
ADVERSARIAL = STAGE2_RECIPE.loss.replaced(
    noise=0, reconstruction=0.9, adversarial=0.07, sync=0, perceptual=0, trepa=0
)


class Guess(nn.Module):
    """Stands for the U-Net: its guess of the noise depends on one number, and on all that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.given: list[Tensor] = []

    def forward(self, sample: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        self.given = [sample, timesteps, audio]
        return sample[:, :4] * self.gain


@pytest.fixture
def frozen() -> FrozenNetworks:
    torch.manual_seed(1)
    networks = (build_vae(VAE), build_syncnet(SYNCNET), StandInLpips(), build_video_encoder(TEMPORAL))
    for network in networks:
        network.eval().requires_grad_(False)
    return FrozenNetworks(*networks)  # type: ignore[arg-type]


def batch(*numbers: int, tokens: int = 10) -> dict[str, Tensor]:
    """Samples that are the same for the same number."""
    generators = [torch.Generator().manual_seed(number) for number in numbers]

    def draw(*shape: int) -> Tensor:
        return torch.stack([torch.rand(shape, generator=generator) for generator in generators])

    return {
        "target_u8": (255 * draw(FRAMES, 32, 32, 3)).to(torch.uint8),
        "reference_u8": (255 * draw(FRAMES, 32, 32, 3)).to(torch.uint8),
        "audio": draw(FRAMES, tokens, 16),
        "mel": draw(80, 16),
        "frame_mel": draw(FRAMES, 80, 16),
        "has_speech": torch.ones(len(numbers)),
        "number": torch.tensor(numbers),
    }


def test_stage_one_looks_at_the_noise_alone(frozen: FrozenNetworks) -> None:
    alone = FrozenNetworks(frozen.vae, None, None, None)
    losses = UNetObjective(lip_recipe(NOWHERE, loss=STAGE1), alone).losses(Guess(), batch(0, 1))
    assert losses.keys() == {"noise"} == loss_weights(STAGE1).keys()


@pytest.mark.parametrize("name", ["noise", "sync", "perceptual", "trepa"])
def test_gradients_reach_the_unet_through_every_part(frozen: FrozenNetworks, name: str) -> None:
    guess = Guess()
    losses = UNetObjective(lip_recipe(NOWHERE, loss=STAGE2), frozen).losses(guess, batch(0, 1))
    assert losses.keys() == loss_weights(STAGE2).keys()
    losses[name].backward()
    assert guess.gain.grad is not None and guess.gain.grad != 0 and guess.gain.grad.isfinite()
    parts = (frozen.vae, frozen.syncnet, frozen.perceptual, frozen.temporal)
    assert all(value.grad is None for part in parts if part for value in part.parameters())


def test_every_loss_trains_every_parameter(frozen: FrozenNetworks) -> None:
    """Of a U-Net with temporal layers; what begins at zero is moved first, as a first step would."""
    recipe = lip_recipe(NOWHERE, loss=STAGE2)
    run = recipe.run.replaced(gradient_checkpointing=False)
    recipe = recipe.replaced(network=recipe.network.replaced(motion=True), run=run)
    model, _ = build_generator(recipe, frozen.vae, None, ignore)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    named = dict(model.named_parameters())
    losses = UNetObjective(recipe, frozen).losses(model, batch(0))
    assert losses.keys() == {"noise", "sync", "perceptual", "trepa"}
    for name, loss in losses.items():
        found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
        for key, gradient in zip(named, found, strict=True):
            assert gradient is not None and gradient.isfinite().all() and gradient.any(), f"{name}: {key}"


def test_the_unet_is_given_the_channels_in_the_released_order(frozen: FrozenNetworks) -> None:
    guess, given = Guess(), batch(7)
    UNetObjective(lip_recipe(NOWHERE), frozen).losses(guess, given)
    sample, timesteps, audio = guess.given
    assert sample.shape == (1, 13, FRAMES, 16, 16)
    assert sample[0, 4, 0, 0].min() > 0.5 > sample[0, 4, 0, 10, 8]  # 1 is kept, 0 is the mouth
    assert 0 <= timesteps.item() < 1000
    assert torch.equal(audio, given["audio"][0])
    assert not torch.equal(sample[:, 5:9], sample[:, 9:])


def test_a_sample_draws_the_same_noise_in_every_batch(frozen: FrozenNetworks) -> None:
    guess, objective = Guess(), UNetObjective(lip_recipe(NOWHERE), frozen)
    objective.losses(guess, batch(4, 9))
    together, at = guess.given[0], guess.given[1]
    objective.losses(guess, batch(9))
    torch.testing.assert_close(guess.given[0][0], together[1])
    assert guess.given[1][0] == at[1]


def test_the_right_noise_costs_nothing() -> None:
    noise = torch.randn(1, 4, 2, 3, 3)
    assert noise_loss(noise, noise) == 0
    assert noise_loss(noise + 2, noise) == pytest.approx(4)


@pytest.mark.parametrize(
    ("table", "correlation"),
    [
        (STAGE2_RECIPE.noise.replaced(kind="mixed", alpha=1.0), 0.5),
        (STAGE2_RECIPE.noise.replaced(kind="mixed", alpha=2.0), 0.8),
        (STAGE2_RECIPE.noise.replaced(kind="shared"), 1.0),
        (STAGE2_RECIPE.noise.replaced(kind="independent"), 0.0),
    ],
)
def test_noise_of_two_frames(table: NoiseTable, correlation: float) -> None:
    noise = draw_noise(torch.Size((1, 4, 2, 100, 100)), torch.Generator().manual_seed(1), table)
    one, two = noise[0, :, 0].flatten(), noise[0, :, 1].flatten()
    assert one.std() == pytest.approx(1, abs=0.02)
    assert (one * two).mean() == pytest.approx(correlation, abs=0.03)


def test_perceptual_looks_at_the_lower_half() -> None:
    made = torch.rand(1, 3, 2, 32, 32)
    other = made.clone()
    other[:, :, :, :16] = 0
    assert perceptual_loss(made, other, StandInLpips()) == 0
    other[:, :, :, 16:] = 0
    assert perceptual_loss(made, other, StandInLpips()) > 0


def test_sync_resizes_to_what_the_syncnet_takes(frozen: FrozenNetworks) -> None:
    assert isinstance(frozen.syncnet, SyncNet)
    loss = pixel_sync_loss(torch.rand(2, 3, FRAMES, 64, 64), batch(0, 1), frozen.syncnet)
    assert loss.shape == () and loss > 0


def test_a_latent_syncnet_needs_no_decoded_frame(frozen: FrozenNetworks) -> None:
    config = PAPER_SYNCNET.replaced(
        visual=TowerConfig(channels=(8, 8), factors=(4, 4), attention=()),
        audio=SYNCNET.audio,
        frames=FRAMES,
        resolution=32,
        space="latent",
        is_lower_half=False,
        norm_groups=4,
    )
    seeing = FrozenNetworks(frozen.vae, build_syncnet(config).eval(), None, None)
    loss = STAGE2_RECIPE.loss.replaced(sync_space="latent", perceptual=0, trepa=0)
    assert frozen.vae is not None
    frozen.vae.decode = None  # type: ignore[method-assign, assignment]
    guess = Guess()
    losses = UNetObjective(lip_recipe(NOWHERE, loss=loss), seeing).losses(guess, batch(0))
    losses["sync"].backward()
    assert guess.gain.grad


def test_a_framewise_syncnet_takes_whisper_states() -> None:
    config = BUNDLED_SYNCNET.replaced(
        frames=16, rows=16, columns=24, channels=(4, 4), width=8, dimension=8, whisper_dim=16
    )
    syncnet = build_framewise(config).eval()
    made = torch.rand(2, 3, 16, 32, 32, requires_grad=True)
    given = {"states": torch.rand(2, 32, 5, 16), "has_speech": torch.tensor([1.0, 0.0])}
    loss = pixel_sync_loss(made, given, syncnet)
    loss.backward()
    assert 0 < loss < 14
    assert made.grad is not None and made.grad[0].abs().sum() > 0
    assert not made.grad[1].any()  # silence is neither in nor out of sync


def test_a_framewise_syncnet_follows_the_lips() -> None:
    config = BUNDLED_SYNCNET.replaced(frames=16, rows=16, columns=24, channels=(4, 4), width=8)
    features = temporal_features(build_framewise(config).eval())
    video = torch.rand(2, 3, 16, 32, 32)
    assert features(video).shape == (2, 16 * 4)
    assert trepa_distance(video, video, features) == 0 < trepa_distance(video, video.flip(2), features)


def test_predicted_latents_are_held_against_the_target(frozen: FrozenNetworks) -> None:
    clean = STAGE2_RECIPE.loss.replaced(noise=0, clean=1, reconstruction=1, sync=0, perceptual=0, trepa=0)
    noise = STAGE2_RECIPE.noise.replaced(prediction="clean", noisiest_share=1.0)
    recipe = lip_recipe(NOWHERE, loss=clean, noise=noise)
    alone, guess, given = FrozenNetworks(frozen.vae, None, None, None), Guess(), batch(0, 1)
    losses = UNetObjective(recipe, alone).losses(guess, given)
    assert losses.keys() == {"clean", "reconstruction"} == loss_weights(clean).keys()
    assert guess.given[1].tolist() == [999, 999]
    losses["reconstruction"].backward()
    assert guess.gain.grad


def test_one_reference_frame_serves_the_whole_window(frozen: FrozenNetworks) -> None:
    guess, given = Guess(), batch(0)
    given["reference_u8"] = given["reference_u8"][:, :1]
    UNetObjective(lip_recipe(NOWHERE), frozen).losses(guess, given)
    reference = guess.given[0][:, 9:]
    assert torch.equal(reference[:, :, :1].expand_as(reference), reference)


@pytest.mark.parametrize("with_unet", [True, False])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_warp_is_validated_with_one_frame_that_is_not_the_target(
    with_unet: bool, precision: torch.dtype
) -> None:
    vae = build_vae(VAE.replaced(patch=4)).to(precision).eval()  # its latents are an eighth of the side
    recipe = lip_recipe(NOWHERE)
    recipe = recipe.replaced(
        network=recipe.network.replaced(
            view="mouth", motion=False, adapter_dim=8, warp_widths=(8, 8), reference_residual=True
        ),
        windows=recipe.windows.replaced(resolution=64),
        noise=recipe.noise.replaced(prediction="clean"),
        loss=STAGE1.replaced(noise=0, clean=float(with_unet), warp=1),
    )
    objective = choose_objective(recipe, FrozenNetworks(vae, None, None, None))
    model, _ = build_generator(recipe, vae, None, ignore)
    given = batch(0)
    given["audio"] = torch.zeros(1, FRAMES, 50, recipe.network.audio_dim)
    for name in ("target_u8", "reference_u8"):
        given[name] = given[name].repeat(1, 1, 2, 2, 1)
    with torch.no_grad():
        made = objective.generate(model.eval(), given)
        assert made.shape == (FRAMES, 64, 64, 3)
        given["reference_u8"][:, 1:] = 0
        assert (objective.generate(model, given) == made).all()
        given["reference_u8"][:] = 0
        assert (objective.generate(model, given) != made).any()


def test_the_mouth_counts_more_than_what_is_seen() -> None:
    latents, weights = torch.zeros(1, 4, 2, 2, 2), torch.tensor([[3.0, 1.0], [0.25, 0.25]])
    predicted = latents.clone()
    predicted[..., 0, 0] = -1
    assert clean_loss(predicted, latents, weights) == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    ("name", "trained"), [("adversarial", "network."), ("discriminator", "discriminator.")]
)
def test_each_adversarial_loss_trains_its_own_network(name: str, trained: str) -> None:
    recipe = lip_recipe(NOWHERE, generator="wav2lip", loss=ADVERSARIAL)
    model, _ = build_generator(recipe, None, None, ignore)
    objective = Wav2LipObjective(recipe, FrozenNetworks())
    losses = objective.losses(model, batch(0, 1))
    assert losses.keys() == objective.weights.keys() == {"reconstruction", "adversarial", "discriminator"}
    assert objective.weights["discriminator"] == 1
    losses[name].backward()
    for key, parameter in model.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.isfinite().all() and parameter.grad.any())
        # Biases in front of BatchNorm have no gradient but rounding.
        assert moved or not key.startswith(trained) or key.endswith("layer.bias"), key
        assert parameter.grad is None or key.startswith(trained), key
    assert objective.generate(model.eval(), batch(0)).shape == (FRAMES, 32, 32, 3)


@pytest.mark.parametrize("name", ["adversarial", "discriminator"])
def test_a_unet_and_the_discriminator_of_its_latents_are_trained_apart(
    frozen: FrozenNetworks, name: str
) -> None:
    sizes = lip_recipe(NOWHERE).network
    recipe = lip_recipe(
        NOWHERE,
        loss=STAGE1.replaced(noise=0, clean=1.0, adversarial=0.5),
        network=sizes.replaced(motion=False, adapter_dim=8),
        noise=STAGE2_RECIPE.noise.replaced(prediction="clean"),
    )
    model, _ = build_generator(recipe, frozen.vae, None, ignore)
    objective = UNetObjective(recipe, frozen)
    losses = objective.losses(model, batch(0, 1, tokens=50))
    assert losses.keys() == objective.weights.keys() == {"clean", "adversarial", "discriminator"}
    losses[name].backward()
    moved = {
        key.split(".")[0]
        for key, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    if name == "discriminator":
        assert moved == {"discriminator"}
    else:
        assert "network" in moved and "discriminator" not in moved


def test_the_losses_of_an_undecided_discriminator() -> None:
    """Wav2Lip's: at even odds ln 2 for the generator, and twice that for the sum over real and generated."""
    even, sure = torch.zeros(4), torch.full((4,), 20.0)
    assert adversarial_loss(even) == pytest.approx(math.log(2))
    assert discriminator_loss(even, even) == pytest.approx(2 * math.log(2))
    assert adversarial_loss(sure) < 1e-6 and discriminator_loss(-sure, sure) < 1e-6


def test_wav2lip_draws_pixels_and_is_judged_alike(frozen: FrozenNetworks) -> None:
    class Copy(nn.Module):
        def forward(self, masked: Tensor, reference: Tensor, mel: Tensor) -> Tensor:
            self.masked = masked
            return masked * 0.5

    recipe = lip_recipe(
        NOWHERE,
        generator="wav2lip",
        loss=STAGE2_RECIPE.loss.replaced(noise=0, reconstruction=1, perceptual=0),
    )
    without_vae = FrozenNetworks(None, frozen.syncnet, None, frozen.temporal)
    copy = Copy()
    losses = Wav2LipObjective(recipe, without_vae).losses(copy, batch(0))
    assert losses.keys() == {"reconstruction", "sync", "trepa"}
    assert (copy.masked[:, :, :, 16:] == -1).all()
    video = torch.rand(1, 3, 2, 4, 4)
    assert torch.equal(lower_half_out(video)[:, :, :, :2], video[:, :, :, :2])
