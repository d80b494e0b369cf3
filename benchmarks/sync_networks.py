"""Networks for `benchmarks.sync` that need no weights: random ones, ones that only wait, and their FLOPs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from latentsync.models.autoencoder import AnyAutoencoder, build_tiny_autoencoder
from latentsync.models.unet import LipUNet, build_unet
from latentsync.models.vae import FaceVAE, build_vae
from latentsync.recipe.loading import load_recipe
from latentsync.recipe.networks import TinyAutoencoderConfig, UNetConfig, VAEConfig
from latentsync.recipe.train_unet import UNetTrainingRecipe
from latentsync.weights.checkpoints import read_note
from latentsync.weights.models import BUNDLED, LipModel, ModelSpec, find_model
from latentsync.weights.released import load_whisper

Size = Literal["compact", "full"]


def spec_of(size: Size, resolution: int) -> ModelSpec:
    """The model as `sync` would find it, at another resolution if need be; full size needs no files."""
    compact = find_model("compact")
    if size == "compact":
        return replace(compact, resolution=resolution)
    return replace(
        compact,
        name=f"full size, {resolution} px",
        resolution=resolution,
        steps=20,
        guidance=1.5,
        overlap_frames=4,
        prediction_type="epsilon",
        timestep_spacing="leading",
        view="face",
    )


def build_networks(size: Size) -> tuple[LipUNet, AnyAutoencoder]:
    """U-Net and autoencoder with random weights, on the device that torch builds on."""
    if size == "full":
        return build_unet(load_recipe("stage2", UNetTrainingRecipe).network), build_vae(VAEConfig())
    unet = UNetConfig.model_validate(read_note(BUNDLED / "unet.safetensors").config)
    note = read_note(BUNDLED / "vae.safetensors")
    if note.kind == "autoencoder":
        return build_unet(unet), build_tiny_autoencoder(TinyAutoencoderConfig.model_validate(note.config))
    return build_unet(unet), build_vae(VAEConfig.model_validate(note.config))


class WaitingUNet(nn.Module):
    """Takes as long as a device that makes `fps` frames a second, and computes nothing."""

    warp = None

    def __init__(self, channels: int, *, forwards: int, guided: bool, fps: float) -> None:
        super().__init__()
        self.channels = channels
        self.frame_s = 0.0 if fps <= 0 else 1 / fps / forwards / (2 if guided else 1)

    def forward(self, sample: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        time.sleep(self.frame_s * sample.shape[0] * sample.shape[2])
        return sample[:, : self.channels]

    def warp_for(self, audio: Tensor, guidance: float = 1.0) -> None:
        """References are taken as they are."""


class StubAutoencoder(nn.Module):
    """Latents are the picture made smaller; costs next to nothing."""

    factor, latent_channels = 8, 4

    def encode(self, images: Tensor, *, mode: str = "mean", generator: object = None) -> Tensor:
        small = functional.interpolate(images, scale_factor=1 / self.factor)
        return torch.cat([small, small[:, :1]], dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        return functional.interpolate(latents[:, :3].clamp(-1, 1), scale_factor=float(self.factor))


def stub_model(spec: ModelSpec, *, fps: float, device: torch.device) -> LipModel:
    """A model whose U-Net only waits; fps 0: not even that."""
    whisper = load_whisper(spec.whisper, device=device, dtype=torch.float32)
    waiting = WaitingUNet(4, forwards=spec.steps, guided=spec.guidance > 1, fps=fps)
    spec = replace(spec, view="face", name=f"stub, {spec.resolution} px")
    unet, vae = cast(LipUNet, waiting), cast(FaceVAE, StubAutoencoder())
    return LipModel(spec, unet, vae, whisper, device, torch.float32)


def random_model(spec: ModelSpec, size: Size, *, device: torch.device, dtype: torch.dtype) -> LipModel:
    """A model of full cost that draws nonsense."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet, vae = build_networks(size)
    whisper = load_whisper(spec.whisper, device=device, dtype=dtype)
    for network in (unet, vae):
        network.to(device, dtype).eval().requires_grad_(requires_grad=False)
    return LipModel(spec, unet, vae, whisper, device, dtype)


def count_gflops(size: Size, spec: ModelSpec, *, window: int, steps: int, guided: bool) -> dict[str, float]:
    """GFLOP a frame of every network: nothing is computed, the tensors have shapes only."""
    with torch.device("meta"):
        unet, vae = build_networks(size)
    side = spec.resolution // vae.factor // (2 if spec.view == "mouth" else 1)
    copies, pictures = (2 if guided else 1), spec.resolution // (2 if spec.view == "mouth" else 1)

    def counted(call: object, *tensors: Tensor) -> float:
        assert callable(call)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call(*tensors)
        return counter.get_total_flops() / 1e9 / window

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, device="meta")

    config = unet.config
    one_step = counted(
        unet,
        empty(copies, config.in_channels, window, side, side),
        torch.zeros(copies, dtype=torch.long, device="meta"),
        empty(copies * window, 50, config.audio_dim),
    )
    encode = counted(vae.encode, empty(window, 3, pictures, pictures))
    encodes = 1 if spec.view == "mouth" else 2
    decode = counted(vae.decode, empty(window, vae.latent_channels, side, side))
    return {
        "unet_step": round(one_step, 2),
        "vae_encode": round(encode, 2),
        "vae_decode": round(decode, 2),
        "frame": round(steps * one_step + encodes * encode + decode, 1),
    }


def matmul_peak_gflops(device: torch.device, dtype: torch.dtype, *, side: int | None = None) -> float:
    """The most that a square matrix product reaches here, as a share of which networks are judged."""
    side = side or (1024 if device.type == "cpu" else 8192)
    left = torch.randn(side, side, device=device).to(dtype)
    best = 0.0
    for _ in range(4):
        started_s = time.thread_time() if device.type == "cpu" else time.perf_counter()
        product = left @ left
        if device.type == "cuda":
            torch.cuda.synchronize()
        ended_s = time.thread_time() if device.type == "cpu" else time.perf_counter()
        best = max(best, 2 * side**3 / max(1e-9, ended_s - started_s) / 1e9)
        del product
    return round(best, 1)
