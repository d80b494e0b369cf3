"""Which metrics there are, and which of them can be measured here."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from latentsync.errors import UsageError, WeightsError
from latentsync.metrics.metric import ClipMetric, SetMetric, Unavailable, Value

METRIC_NAMES = (
    "ssim",
    "psnr",
    "lpips",
    "fid",
    "fid_clean",
    "fvd",
    "fvd_videomae",
    "sync_conf",
    "sync_conf_compact",
    "aperture",
    "leak",
    "lmd",
    "silence_motion",
    "flicker",
    "identity",
)
# The weights that each needs, by their names in the catalogue. No other network ever stands in for one.
WEIGHTS_OF = {
    "lpips": "vgg-lpips",
    "fid": "inception",
    "fid_clean": "inception",
    "fvd": "i3d",
    "fvd_videomae": "videomae-v2",
    "sync_conf": "syncnet-v2",
}
COMPACT_SYNCNET = Path(__file__).parent.parent / "bundled" / "syncnet.safetensors"
OF_SETS = ("fid", "fid_clean", "fvd", "fvd_videomae")


def build_metrics(
    names: Sequence[str] | None, *, device: str, identity_network: Path | None = None
) -> tuple[list[ClipMetric], list[SetMetric], list[Unavailable]]:
    """Sort the metrics called `names` into those of clips, those of sets, and those not to be had here.

    Networks are loaded when they are first used, so that a run in which everything is cached loads none.

    Args:
        names: of `METRIC_NAMES`, each once; None for all of them.
        device: where networks run; FVD's runs on the CPU always.
        identity_network: a TorchScript face network for `identity`.

    Raises:
        UsageError: there is no metric of that name.
        WeightsError: the file of the face network cannot be read.
    """
    chosen = METRIC_NAMES if names is None else tuple(dict.fromkeys(names))
    for name in chosen:
        _check_name(name)
    lacking = [Unavailable(name, reason) for name in chosen if (reason := _lacks(name, identity_network))]
    usable = [name for name in chosen if name not in {each.name for each in lacking}]
    of_clips = [_clip_metric(name, device, identity_network) for name in usable if name not in OF_SETS]
    return of_clips, [_set_metric(name, device) for name in usable if name in OF_SETS], lacking


def _check_name(name: str) -> None:
    if name not in METRIC_NAMES:
        near = difflib.get_close_matches(name, METRIC_NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"metrics are: {', '.join(METRIC_NAMES)}"
        raise UsageError(f"no metric is called {name!r}", hint=hint)


def _lacks(name: str, identity_network: Path | None) -> str:
    """What keeps this metric from being measured; "" for nothing."""
    from latentsync.weights.catalog import find_entry
    from latentsync.weights.hub import is_present

    weights = WEIGHTS_OF.get(name)
    if weights and not is_present(find_entry(weights)):
        return f"not available: run 'latentsync models pull {weights}'"
    if name == "sync_conf_compact" and not COMPACT_SYNCNET.is_file():
        return "not available: this package was made without the compact SyncNet"
    if name == "identity" and identity_network is None:
        return "not available: give a face network with --identity-network"
    return ""


def _clip_metric(name: str, device: str, identity_network: Path | None) -> ClipMetric:
    from latentsync.metrics import image, lips

    plain: dict[str, ClipMetric] = {
        metric.name: metric
        for metric in (
            *(image.Ssim(), image.Psnr(), image.Flicker()),
            *(lips.Aperture(), lips.Leak(), lips.LandmarkDistance(), lips.SilenceMotion()),
        )
    }
    if name in plain:
        return plain[name]
    return _network_metric(name, device, identity_network)


def _network_metric(name: str, device: str, identity_network: Path | None) -> ClipMetric:
    import torch

    from latentsync.metrics import networks
    from latentsync.metrics.agreement import SyncConfidence
    from latentsync.metrics.identity import Identity
    from latentsync.metrics.image import Lpips
    from latentsync.metrics.sync import choose_judge
    from latentsync.weights.hub import need

    place = torch.device(device)
    if name == "lpips":
        return Lpips(cache(lambda: networks.load_lpips(need("vgg-lpips"), device=place)), place)
    if name == "identity" and identity_network is not None:
        program, version = identity_network, _version(identity_network)
        return Identity(cache(lambda: networks.load_program(program, device=place)), place, version)
    if name == "sync_conf":
        judge = cache(lambda: choose_judge("syncnet-v2", device=place))
        return SyncConfidence(judge, name, _sync_values("sync_conf", "lse_d", "sync_offset"))
    judge = cache(lambda: choose_judge("compact", device=place))
    values = _sync_values("sync_conf_compact", "sync_distance_compact", "sync_offset_compact")
    return SyncConfidence(judge, name, values, _version(COMPACT_SYNCNET))


def _set_metric(name: str, device: str) -> SetMetric:
    import torch

    from latentsync.metrics import networks
    from latentsync.metrics.image import Fid
    from latentsync.metrics.video import FvdI3d, FvdVideoMae
    from latentsync.weights.hub import need
    from latentsync.weights.judges import videomae_from_released

    place = torch.device(device)
    if name == "fvd":
        return FvdI3d(cache(lambda: networks.load_program(need("i3d"))))
    if name == "fvd_videomae":
        return FvdVideoMae(cache(lambda: videomae_from_released(need("videomae-v2"), device=place)), place)
    inception = cache(lambda: networks.load_inception(need("inception"), device=place))
    return Fid(inception, place, name, "clean" if name == "fid_clean" else "plain")


def _sync_values(confidence: str, distance: str, offset: str) -> tuple[Value, ...]:
    return Value(confidence, "", "higher"), Value(distance, "", "lower"), Value(offset, "frames", "real")


def _version(network: Path) -> str:
    """A version that changes with the file of a network which has no fixed release."""
    try:
        with network.open("rb") as file:
            return f"1-{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
    except OSError as error:
        raise WeightsError(
            f"cannot read {str(network)!r}: {error.strerror}", hint="check the path of the network"
        ) from error
