"""CUDA kernels against numpy, bit for bit, on the SIMT machine: no GPU takes part.

The machine also refuses races, uninitialised and out-of-bounds memory, misaligned vectors and
divergent barriers, so a kernel that passes has none of them on these shapes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

from simt import run  # noqa: E402
from simt_graphs import (  # noqa: E402
    attention,
    check,
    codes,
    convolution,
    depthwise,
    lowered,
    normalization,
    product,
    requantize,
    requantize_all,
    table,
    target,
)

from qcompiler.backends.cuda.kernels import (  # noqa: E402
    TILES,
    Tile,
    attention_rule,
    build_product,
    make_plan,
    pack_product,
)
from qcompiler.backends.cuda.kernels.attention_plan import AttentionPlan  # noqa: E402
from qcompiler.backends.cuda.kernels.generation import GENERATIONS, Generation  # noqa: E402
from qcompiler.backends.cuda.kernels.rules import CUDA  # noqa: E402
from qcompiler.backends.cuda.launches import launches  # noqa: E402
from qcompiler.backends.tvm.layout import AttentionShape  # noqa: E402
from qcompiler.backends.tvm.problem import Epilogue, Matmul  # noqa: E402
from qcompiler.graph import Constant, Graph  # noqa: E402
from qcompiler.ops import (  # noqa: E402
    ConvInteger,
    Exponentials,
    MaxPool,
    ReduceSum,
    Window,
    skeleton,
)

CAPABILITIES = [generation.capability for generation in GENERATIONS]
RAW = Epilogue((), "int32", lambda acc, buffers, index: acc)


@pytest.mark.parametrize("generation", GENERATIONS, ids=CAPABILITIES)
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_every_tile_with_ragged_edges(tile: Tile, generation: Generation) -> None:
    problem = Matmul((tile.rows + 7, 2 * tile.depth + 16), "uint8", tile.columns + 4)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, problem.x_shape).astype(np.uint8)
    weight = rng.integers(-128, 128, (problem.x_shape[1], problem.out_features)).astype(np.int8)
    bias = rng.integers(-99, 99, problem.out_features).astype(np.int32)
    out = np.full(problem.out_shape, 77, np.int32)
    function = build_product(problem, generation, RAW, tile=tile)
    packed = pack_product(problem, weight, tile)
    traffic = run(function, [x.reshape(-1), packed.reshape(-1), bias, out.reshape(-1)])
    np.testing.assert_array_equal(out, x.astype(np.int32) @ weight.astype(np.int32) + bias)
    if tile.columns >= 32:
        assert traffic.conflicts == 0


PRODUCTS: dict[str, Callable[[], Graph]] = {
    "tokens": lambda: product((1, 197, 192), 192),
    "one row": lambda: product((1, 256), 100, "uint8"),
    "odd width": lambda: product((3, 5, 30), 17),
    "odd depth": lambda: product((21, 806), 48, "uint8"),
    "halves of words": lambda: product((9, 70), 22, "uint8", "int16"),
    "residual": lambda: product((2, 33, 64), 96, "uint8", "int16"),
    "table": lambda: product((50, 96), 132, "int8", "int8"),
    "raw": lambda: product((17, 40), 36, "uint8", "raw"),
    "single": lambda: product((1, 1), 8, "int8", "raw"),
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("case", PRODUCTS)
def test_products(case: str, capability: int) -> None:
    check(PRODUCTS[case](), capability, "cuda product")


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_saturating_operands(dtype: str) -> None:
    check(product((40, 512), 32, dtype, "raw"), 80, "cuda product", extreme=True)


CONVOLUTIONS: dict[str, Callable[[], Graph]] = {
    "3x3": lambda: convolution((1, 14, 14, 64), 48, Window((3, 3), (1, 1), (1,) * 4)),
    "3x3 strided": lambda: convolution((2, 9, 11, 32), 40, Window((3, 3), (2, 2), (1,) * 4)),
    "1x1 strided": lambda: convolution((1, 9, 9, 20), 33, Window((1, 1), (2, 2))),
    "first layer": lambda: convolution((1, 23, 21, 3), 16, Window((7, 7), (2, 2), (3,) * 4)),
    "bordered first layer": lambda: convolution((1, 23, 21, 3), 16, Window((7, 7), (2, 2))),
    "small first layer": lambda: convolution((2, 11, 9, 3), 8, Window((3, 3), (2, 2))),
    "odd runs and rows outside": lambda: convolution(
        (1, 8, 9, 5), 10, Window((3, 3), (1, 1), (2, 0, 1, 0)), "int8"
    ),
    "patches": lambda: convolution((1, 32, 32, 3), 64, Window((16, 16), (16, 16))),
    "eight channels": lambda: convolution((1, 7, 6, 8), 12, Window((3, 3), (1, 1), (1,) * 4)),
    "everything odd": lambda: convolution(
        (1, 10, 11, 5), 7, Window((3, 2), (1, 2), (0, 1, 2, 0), (2, 3)), "int8"
    ),
    "rows of taps": lambda: convolution(
        (1, 10, 12, 4), 7, Window((3, 2), (1, 2), (1, 0, 2, 0), (2, 1)), "int8"
    ),
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(case: str, capability: int) -> None:
    check(CONVOLUTIONS[case](), capability, "cuda product")


@pytest.mark.parametrize("seed", range(12))
def test_generated_products_and_convolutions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    capability, dtype = int(rng.choice(CAPABILITIES)), str(rng.choice(["uint8", "int8"]))
    if seed % 2:
        rows, depth, width = (int(v) for v in rng.integers(1, [90, 200, 90]))
        end = str(rng.choice(["raw", "uint8", "int8", "int16"]))
        check(product((1, rows, depth), width, dtype, end, seed), capability, "cuda product")
        return
    kernel, strides, dilations = (
        (int(a), int(b)) for a, b in (rng.integers(1, high, 2) for high in (5, 4, 3))
    )
    window = Window(kernel, strides, tuple(map(int, rng.integers(0, 3, 4))), dilations)  # type: ignore[arg-type]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    n, h, w, c, o = (int(v) for v in rng.integers([1, *reach, 1, 1], [3, 16, 16, 40, 50]))
    check(convolution((n, h, w, c), o, window, dtype, seed), capability, "cuda product")


def test_groups_and_computed_weights_are_left_to_other_kernels() -> None:
    x = codes("x", "uint8", 1, 6, 6, 8)
    filters = Constant(np.ones((8, 4, 3, 3), np.int8))
    grouped = ConvInteger(x, filters, None, Window((3, 3)), 2, channels_last=True)
    for rule in CUDA:
        assert rule.match(skeleton(grouped), target(80)) is None


def test_older_cards_have_no_integer_tensor_cores() -> None:
    for graph in (product((8, 32), 8), attention((7, 7), (32, 32))):
        assert lowered(graph).kernels[0].implementation in ("cuda product", "cuda attention")
        kernels = {k.implementation for k in lowered(graph, 70).kernels}
        assert not kernels & {"cuda product", "cuda attention"}


@pytest.mark.parametrize(("rows", "columns"), [(1, 1000), (197, 192), (197, 768), (1576, 384)])
def test_small_products_still_fill_the_card(rows: int, columns: int) -> None:
    plan = make_plan(Matmul((rows, 768), "uint8", columns))
    assert plan.row_tiles * plan.column_tiles >= 60
    assert plan.tile.threads >= 128


NORMALIZATIONS: dict[str, Callable[[], Graph]] = {
    "tokens": lambda: normalization((1, 7, 192)),
    "alone": lambda: normalization((5, 192), requantized=False),
    "odd": lambda: normalization((2, 9, 30)),
    "several warps": lambda: normalization((3, 768)),
    "long and odd": lambda: normalization((3, 1030), "int8"),
    "no centre": lambda: normalization((6, 64), center=False),
}


@pytest.mark.parametrize("case", NORMALIZATIONS)
def test_normalization(case: str) -> None:
    check(NORMALIZATIONS[case](), 80, "cuda rows")


def test_normalization_of_extreme_rows() -> None:
    check(normalization((4, 384)), 80, "cuda rows", extreme=True)


@pytest.mark.parametrize("mask", [None, (17, 50), (2, 1, 1, 50)])
def test_exponentials(mask: tuple[int, ...] | None) -> None:
    x = codes("x", "uint8", 2, 3, 17, 50)
    rng = np.random.default_rng(0)
    values = Constant(rng.integers(0, 256, 256).astype(np.uint8))
    keep = None if mask is None else Constant(rng.integers(0, 2, mask) > 0)
    check(Graph((x,), {"y": Exponentials(x, values, 3, keep)}), 80, "cuda rows")


def test_sums_of_rows() -> None:
    x = codes("x", "uint8", 3, 41, 130)
    check(Graph((x,), {"y": ReduceSum(x, (2,))}), 80, "cuda rows")


PIXELS: dict[str, Callable[[], Graph]] = {
    "depthwise": lambda: depthwise((1, 14, 14, 32), Window((3, 3), (1, 1), (1,) * 4)),
    "strided": lambda: depthwise((2, 9, 11, 24), Window((5, 3), (2, 1), (2, 1, 2, 1), (1, 2))),
    "odd channels": lambda: depthwise((2, 6, 5, 27), Window((3, 3), (2, 2)), "int8"),
    "pool": lambda: pool((1, 13, 12, 16), "uint8"),
    "signed pool": lambda: pool((2, 7, 7, 10), "int8"),
    "image": lambda: image((2, 7, 7, 40), "uint8"),
}


def pool(shape: tuple[int, int, int, int], dtype: str) -> Graph:
    x = codes("x", dtype, *shape)
    pooled = MaxPool(x, Window((3, 3), (2, 2), (1,) * 4), channels_last=True)
    return Graph((x,), {"y": requantize_all(pooled, 2**29, 20, 30, "uint8")})


def image(shape: tuple[int, int, int, int], dtype: str) -> Graph:
    x = codes("x", dtype, *shape)
    total = ReduceSum(x, (1, 2))
    return Graph((x,), {"y": requantize_all(total, 2**24, 0, 30, "uint8")})


@pytest.mark.parametrize("case", PIXELS)
def test_pixels(case: str) -> None:
    check(PIXELS[case](), 80, "cuda pixels")


@pytest.mark.parametrize("shape", [(3, 5, 64), (2, 7, 30), (5, 3, 3), (17,)])
def test_elementwise(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, r = codes("x", "uint8", *shape), codes("r", "int16", *shape)
    y = requantize(x, r, dtype="int8", spread=30, rng=rng)
    check(Graph((x, r), {"y": table(rng, y, "uint8")}), 80, "cuda elements")


@pytest.mark.parametrize("shape", [(2, 7, 30), (5, 3, 3), (1, 6, 1)])
def test_elementwise_ops_that_do_not_care_for_rows(shape: tuple[int, ...]) -> None:
    x = codes("x", "int8", *shape)
    check(Graph((x,), {"y": table(np.random.default_rng(0), x, "int16")}), 80, "cuda elements")


def test_elementwise_operands_broadcast() -> None:
    rng = np.random.default_rng(0)
    x, r = codes("x", "int16", 4, 3, 12), codes("r", "int16", 3, 1)
    y = requantize(x, r, dtype="int16", spread=3000, rng=rng)
    check(Graph((x, r), {"y": y}), 80, "cuda elements")


ATTENTIONS: dict[str, Callable[[], Graph]] = {
    "small": lambda: attention((7, 7), (32, 32)),
    "vision": lambda: attention((50, 50), (64, 64), heads=3, batch=2),
    "window": lambda: attention((49, 49), (32, 32), heads=3, batch=4, mask=(4, 1, 49, 49)),
    "odd": lambda: attention((20, 37), (20, 12), dtypes=("uint8", "int8")),
    "masked": lambda: attention((20, 37), (16, 48), mask=(20, 37)),
    "masked keys": lambda: attention((40, 70), (72, 48), mask=(1, 1, 1, 70), requantized=False),
    "many keys": lambda: attention((16, 640), (64, 64), heads=1),
    "signed codes": lambda: attention((17, 33), (128, 64), dtypes=("int8", "int8")),
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("case", ATTENTIONS)
def test_attention(case: str, capability: int) -> None:
    check(ATTENTIONS[case](), capability, "cuda attention")


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("rows", [16, 32, 64])
def test_every_cut_of_attention(rows: int, apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for grids of all sizes, which a small graph does not have."""
    cut = attention_rule.attention_plan

    def plan(problem: AttentionShape, generation: Generation) -> AttentionPlan:
        return dataclasses.replace(cut(problem, generation), rows=rows, apart=apart)

    monkeypatch.setattr(attention_rule, "attention_plan", plan)
    check(attention((70, 50), (64, 32)), 80, "cuda attention")


def test_more_shared_memory_is_asked_for_only_where_needed() -> None:
    few, many = (
        launches(lowered(ATTENTIONS[case]()).kernels[0].function, "k").sequence[0].shared_bytes
        for case in ("vision", "many keys")
    )
    assert few == 0
    assert 48 << 10 < many <= 99 << 10


def test_attention_over_more_keys_than_fit_is_left_to_other_kernels() -> None:
    program = lowered(attention((2000, 2000), (64, 64)))
    assert "cuda attention" not in {k.implementation for k in program.kernels}
