"""Estimates with their uncertainty: Wilson intervals of shares, bootstrap intervals of means."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["DRAWS", "SEED", "Estimate", "bootstrap", "estimate", "paired", "ratio", "ratio_gain", "wilson"]

DRAWS = 2000  # resamples of a bootstrap
SEED = 0
FloatArray = NDArray[np.float64]
_Z = 1.959963984540054  # 97.5 % point of the normal distribution


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over ``n`` values with its 95 % interval; ``nan`` where there are none."""

    n: int
    mean: float
    low: float
    high: float


def wilson(successes: float, n: int) -> Estimate:
    """Share of successes with Wilson's score interval (Wilson 1927), right for few trials and for 0 or n of them."""
    if n == 0:
        return Estimate(0, math.nan, math.nan, math.nan)
    share = successes / n
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return Estimate(n, share, min(max(0.0, centre - half), share), max(min(1.0, centre + half), share))


def bootstrap(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None, *, draws: int = DRAWS, seed: int = SEED
) -> Estimate:
    """Mean with its percentile bootstrap interval.

    Args:
        values: one per measurement; differences of pairs give a paired bootstrap.
        clusters: what is drawn as a whole (measurements of one case are not independent); each value by default.
        draws: how many resamples.
        seed: of the resampling.
    """
    if len(values) == 0:
        return Estimate(0, math.nan, math.nan, math.nan)
    low, high = _interval(values, [1.0] * len(values), clusters, draws, seed)
    return Estimate(len(values), float(np.mean(np.asarray(values, dtype=float))), low, high)


def ratio(
    values: Sequence[float],
    others: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Estimate:
    """The sum of values over the sum of others, measured beside them, with its percentile bootstrap interval.

    Args:
        values, others: one of each per measurement; ``nan`` where the others come to nothing.
        clusters, draws, seed: as for `bootstrap`.
    """
    if len(values) == 0 or math.fsum(others) == 0:
        return Estimate(len(values), math.nan, math.nan, math.nan)
    low, high = _interval(values, others, clusters, draws, seed)
    return Estimate(len(values), math.fsum(values) / math.fsum(others), low, high)


def ratio_gain(
    before: tuple[Sequence[float], Sequence[float]],
    after: tuple[Sequence[float], Sequence[float]],
    clusters: Sequence[Hashable] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Estimate:
    """The difference of two ratios of sums (`ratio`) of the same measurements, the same clusters drawn for both."""
    count = len(before[0])
    if count == 0 or any(math.fsum(others) == 0 for _, others in (before, after)):
        return Estimate(count, math.nan, math.nan, math.nan)
    drawn = [_ratios(*one, clusters, draws, seed) for one in (before, after)]
    first, second = (math.fsum(values) / math.fsum(others) for values, others in (before, after))
    return Estimate(count, second - first, *_bounds(drawn[1] - drawn[0]))


def _interval(
    values: Sequence[float], others: Sequence[float], clusters: Sequence[Hashable] | None, draws: int, seed: int
) -> tuple[float, float]:
    return _bounds(_ratios(values, others, clusters, draws, seed))


def _bounds(drawn: FloatArray) -> tuple[float, float]:
    """The middle 95 % of what was drawn; draws of which there is no ratio do not count."""
    low, high = np.percentile(drawn[np.isfinite(drawn)], [2.5, 97.5])
    return float(low), float(high)


def _ratios(
    values: Sequence[float], others: Sequence[float], clusters: Sequence[Hashable] | None, draws: int, seed: int
) -> FloatArray:
    """Ratios of sums over clusters that are drawn as wholes: [draws]."""
    keys = list(range(len(values))) if clusters is None else list(clusters)
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    sums, counts = np.zeros(len(places)), np.zeros(len(places))
    for key, value, other in zip(keys, values, others, strict=True):
        sums[places[key]] += value
        counts[places[key]] += other
    drawn = np.random.default_rng(seed).integers(0, len(places), size=(draws, len(places)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[drawn].sum(1) / counts[drawn].sum(1)


def estimate(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """Wilson's interval for independent yes/no values, the bootstrap over clusters for all others.

    Yes/no values that are all alike have Wilson's interval too, of as many trials as there are clusters: no resample
    differs from them, which does not make them certain.
    """
    yes_or_no = all(value in (0.0, 1.0) for value in values)
    independent = len(set(clusters))
    if yes_or_no and independent == len(values):
        return wilson(sum(values), len(values))
    if yes_or_no and len(set(values)) == 1:
        return replace(wilson(values[0] * independent, independent), n=len(values))
    return bootstrap(values, clusters)


def paired(differences: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """Mean difference of paired scores in [0, 1], by the bootstrap over clusters.

    Differences that are all alike are as uncertain as a share of which every cluster is a hit: another cluster may
    differ, by Wilson's interval.
    """
    if len(set(differences)) != 1:
        return bootstrap(differences, clusters)
    independent = len(set(clusters))
    slack, same = 1 - wilson(independent, independent).low, differences[0]
    return Estimate(len(differences), same, max(-1.0, same - slack), min(1.0, same + slack))
