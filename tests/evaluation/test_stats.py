from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmend.evaluation.stats import Estimate, bootstrap, estimate, paired, wilson


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
    assert estimate([0.0, 1.0, 0.0], ["a", "a", "b"]) == bootstrap([0.0, 1.0, 0.0], ["a", "a", "b"])
    assert estimate([0.5, 1.0], ["a", "b"]) == bootstrap([0.5, 1.0], ["a", "b"])


def test_values_that_are_all_alike_are_not_certain():
    """As many trials as there are clusters, however many values."""
    for value in (0.0, 1.0):
        found = estimate([value] * 6, ["a", "a", "b", "b", "c", "c"])
        trials = wilson(3 * value, 3)
        assert (found.n, found.mean, found.low, found.high) == (6, value, trials.low, trials.high)


def test_paired_differences():
    mixed = [1.0, 0.0, -1.0, 1.0]
    assert paired(mixed, "abcd") == bootstrap(mixed, "abcd")
    assert math.isnan(paired([], []).mean)
    slack = 1 - wilson(4, 4).low
    assert paired([1.0] * 4, "abcd") == Estimate(4, 1.0, 1.0 - slack, 1.0)
    assert paired([0.0] * 8, "aabbccdd") == Estimate(8, 0.0, -slack, slack)
    assert paired([-1.0] * 4, "abcd") == Estimate(4, -1.0, -1.0, -1.0 + slack)
    one = paired([1.0], ["a"])
    assert one.low < 0.25, "one case proves little"


@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), st.integers(0, 5)), min_size=1, max_size=20))
def test_intervals_hold_their_means(pairs):
    differences, clusters = [value for value, _ in pairs], [cluster for _, cluster in pairs]
    for found in (paired(differences, clusters), estimate([abs(value) for value in differences], clusters)):
        assert -1.0 <= found.low <= found.mean + 1e-9
        assert found.mean - 1e-9 <= found.high <= 1.0
