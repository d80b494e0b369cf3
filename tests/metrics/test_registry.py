from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from latentsync.errors import UsageError, WeightsError
from latentsync.metrics import METRICS, build_metrics, sync
from latentsync.metrics.metric import ScoredClip
from latentsync.weights.catalog import find_entry
from latentsync.weights.hub import path_of

WEIGHTS = {name: metric.weights for name, metric in METRICS.items() if metric.weights}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSYNC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def put_files(name: str) -> None:
    path = path_of(find_entry(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"nothing")


def test_without_weights_the_rest_still_runs_and_nothing_stands_in(
    talking: Callable[..., ScoredClip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "BUNDLED_SYNCNET", tmp_path / "none")
    of_clips, of_sets, unavailable = build_metrics(None, device="cpu")
    assert of_sets == []
    assert [metric.name for metric in of_clips] == [
        *("ssim", "psnr", "niqe", "aperture", "leak", "lip_leak", "lmd", "silence_motion", "teeth"),
        "flicker",
    ]
    reasons = {each.name: each.reason for each in unavailable}
    assert reasons.keys() == set(METRICS) - {metric.name for metric in of_clips}
    for name, weights in WEIGHTS.items():
        assert reasons[name] == f"not available: run 'latentsync models pull {weights}'"
    assert reasons["identity"].startswith("not available: ")
    assert reasons["sync_conf_compact"].startswith("not available: ")
    clip = talking()
    for metric in of_clips:
        found = metric.score(clip)
        assert not isinstance(found, dict) or set(found) <= {value.name for value in metric.values}


def test_a_metric_is_there_with_its_weights() -> None:
    put_files("inception")
    of_clips, of_sets, unavailable = build_metrics(["fid", "fid_clean", "fvd"], device="cpu")
    assert of_clips == []
    assert [metric.name for metric in of_sets] == ["fid", "fid_clean"]
    assert [each.name for each in unavailable] == ["fvd"]


def test_every_metric_can_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for weights in WEIGHTS.values():
        put_files(weights)
    network = tmp_path / "network"
    network.write_bytes(b"one")
    monkeypatch.setattr(sync, "BUNDLED_SYNCNET", network)
    of_clips, of_sets, unavailable = build_metrics(None, device="cpu", identity_network=network)
    assert unavailable == []
    metrics = [*of_clips, *of_sets]
    assert {metric.name for metric in metrics} == set(METRICS)
    values = [value.name for metric in metrics for value in metric.values]
    assert len(values) == len(set(values))
    versions = {metric.name: metric.version for metric in metrics}
    network.write_bytes(b"two")
    of_clips, _, _ = build_metrics(["identity", "sync_conf_compact"], device="cpu", identity_network=network)
    for metric in of_clips:
        assert metric.version != versions[metric.name], "another network must not find the scores of this one"


def test_damaged_weights_are_told_when_they_are_used(talking: Callable[..., ScoredClip]) -> None:
    put_files("inception")
    _, (fid,), _ = build_metrics(["fid"], device="cpu")
    with pytest.raises(WeightsError):
        fid.features(talking(), "made")


def test_a_face_network_is_a_program(talking: Callable[..., ScoredClip], tmp_path: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, faces: torch.Tensor) -> torch.Tensor:
            return faces.mean((2, 3))

    path = tmp_path / "faces.pt"
    torch.jit.save(torch.jit.script(Mean()), path)
    (identity,), _, _ = build_metrics(["identity"], device="cpu", identity_network=path)
    found = identity.score(talking(1))
    assert isinstance(found, dict)
    np.testing.assert_allclose(found["identity"], 1)
    with pytest.raises(WeightsError, match="cannot read"):
        build_metrics(["identity"], device="cpu", identity_network=tmp_path / "none.pt")


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown metric 'sim'") as raised:
        build_metrics(["sim"], device="cpu")
    assert raised.value.hint == "did you mean ssim?"
