"""The memory plan."""

from __future__ import annotations

import itertools

import numpy as np
import psutil

from qcompiler.backends.cpu.build import build
from qcompiler.backends.targets import target
from qcompiler.backends.tvm.memory import ALIGNMENT, Lifetime, plan
from qcompiler.graph import Constant, Graph, Input
from qcompiler.ops import ConvInteger, Window
from qcompiler.types import TensorType


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


def test_calls_leave_no_memory_behind() -> None:
    """Kernels free their scratch memory: a padded convolution copies its operand."""
    x = Input(TensorType("uint8", (1, 62, 62, 32)), name="x")
    rng = np.random.default_rng(0)
    weight = Constant(rng.integers(-9, 9, (16, 32, 3, 3)).astype(np.int8))
    window = Window((3, 3), pads=(1, 1, 1, 1))
    node = ConvInteger(x, weight, None, window, channels_last=True)
    model = build(Graph((x,), {"y": node}), target("cpu"))
    feeds = {"x": rng.integers(0, 255, x.type.shape).astype(np.uint8)}
    for _ in range(10):
        model(feeds)
    process = psutil.Process()
    before = process.memory_info().rss
    for _ in range(200):  # the copy has 131 kB
        model(feeds)
    assert process.memory_info().rss - before < 8 << 20
