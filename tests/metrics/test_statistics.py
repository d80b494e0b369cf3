from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from latentsync.metrics.statistics import FeatureStatistics, bootstrap_interval, frechet_distance

RANDOM = np.random.default_rng(3)
ONE = RANDOM.normal(size=(500, 24)) @ RANDOM.normal(size=(24, 24)) + 2
OTHER = RANDOM.normal(size=(400, 24)) * 1.3


def statistics_of(features: np.ndarray, *, parts: int = 1) -> FeatureStatistics:
    found = FeatureStatistics.empty(features.shape[1])
    for part in np.array_split(features, parts):
        found.add(part)
    return found


def test_moments_are_numpys() -> None:
    found = statistics_of(ONE, parts=37)
    assert found.count == 500
    np.testing.assert_allclose(found.mean, ONE.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(ONE, rowvar=False), rtol=1e-10)


def test_no_digits_are_lost_to_a_large_mean() -> None:
    found = statistics_of(OTHER + 1e7, parts=50)
    np.testing.assert_allclose(found.covariance, np.cov(OTHER, rowvar=False), atol=1e-6)


def test_batches_workers_and_order_change_nothing() -> None:
    real = statistics_of(OTHER)
    whole = frechet_distance(statistics_of(ONE), real)
    merged = FeatureStatistics.empty(24)
    for worker in np.array_split(RANDOM.permutation(ONE), 7):
        merged.merge(statistics_of(worker, parts=3))
    merged.merge(FeatureStatistics.empty(24))
    assert frechet_distance(merged, real) == pytest.approx(whole, abs=1e-6)


def test_distance_is_that_of_pytorch_fid() -> None:
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    moments = [
        part for features in (ONE, OTHER) for part in (features.mean(0), np.cov(features, rowvar=False))
    ]
    expected = fid_score.calculate_frechet_distance(*moments)
    assert frechet_distance(statistics_of(ONE), statistics_of(OTHER)) == pytest.approx(expected, abs=1e-6)


def test_distance_is_that_of_known_normal_distributions() -> None:
    def known(mean: list[float], deviations: list[float], turn: np.ndarray) -> FeatureStatistics:
        return FeatureStatistics(11, np.array(mean), 10 * turn @ np.diag(np.square(deviations)) @ turn.T)

    turn = np.linalg.qr(RANDOM.normal(size=(3, 3)))[0]
    one, other = known([0, 1, 2], [1, 2, 0], turn), known([3, 1, -2], [4, 0.5, 1], turn)
    assert frechet_distance(one, other) == pytest.approx(9 + 16 + 3**2 + 1.5**2 + 1**2, abs=1e-9)


@pytest.mark.parametrize("count", [500, 10], ids=["full rank", "fewer than their width"])
def test_distance_is_zero_to_itself_and_symmetric(count: int) -> None:
    one, other = statistics_of(ONE[:count]), statistics_of(OTHER[:count])
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one), rel=1e-9)


def test_memory_does_not_grow_with_clips() -> None:
    found = FeatureStatistics.empty(32)
    clip = RANDOM.normal(size=(25, 32))
    found.add(clip)
    tracemalloc.start()
    try:
        for _ in range(10_000):
            found.add(clip)
        held_bytes, highest_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.count == 250_025
    assert held_bytes < 100_000
    assert highest_bytes < 500_000


def test_one_feature_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="needs 2 features, got 1"):
        _ = statistics_of(ONE[:1]).covariance


def test_interval_of_a_mean() -> None:
    values = RANDOM.normal(5, 2, size=200).tolist()
    found = bootstrap_interval([*values, float("nan")], name="ssim")
    error = np.std(values) / np.sqrt(200)
    assert found.clips == 200
    assert found.mean == pytest.approx(np.mean(values))
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.1 * error)


def test_interval_depends_on_the_name_and_not_on_the_order() -> None:
    values = OTHER[:, 0].tolist()
    assert bootstrap_interval(values, name="ssim") == bootstrap_interval(values[::-1], name="ssim")
    assert bootstrap_interval(values, name="ssim") != bootstrap_interval(values, name="psnr")


def test_no_values_have_no_interval() -> None:
    found = bootstrap_interval([float("nan")], name="ssim")
    assert found.clips == 0
    assert np.isnan([found.mean, found.low, found.high]).all()
