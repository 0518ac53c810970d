from __future__ import annotations

import math

import numpy as np
import pytest

from vlmend.evaluation.stats import bootstrap, estimate, wilson


def test_wilson_known_values():
    """Newcombe 1998, Statistics in Medicine 17, table I: 81/263, 15/148, 0/20 (method 3)."""
    for successes, n, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]:
        found = wilson(successes, n)
        assert (found.n, found.mean) == (n, successes / n)
        assert found.low == pytest.approx(low, abs=5e-5)
        assert found.high == pytest.approx(high, abs=5e-5)


def test_nothing_measured_is_no_number():
    assert math.isnan(wilson(0, 0).mean)
    assert math.isnan(bootstrap([]).mean)


def test_bootstrap_interval_is_that_of_the_mean():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400).tolist()
    found = bootstrap(values)
    half = 1.96 * np.std(values) / math.sqrt(len(values))
    assert found.mean == pytest.approx(np.mean(values))
    assert found.low == pytest.approx(found.mean - half, abs=0.05)
    assert found.high == pytest.approx(found.mean + half, abs=0.05)


def test_clusters_are_drawn_whole():
    """Four equal values of one case tell no more than one of them."""
    values = [float(case % 2) for case in range(30) for _ in range(4)]
    clusters = [case for case in range(30) for _ in range(4)]
    whole, apart = bootstrap(values, clusters), bootstrap(values)
    assert whole.high - whole.low > 1.5 * (apart.high - apart.low)
    once = bootstrap([float(case % 2) for case in range(30)])
    assert (whole.low, whole.high) == pytest.approx((once.low, once.high), abs=1e-9)


def test_bootstrap_is_repeatable():
    values = [0.1, 0.5, 0.9]
    assert bootstrap(values) == bootstrap(values)


def test_estimate_picks_the_interval():
    assert estimate([1.0, 1.0], ["a", "b"]) == wilson(2, 2)
    assert estimate([1.0, 1.0], ["a", "a"]).low == 1.0  # one case: nothing to resample
    assert estimate([0.5, 1.0], ["a", "b"]) == bootstrap([0.5, 1.0], ["a", "b"])
