"""Estimates with their uncertainty: Wilson intervals of shares, bootstrap intervals of means."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["DRAWS", "SEED", "Estimate", "bootstrap", "estimate", "paired", "wilson"]

DRAWS = 2000  # resamples of a bootstrap
SEED = 0
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
    keys = list(range(len(values))) if clusters is None else list(clusters)
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    sums, counts = np.zeros(len(places)), np.zeros(len(places))
    for key, value in zip(keys, values, strict=True):
        sums[places[key]] += value
        counts[places[key]] += 1
    drawn = np.random.default_rng(seed).integers(0, len(places), size=(draws, len(places)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(len(values), float(np.mean(np.asarray(values, dtype=float))), float(low), float(high))


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
