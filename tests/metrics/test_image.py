from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from latentsync.metrics.image import CleanFid, Fid, Flicker, Lpips, Psnr, Ssim, mouth_box, resized
from latentsync.metrics.metric import Missing, ScoredClip
from latentsync.metrics.statistics import FeatureStatistics
from tests.metrics.conftest import distance

CPU = torch.device("cpu")
Change = Callable[[ScoredClip], ScoredClip]
Talking = Callable[..., ScoredClip]
WIDTH = 12


class SmallInception(nn.Module):
    """Stands in for Inception: pictures of 299 px to features, in a list as pytorch-fid's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, WIDTH, 9, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, images: Tensor) -> list[Tensor]:
        assert images.shape[2:] == (299, 299)
        return [self.layers(images)]


def small_lpips(one: Tensor, other: Tensor) -> Tensor:
    """Stands in for LPIPS."""
    assert one.min() < -0.5
    return (one - other).square().mean((1, 2, 3), keepdim=True)


SMALL = SmallInception().eval()


def fid(name: str = "fid", *, batch_frames: int = 16) -> Fid:
    chosen = CleanFid if name == "fid_clean" else Fid
    return chosen(lambda: SMALL, CPU, batch_frames, width=WIDTH)


def noisy(clip: ScoredClip) -> ScoredClip:
    noise = np.random.default_rng(0).integers(-20, 20, clip.made_u8.shape)
    return replace(clip, made_u8=np.clip(clip.made_u8 + noise, 0, 255).astype(np.uint8))


def test_ssim_and_psnr_are_scikit_images(talking: Talking) -> None:
    clip = noisy(talking())
    assert clip.real_u8 is not None
    rows, columns = mouth_box(64)
    maps = [
        structural_similarity(made, real, channel_axis=-1, data_range=255, full=True)
        for made, real in zip(clip.made_u8, clip.real_u8, strict=True)
    ]
    assert Ssim().score(clip) == {
        "ssim": pytest.approx(np.mean([whole for whole, _ in maps]), abs=1e-9),
        "ssim_mouth": pytest.approx(np.mean([by_pixel[rows, columns] for _, by_pixel in maps]), abs=1e-9),
    }
    assert Psnr().score(clip) == {
        "psnr": pytest.approx(peak_signal_noise_ratio(clip.real_u8, clip.made_u8, data_range=255)),
        "psnr_mouth": pytest.approx(
            peak_signal_noise_ratio(
                clip.real_u8[:, rows, columns], clip.made_u8[:, rows, columns], data_range=255
            )
        ),
    }


def test_identical_videos_have_the_best_scores(talking: Talking) -> None:
    clip = talking()
    assert Ssim().score(clip) == {"ssim": pytest.approx(1), "ssim_mouth": pytest.approx(1)}
    assert Psnr().score(clip) == {"psnr": 100, "psnr_mouth": 100}
    assert Lpips(lambda: small_lpips, CPU).score(clip) == {"lpips": 0}
    assert Flicker().score(clip) == {"flicker": 0, "flicker_kept": 0}
    assert distance(fid(), [clip]) == pytest.approx(0, abs=1e-9)


def test_the_mouth_is_the_box_of_the_mask() -> None:
    assert mouth_box(256) == (slice(95, 243), slice(9, 248))


@pytest.mark.parametrize("name", ["fid", "fid_clean"])
def test_fid_ranks_too(name: str, talking: Talking) -> None:
    def changed(clip: ScoredClip, frames: slice) -> ScoredClip:
        kept = np.resize(np.arange(60)[frames], 60)[::3]
        return replace(clip, made_u8=clip.made_u8[kept], real_u8=clip.made_u8[::3])

    # A shifted clip has the same pictures except those that fall off its end.
    clips = [talking(seed) for seed in range(2)]
    real, late, still = (
        distance(fid(name), [changed(clip, frames) for clip in clips])
        for frames in (slice(60), slice(10, 60), slice(10, 11))
    )
    assert real < late < still


@pytest.mark.parametrize("batch_frames", [1, 7, 64])
def test_batches_change_nothing(batch_frames: int, talking: Talking) -> None:
    clips = [noisy(replace(talking(seed), made_u8=talking(seed).made_u8[:20])) for seed in range(2)]
    clips = [replace(clip, real_u8=talking(9).made_u8[:20]) for clip in clips]
    assert distance(fid(batch_frames=batch_frames), clips) == pytest.approx(distance(fid(), clips), abs=1e-6)
    found = Lpips(lambda: small_lpips, CPU, batch_frames).score(clips[0])
    assert found == {
        "lpips": pytest.approx(Lpips(lambda: small_lpips, CPU).score(clips[0])["lpips"], abs=1e-6)
    }


def test_clean_resizing_is_pillows() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    expected = np.asarray(
        Image.fromarray(picture.astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
    )
    image = torch.from_numpy(picture).float()[None, None].expand(1, 3, -1, -1) / 255
    found = resized(image, "clean")[0, 0].numpy()
    np.testing.assert_allclose(found, np.clip(expected / 255, 0, 1), atol=1e-5)


def test_flicker_counts_change_that_the_input_has_not(talking: Talking) -> None:
    clip = talking()
    brighter = clip.made_u8.copy()
    brighter[::2] += 10  # 10 grey levels up and down again, everywhere
    assert Flicker().score(replace(clip, made_u8=brighter)) == {
        "flicker": pytest.approx(10),
        "flicker_kept": pytest.approx(10),
    }
    assert Flicker().score(replace(clip, made_u8=clip.made_u8 + np.uint8(10))) == {
        "flicker": 0,
        "flicker_kept": 0,
    }


def test_flicker_without_silence_is_that_of_what_is_kept(talking: Talking) -> None:
    clip = replace(talking(), speech=np.ones(38400, np.float32))
    found = Flicker().score(noisy(clip))
    assert isinstance(found, dict)
    assert list(found) == ["flicker_kept"]


def test_what_cannot_be_compared_is_missing(talking: Talking) -> None:
    alone = replace(talking(), real_u8=None, input_u8=None)
    for metric in (Ssim(), Psnr(), Lpips(lambda: small_lpips, CPU), Flicker()):
        assert isinstance(metric.score(alone), Missing)
    assert fid().features(alone, "real").shape == (0, WIDTH)
    single = FeatureStatistics.empty(WIDTH)
    assert fid().compare(single, single) == Missing("too_few", "0 features < 2")
