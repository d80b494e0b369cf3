"""Weights of the networks that judge: released SyncNets, SyncNet v2, VideoMAE-v2, HyperIQA, FaceNet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from latentsync.errors import WeightsError
from latentsync.models.facenet import FaceNet
from latentsync.models.framewise import FramewiseSyncNet, build_framewise
from latentsync.models.hyperiqa import HyperIQA
from latentsync.models.syncnet import SyncNet, build_syncnet
from latentsync.models.syncnet_v2 import SyncNetV2
from latentsync.models.videomae import VideoEncoder, build_video_encoder
from latentsync.recipe.networks import FramewiseConfig, SyncNetConfig, TowerConfig, VideoEncoderConfig
from latentsync.weights.checkpoints import assign_strictly, is_checkpoint, load_checkpoint, read_note
from latentsync.weights.fingerprints import describe_unknown, identify
from latentsync.weights.read import Content, read_content, read_tensors

_AUDIO_16 = TowerConfig(
    channels=(32, 64, 128, 256, 512, 1024, 2048), factors=((2, 1), 2, 2, 1, 2, 2, (2, 3)), attention=()
)
_VISUAL_16 = TowerConfig(
    channels=(64, 128, 256, 256, 512, 1024, 2048, 2048), factors=((1, 2), 2, 2, 2, 2, 2, 2, 2), attention=()
)
_PIXEL_16 = SyncNetConfig(
    kind="stable",
    frames=16,
    resolution=256,
    space="pixel",
    is_lower_half=True,
    norm_groups=32,
    dropout=0.0,
    visual=_VISUAL_16,
    audio=_AUDIO_16,
)
RELEASED_SYNCNETS = {
    "16_pixel": _PIXEL_16,  # LatentSync 1.0
    "16_pixel_attn": _PIXEL_16.replaced(  # LatentSync 1.5 and 1.6: stable_syncnet.pt
        visual=_VISUAL_16.replaced(attention=(False, False, False, False, True, True, False, False)),
        audio=_AUDIO_16.replaced(attention=(False, False, False, True, True, False, False)),
    ),
    "16_latent": _PIXEL_16.replaced(
        visual=TowerConfig(channels=(64, 128, 256, 256, 512, 1024), factors=(2, 2, 2, 1, 2, 2), attention=()),
        audio=TowerConfig(
            channels=(32, 64, 128, 256, 512, 1024), factors=((2, 1), 2, 2, 2, 2, (2, 3)), attention=()
        ),
        space="latent",
        is_lower_half=False,
    ),
    "25_pixel": _PIXEL_16.replaced(
        visual=TowerConfig(
            channels=(128, 128, 256, 256, 512, 512, 1024, 1024),
            factors=((1, 2), 2, 2, 2, 2, 2, 2, 2),
            attention=(),
        ),
        audio=TowerConfig(channels=(64, 128, 256, 256, 512, 1024), factors=(2,) * 6, attention=()),
        frames=25,
    ),
}
SYNCNET_NAMED = "the SyncNet is the file that the LatentSync release calls stable_syncnet.pt"
SYNCNET_V2_NAMED = "the judge is the file that its authors call syncnet_v2.model"
VIDEOMAE_NAMED = "the video encoder is the file vit_g_hybrid_pt_1200e_ssv2_ft.pth of VideoMAE-v2"
FACENET_NAMED = "the face network is the file 20180402-114759-vggface2.pt of facenet-pytorch"
HEADS_OF_WIDTH = {1408: 16, 1280: 16, 1024: 16, 768: 12, 384: 6}  # not to be seen in the tensors

TowerLayout = tuple[int, tuple[int, ...], tuple[bool, ...]]  # channels in, widths, which blocks attend


def config_of(tensors: dict[str, Tensor], path: Path) -> SyncNetConfig:
    """Tell which of the released SyncNets the tensors belong to.

    Raises:
        WeightsError: none of them; the message names what it seems to be.
    """
    first = [tensors.get(f"{tower}_encoder.conv_in.weight") for tower in ("audio", "visual")]
    if any(convolution is None or convolution.ndim != 4 for convolution in first):
        raise WeightsError(f"{str(path)!r} is not a SyncNet: it {_seems(tensors)}", hint=SYNCNET_NAMED)
    found = _layout(tensors, "visual_encoder"), _layout(tensors, "audio_encoder")
    for config in RELEASED_SYNCNETS.values():
        towers = ((config.visual, config.visual_channels), (config.audio, 1))
        if found == tuple((channels, tower.channels, tower.attends) for tower, channels in towers):
            return config
    (seen, widths, _), _ = found
    raise WeightsError(
        f"{str(path)!r} seems to be a SyncNet, but of no released size: it takes {seen} channels,"
        f" in blocks of {widths}",
        hint=f"{SYNCNET_NAMED}; known are {', '.join(RELEASED_SYNCNETS)}",
    )


def syncnet_from_released(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> SyncNet:
    """Load one of the released SyncNets, in eval mode.

    Raises:
        WeightsError: the file is damaged, holds another network, or a key is missing or left over.
    """
    tensors = read_content(path).tensors
    config = config_of(tensors, path)
    with torch.device("meta"):
        syncnet = build_syncnet(config)
    assign_strictly(syncnet, tensors, path, device=device, dtype=dtype)
    return syncnet.eval()


def load_syncnet(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> SyncNet | FramewiseSyncNet:
    """Load a SyncNet, in eval mode: one of ours, which says what it is, or a released one.

    Raises:
        WeightsError: as `load_checkpoint` or `syncnet_from_released`.
    """
    if not is_checkpoint(path):
        return syncnet_from_released(path, device=device, dtype=dtype)
    if read_note(path).kind == "framewise_syncnet":
        return load_checkpoint(
            path,
            kind="framewise_syncnet",
            config_type=FramewiseConfig,
            build=build_framewise,
            device=device,
            dtype=dtype,
        )
    return load_checkpoint(
        path, kind="syncnet", config_type=SyncNetConfig, build=build_syncnet, device=device, dtype=dtype
    )


def syncnet_v2_from_released(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> SyncNetV2:
    """Load SyncNet v2, in eval mode.

    Raises:
        WeightsError: the file is damaged, holds another network, or a key is missing or left over.
    """
    tensors = read_content(path).tensors
    if "netcnnaud.0.weight" not in tensors:
        raise WeightsError(f"{str(path)!r} is not SyncNet v2: it {_seems(tensors)}", hint=SYNCNET_V2_NAMED)
    with torch.device("meta"):
        judge = SyncNetV2()
    assign_strictly(judge, tensors, path, device=device, dtype=dtype)
    return judge.eval()


def videomae_from_released(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> VideoEncoder:
    """Load a fine-tuned VideoMAE-v2, of any size whose number of heads is known, in eval mode.

    Raises:
        WeightsError: the file is damaged, holds another network, or a key is missing or left over.
    """
    tensors = read_content(path).tensors
    cut = tensors.get("patch_embed.proj.weight")
    if cut is None or cut.ndim != 5 or "fc_norm.weight" not in tensors:
        raise WeightsError(
            f"{str(path)!r} is not a fine-tuned VideoMAE-v2: it {_seems(tensors)}", hint=VIDEOMAE_NAMED
        )
    width, _, tubelet, patch, _ = cut.shape
    if width not in HEADS_OF_WIDTH or "blocks.0.mlp.fc1.weight" not in tensors:
        raise WeightsError(
            f"{str(path)!r} is a video encoder of unknown size: its features have {width} numbers",
            hint=VIDEOMAE_NAMED,
        )
    config = VideoEncoderConfig(
        width=width,
        depth=len({match[1] for key in tensors if (match := re.match(r"blocks\.(\d+)\.", key))}),
        heads=HEADS_OF_WIDTH[width],  # no tensor shows them
        hidden=len(tensors["blocks.0.mlp.fc1.weight"]),
        classes=len(tensors.get("head.weight", ())),
        patch=patch,
        tubelet=tubelet,
    )
    with torch.device("meta"):
        encoder = build_video_encoder(config)
    assign_strictly(encoder, tensors, path, device=device, dtype=dtype)
    return encoder.eval()


def hyperiqa_from_released(path: Path, *, device: torch.device | str = "cpu") -> HyperIQA:
    """Load `koniq_pretrained.pkl`, in eval mode.

    Raises:
        WeightsError: the file is damaged, holds another network, or a key is missing or left over.
    """
    # HyperIQA takes features of its ResNet-50, and never the classifier behind them.
    tensors = {key: tensor for key, tensor in read_tensors(path).items() if not key.startswith("res.fc.")}
    with torch.device("meta"):
        network = HyperIQA()
    _count_no_batches(network, tensors)
    assign_strictly(network, tensors, path, device=device, dtype=torch.float32)
    return network.eval()


def facenet_from_released(path: Path, *, device: torch.device | str = "cpu") -> FaceNet:
    """Load FaceNet from `20180402-114759-vggface2.pt`, in eval mode.

    Raises:
        WeightsError: the file is damaged, holds another network, or a key is missing or left over.
    """
    tensors = read_tensors(path)
    if "repeat_3.0.branch0.conv.weight" not in tensors:
        raise WeightsError(f"{str(path)!r} is not FaceNet: it {_seems(tensors)}", hint=FACENET_NAMED)
    with torch.device("meta"):
        network = FaceNet()
    _count_no_batches(network, tensors)
    assign_strictly(network, tensors, path, device=device, dtype=torch.float32)
    return network.eval()


def _count_no_batches(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Add the counters of BatchNorm, which old files lack; they play no part in eval mode."""
    for key, tensor in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            tensors.setdefault(key, torch.zeros(tensor.shape, dtype=tensor.dtype))


def _layout(tensors: Mapping[str, Tensor], tower: str) -> TowerLayout:
    """Read off what `TowerConfig` says: attention lies in the list behind the block it follows."""
    widths: list[int] = []
    attention: list[bool] = []
    for index in range(len(tensors)):
        convolution = tensors.get(f"{tower}.down_blocks.{index}.conv2.weight")
        if convolution is not None and convolution.ndim == 4:
            widths.append(len(convolution))
            attention.append(False)
        elif f"{tower}.down_blocks.{index}.attn.to_q.weight" in tensors and attention:
            attention[-1] = True
        else:
            break
    return tensors[f"{tower}.conv_in.weight"].shape[1], tuple(widths), tuple(attention)


def _seems(tensors: dict[str, Tensor]) -> str:
    return (identify(Content(tensors, {})) or describe_unknown(tensors)).what
