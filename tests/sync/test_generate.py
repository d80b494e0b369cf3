"""Crops out of tracked frames, windows out of a stream, and a mouth for every frame with a face."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Literal, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from latentsync.audio.whisper import WhisperEncoder
from latentsync.audio.windows import states_for_frames
from latentsync.diffusion.windows import plan_windows
from latentsync.errors import MemoryShortage
from latentsync.faces.align import mouth_mask
from latentsync.faces.track import TrackedFrame
from latentsync.models.unet import LipUNet, build_unet
from latentsync.models.vae import FaceVAE, build_vae
from latentsync.recipe.networks import VAEConfig
from latentsync.sync.denoiser import Sampling, batch_windows
from latentsync.sync.generate import (
    GeneratedFrame,
    cut_crops,
    cut_windows,
    generate,
    light_gain,
)
from latentsync.sync.references import Candidate
from latentsync.types import AffineFrame, Frame, FrameImage
from latentsync.weights.models import LipModel
from tests.networks import TINY_UNET
from tests.sync.made_model import made_spec

SIDE_PX = 64
STATES_DIM = 12
FPS = 25


def tracked_frames(faces: str) -> Iterator[TrackedFrame]:
    """A grey frame for each letter, lighter from one to the next; `-` has no face."""
    turn = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    for number, letter in enumerate(faces):
        frame = Frame(np.full((96, 96, 3), 140 + 4 * number, np.uint8), number, number / FPS)
        affine = None if letter == "-" else AffineFrame(turn, SIDE_PX)
        yield TrackedFrame(frame, None, affine)


@pytest.mark.parametrize(
    ("faces", "fade_frames", "quarters"),
    [
        ("ffffff", 3, "444444"),
        ("ffffff-", 3, "444321-"),
        ("-ffffff", 3, "-123444"),
        ("f-fffff-f", 3, "1-12321-1"),
        ("--f--", 3, "--1--"),
        ("ff-ff", 0, "44-44"),
    ],
)
def test_the_mouth_fades_next_to_a_gap(faces: str, fade_frames: int, quarters: str) -> None:
    cuts = list(cut_crops(tracked_frames(faces), fade_frames=fade_frames))
    shown = "".join("-" if cut.crop_u8 is None else str(round(4 * cut.strength)) for cut in cuts)
    assert shown == quarters
    assert [cut.tracked.frame.index for cut in cuts] == list(range(len(faces)))
    for cut in cuts:
        if cut.crop_u8 is not None:
            assert cut.crop_u8.shape == (SIDE_PX, SIDE_PX, 3)
            assert cut.crop_u8[8, 8, 0] == 140 + 4 * cut.tracked.frame.index


@given(
    frames=st.integers(0, 80),
    window=st.integers(1, 20),
    share=st.floats(0, 0.99),
)
def test_a_stream_is_cut_as_a_known_length_is(frames: int, window: int, share: float) -> None:
    overlap = int(share * window)
    cut = list(cut_windows(range(frames), window=window, overlap=overlap))
    assert [span for span, _ in cut] == plan_windows(frames, window=window, overlap=overlap)
    assert all(items == list(span) for span, items in cut)


def test_a_window_is_given_out_as_soon_as_it_is_full() -> None:
    source = iter(range(100))
    next(iter(cut_windows(source, window=16, overlap=4)))
    assert next(source) == 16


@pytest.mark.parametrize("overlap", [-1, 4])
def test_an_overlap_that_leaves_nothing_new(overlap: int) -> None:
    with pytest.raises(ValueError, match=f"overlap of {overlap} frames"):
        next(cut_windows([1, 2], window=4, overlap=overlap))


class Unwarped(nn.Module):
    """A network that takes references as they are."""

    warp = None

    def warp_for(self, audio: Tensor, guidance: float = 1.0) -> None:
        return None


class Echo(Unwarped):
    """A U-Net that says what it was shown (channels from `first` on) and keeps what it heard."""

    def __init__(self, first: int, channels: int) -> None:
        super().__init__()
        self.shown = slice(first, first + channels)
        self.audio: list[Tensor] = []
        self.windows: list[int] = []

    def forward(self, sample: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        self.audio.append(audio)
        self.windows.append(sample.shape[2])
        return sample[:, self.shown]


class Warping(Echo):
    """Shows the references of windows around the mouth, as they are, and notes the guidance of the flow."""

    warp = nn.Identity()

    def __init__(self) -> None:
        super().__init__(first=Shrink.latent_channels + 1 + 96, channels=Shrink.latent_channels)
        self.guidances: list[float] = []

    def warp_for(self, audio: Tensor, guidance: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:  # type: ignore[override]
        self.guidances.append(guidance)
        return lambda references, known: references.clone()


class Shrink(Unwarped):
    """An autoencoder whose latents are the picture, made smaller."""

    factor, latent_channels = 8, 3

    def encode(self, images: Tensor, *, mode: str, generator: torch.Generator) -> Tensor:
        return functional.avg_pool2d(images, self.factor)

    def decode(self, latents: Tensor) -> Tensor:
        return functional.interpolate(latents, scale_factor=self.factor)


def model_of(
    unet: nn.Module, vae: nn.Module, prediction_type: Literal["epsilon", "sample"] = "sample"
) -> LipModel:
    spec = made_spec(resolution=SIDE_PX, prediction_type=prediction_type)
    whisper = cast(WhisperEncoder, None)  # the steps are given
    return LipModel(
        spec, cast(LipUNet, unet), cast(FaceVAE, vae), whisper, torch.device("cpu"), torch.float32
    )


def sampling(*, overlap_frames: int = 0, is_exact: bool = False, seed: int = 0) -> Sampling:
    return Sampling(
        steps=1, guidance=1.0, window_frames=4, overlap_frames=overlap_frames, is_exact=is_exact, seed=seed
    )


def generated(faces: str, model: LipModel, chosen: Sampling) -> list[GeneratedFrame]:
    steps = torch.arange(200.0)[:, None, None].expand(-1, 5, STATES_DIM) / 100  # t n d
    cuts = cut_crops(tracked_frames(faces), fade_frames=0)
    return list(generate(cuts, model, steps, mouth_mask(SIDE_PX), chosen))


@pytest.mark.parametrize("overlap_frames", [0, 2])
@pytest.mark.parametrize("faces", ["f", "fffffff", "--fffff-f--ffff", "---"])
def test_every_face_gets_its_own_crop_in_order(faces: str, overlap_frames: int) -> None:
    echo = Echo(first=2 * Shrink.latent_channels + 1, channels=Shrink.latent_channels)  # the reference
    made = generated(faces, model_of(echo, Shrink()), sampling(overlap_frames=overlap_frames))
    assert [one.cut.tracked.frame.index for one in made] == list(range(len(faces)))
    for number, (one, letter) in enumerate(zip(made, faces, strict=True)):
        if letter == "-":
            assert one.crop is None
        else:
            assert one.crop is not None and one.crop.dtype == np.float32
            assert np.abs(one.crop - (140 + 4 * number)).max() < 0.01
    assert max(echo.windows, default=0) <= 4


def test_each_frame_gets_the_audio_of_its_own_time() -> None:
    echo = Echo(first=0, channels=Shrink.latent_channels)
    generated("f--fff", model_of(echo, Shrink()), sampling())
    times_s = [number / FPS for number in (0, 3, 4, 5)]
    steps = torch.arange(200.0)[:, None, None].expand(-1, 5, STATES_DIM) / 100
    assert torch.equal(torch.cat(echo.audio), states_for_frames(steps, times_s))


def test_the_masked_frame_hides_the_mouth_only() -> None:
    echo = Echo(first=Shrink.latent_channels + 1, channels=Shrink.latent_channels)
    (one,) = generated("f", model_of(echo, Shrink()), sampling())
    assert one.crop is not None
    grey, top = one.crop[:, :, 0], SIDE_PX // 8
    assert np.abs(grey[:top] - 140).max() < 0.01
    assert abs(grey[3 * SIDE_PX // 4, SIDE_PX // 2] - 127.5) < 0.01  # zero in -1..1


def test_the_networks_see_dim_faces_in_ordinary_light() -> None:
    dim = [
        TrackedFrame(Frame(frame.rgb_u8 // 5, index, frame.time_s), None, affine)
        for index, (frame, affine) in enumerate((one.frame, one.affine) for one in tracked_frames("ffff"))
    ]
    steps = torch.arange(200.0)[:, None, None].expand(-1, 5, STATES_DIM) / 100  # t n d
    masked = Echo(first=Shrink.latent_channels + 1, channels=Shrink.latent_channels)
    cuts = cut_crops(dim, fade_frames=0)
    made = list(generate(cuts, model_of(masked, Shrink()), steps, mouth_mask(SIDE_PX), sampling()))
    for one in made:
        assert one.crop is not None
        level = int(one.cut.tracked.frame.rgb_u8[0, 0, 0])
        # Grey where the mouth is hidden, 127.5, was seen beside skin of 190 and becomes as dim as that.
        assert np.abs(one.crop[0, 0, 0] - level) < 0.5
        assert one.crop[3 * SIDE_PX // 4, SIDE_PX // 2, 0] == pytest.approx(127.5 * level / 190, abs=0.5)


def test_light_never_jumps() -> None:
    levels = [light_gain(np.full((8, 8, 3), level, np.uint8)) * level for level in range(30, 256)]
    assert max(abs(a - b) for a, b in pairwise(levels)) < 4
    assert levels[-100:] == list(range(156, 256))


@pytest.fixture(scope="module")
def tiny() -> LipModel:
    """Real networks, as small as they come."""
    torch.manual_seed(3)
    vae = build_vae(
        VAEConfig(block_out_channels=(8, 8), num_blocks=1, latent_channels=2, patch=4, norm_num_groups=4)
    )
    unet = build_unet(TINY_UNET.replaced(adapter_dim=STATES_DIM, audio_dim=STATES_DIM))
    return model_of(unet.eval(), vae.eval(), "epsilon")


@pytest.mark.parametrize("is_exact", [False, True])
def test_the_seed_decides_the_crops(tiny: LipModel, is_exact: bool) -> None:
    first, again, other = (
        np.stack(
            [
                one.crop
                for one in generated("fffff", tiny, sampling(is_exact=is_exact, seed=seed))
                if one.crop is not None
            ]
        )
        for seed in (1, 1, 2)
    )
    assert first.shape == (5, SIDE_PX, SIDE_PX, 3)
    assert first.min() >= 0 and first.max() <= 255
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def warped(
    tracked: list[TrackedFrame], devices: int = 1, guidance: float = 1.0
) -> tuple[list[int], list[Warping]]:
    """The grey between the lips of each frame, made in windows of four, and the networks that made them."""
    unets = [Warping() for _ in range(devices)]
    first, *others = (
        replace(model, spec=made_spec(resolution=SIDE_PX, view="mouth"))
        for model in (model_of(unet, Shrink()) for unet in unets)
    )
    steps = torch.zeros(200, 5, STATES_DIM)
    cuts, chosen = cut_crops(tracked, fade_frames=0), replace(sampling(), guidance=guidance)
    made = list(generate(cuts, first, steps, mouth_mask(SIDE_PX), chosen, others=others))
    return [round(float(one.crop[45, 32, 0])) for one in made if one.crop is not None], unets


@pytest.mark.parametrize("devices", [1, 2])
def test_a_warped_reference_stays_until_a_better_one_is_faded_in(
    devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def candidate(tracked: TrackedFrame, crop_u8: FrameImage, *, gain: float, visible: object) -> Candidate:
        return Candidate(crop_u8, 0, float(tracked.frame.index >= 5), gain, None)

    monkeypatch.setattr("latentsync.sync.generate.candidate", candidate)
    greys, _ = warped(list(tracked_frames("f" * 13)), devices)
    assert greys == [140] * 4 + [144, 148, 152, 156] + [160] * 5  # frame 5 has 160


def test_a_warped_reference_is_of_the_same_shot() -> None:
    tracked = [replace(one, shot=number // 6) for number, one in enumerate(tracked_frames("f" * 12))]
    greys, (unet,) = warped(tracked)
    assert greys == [140] * 6 + [164] * 6
    assert unet.windows == [4, 2, 4, 2]


def test_guidance_reaches_the_flow() -> None:
    _, (unet,) = warped(list(tracked_frames("f")), guidance=1.7)
    assert unet.guidances == [1.7]


class Small(Echo):
    """A device on which only so many frames fit at once."""

    def __init__(self, most_frames: int) -> None:
        super().__init__(first=2 * Shrink.latent_channels + 1, channels=Shrink.latent_channels)
        self.most_frames = most_frames
        self.batches: list[int] = []

    def forward(self, sample: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        if sample.shape[0] * sample.shape[2] > self.most_frames:
            raise torch.OutOfMemoryError
        self.batches.append(len(sample))
        return super().forward(sample, timesteps, audio)


@pytest.mark.parametrize(("most_frames", "batches"), [(99, [3, 1, 1]), (8, [1] * 5)])
def test_windows_of_a_batch_are_halved_when_memory_runs_out(
    most_frames: int, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentsync.sync.denoiser.batch_windows", lambda *_: 3)
    unet = Small(most_frames=4 * 3 if most_frames > 12 else 6)
    made = generated("f" * 18, model_of(unet, Shrink()), sampling())
    assert unet.batches == batches
    assert [one.cut.tracked.frame.index for one in made] == list(range(18))
    for number, one in enumerate(made):
        assert one.crop is not None and np.abs(one.crop - (140 + 4 * number)).max() < 0.01


def test_memory_that_does_not_suffice_for_one_window() -> None:
    with pytest.raises(MemoryShortage, match="denoising 4 frames of 64 px"):
        generated("ffff", model_of(Small(most_frames=3), Shrink()), sampling())


@pytest.mark.parametrize(
    ("side_px", "free_gb", "is_exact", "expected"),
    [(256, 80, False, 4), (512, 80, False, 1), (256, 3, False, 2), (256, 0.5, False, 1), (256, 80, True, 1)],
)
def test_a_batch_holds_what_the_free_memory_allows(
    side_px: int, free_gb: float, is_exact: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (int(free_gb * 1e9), int(80e9)))
    chosen = replace(sampling(is_exact=is_exact), window_frames=16)
    assert batch_windows(chosen, side_px, torch.device("cuda")) == expected
    assert batch_windows(chosen, side_px, torch.device("cpu")) == 1


def test_two_devices_make_what_one_makes(tiny: LipModel) -> None:
    chosen = sampling(overlap_frames=1, seed=4)
    steps = torch.arange(200.0)[:, None, None].expand(-1, 5, STATES_DIM) / 100  # t n d
    one, two = (
        list(
            generate(
                cut_crops(tracked_frames("f" * 19 + "-ff"), fade_frames=0),
                tiny,
                steps,
                mouth_mask(SIDE_PX),
                chosen,
                others=others,
            )
        )
        for others in ((), (copy.deepcopy(tiny),))
    )
    assert [each.cut.tracked.frame.index for each in two] == list(range(22))
    for alone, shared in zip(one, two, strict=True):
        assert np.array_equal(alone.crop, shared.crop) if alone.crop is not None else shared.crop is None


class Counting(Shrink):
    """Notes how many pictures it encodes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded: list[int] = []

    def encode(self, images: Tensor, *, mode: str, generator: torch.Generator) -> Tensor:
        self.encoded.append(len(images))
        return super().encode(images, mode=mode, generator=generator)


def test_equal_crops_are_encoded_once() -> None:
    vae, echo = Counting(), Echo(first=2 * Shrink.latent_channels + 1, channels=Shrink.latent_channels)
    frames = list(tracked_frames("ff"))
    still = [
        TrackedFrame(replace(frames[each].frame, index=at), None, frames[0].affine)
        for at, each in enumerate((0, 0, 1, 0))
    ]
    steps = torch.zeros(200, 5, STATES_DIM)
    made = list(
        generate(cut_crops(still, fade_frames=0), model_of(echo, vae), steps, mouth_mask(SIDE_PX), sampling())
    )
    assert vae.encoded == [4]  # two crops, each as it is and masked
    assert [round(float(one.crop[0, 0, 0])) for one in made if one.crop is not None] == [140, 140, 144, 140]
