"""The Kullback-Leibler divergence that clipping and quantizing a histogram causes."""

import numpy as np
from numpy.typing import NDArray

# Thresholds tried: enough for steps of under one per cent of the range.
_CANDIDATES = 256


def divergences(
    counts: NDArray[np.int64], groups: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """KL(P‖Q) for each candidate number of leading bins that are kept.

    P is the distribution of the kept bins with everything beyond them in the last one; Q quantizes
    the kept bins to `groups` levels, each spread evenly over its occupied bins (S. Migacz, "8-bit
    inference with TensorRT", GTC 2017).

    Args:
        counts: int64 [bins], by magnitude, none of them the exact zeros.
        groups: Levels that the kept bins are merged to.

    Returns:
        The candidates, ascending int64 up to the last occupied bin; none if that leaves no more
        bins than groups. And their divergences in nats, float64; +inf where Q lacks mass that P
        has, never for the last candidate.
    """
    occupied = int(np.max(np.flatnonzero(counts), initial=-1)) + 1
    stride = -(-max(occupied - groups, 0) // _CANDIDATES)
    if stride == 0:
        return np.empty(0, np.int64), np.empty(0)
    candidates = np.arange(occupied, groups, -stride)[::-1]
    values = [_divergence(counts[:occupied].astype(np.float64), int(n), groups) for n in candidates]
    return candidates, np.array(values)


def _divergence(counts: NDArray[np.float64], kept: int, groups: int) -> float:
    reference = counts[:kept].copy()
    reference[-1] += counts[kept:].sum()
    starts = np.arange(groups) * kept // groups
    sizes = np.diff(starts, append=kept)
    present = reference > 0
    mass = np.repeat(np.add.reduceat(counts[:kept], starts), sizes)
    share = np.repeat(np.add.reduceat(present.astype(np.float64), starts), sizes)
    if np.any(mass[present] == 0):
        return np.inf
    p = reference[present] / reference.sum()
    q = mass[present] / share[present] / counts[:kept].sum()
    return float(np.sum(p * np.log(p / q)))
