"""Measures how good a result or a clip is: `METRICS` lists everything that `evaluate` can measure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import torch

from latentsync.errors import UsageError
from latentsync.metrics.identity import Csim, Identity
from latentsync.metrics.image import CleanFid, Fid, Flicker, Lpips, Psnr, Ssim
from latentsync.metrics.lips import Aperture, LandmarkDistance, Leak, LipLeak, SilenceMotion, Teeth
from latentsync.metrics.metric import ClipMetric, MetricSetup, SetMetric, Unavailable
from latentsync.metrics.naturalness import Niqe
from latentsync.metrics.sync import CompactSyncConfidence, SyncConfidence
from latentsync.metrics.video import FvdI3d, FvdVideoMae

# The one list, in the order of the table. A new metric is a class, its entry here, and its test.
METRICS: dict[str, type[ClipMetric] | type[SetMetric]] = {
    metric.name: metric
    for metric in (
        *(Ssim, Psnr, Lpips, Niqe, Fid, CleanFid, FvdI3d, FvdVideoMae),
        *(SyncConfidence, CompactSyncConfidence),
        *(Aperture, Leak, LipLeak, LandmarkDistance, SilenceMotion, Teeth, Flicker, Csim, Identity),
    )
}


def build_metrics(
    names: Sequence[str] | None, *, device: str, identity_network: Path | None = None
) -> tuple[list[ClipMetric], list[SetMetric], list[Unavailable]]:
    """Build the metrics called `names`: of clips, of sets, and those that cannot be measured here.

    Networks are loaded when they are first used, so a run in which everything is cached loads none.

    Args:
        names: of `METRICS`, each once; None for all of them.
        device: where networks run; FVD's always runs on the CPU.
        identity_network: a TorchScript face network for `identity`.

    Raises:
        UsageError: no metric has that name.
        WeightsError: the file of the face network cannot be read.
    """
    setup = MetricSetup(torch.device(device), identity_network)
    of_clips: list[ClipMetric] = []
    of_sets: list[SetMetric] = []
    unavailable: list[Unavailable] = []
    for name in METRICS if names is None else dict.fromkeys(names):
        metric = _find(name)
        reason = metric.unavailable_reason(setup)
        if reason:
            unavailable.append(Unavailable(name, f"not available: {reason}"))
        elif issubclass(metric, SetMetric):
            of_sets.append(metric.build(setup))
        else:
            of_clips.append(metric.build(setup))
    return of_clips, of_sets, unavailable


def _find(name: str) -> type[ClipMetric] | type[SetMetric]:
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"metrics are: {', '.join(METRICS)}"
        raise UsageError(f"unknown metric {name!r}", hint=hint)
    return METRICS[name]
