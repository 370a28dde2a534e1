"""The memory plan."""

from __future__ import annotations

import itertools

import numpy as np

from qcompiler.backends.tvm.memory import ALIGNMENT, Lifetime, plan


def test_values_that_live_together_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        starts = rng.integers(0, 30, 40)
        values = [
            Lifetime(int(s), int(s + rng.integers(0, 6)), int(rng.integers(1, 5000)))
            for s in starts
        ]
        offsets, total = plan(values)
        for (a, at), (b, bt) in itertools.combinations(zip(values, offsets, strict=True), 2):
            if a.first <= b.last and b.first <= a.last:
                assert at + a.nbytes <= bt or bt + b.nbytes <= at
        assert all(offset % ALIGNMENT == 0 for offset in offsets)
        assert total >= max(o + v.nbytes for o, v in zip(offsets, values, strict=True))


def test_a_chain_needs_two_buffers() -> None:
    values = [Lifetime(i, i + 1, 6400) for i in range(100)]
    assert plan(values)[1] == 2 * 6400


def test_no_values() -> None:
    assert plan([]) == ([], 0)
