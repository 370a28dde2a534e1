"""Weights and biases in the order in which the kernels read them."""

import numpy as np

from qcompiler.backends.tvm.problem import Conv2d, Matmul

from .cost import Cut
from .isa import Isa
from .plan import Plan, make_plan

_SIGN_FLIP = {"int8": 128, "uint8": -128}
"""What ``x ^ 0x80`` adds to a code that is then read as one of the other signedness."""


def flips_sign(plan: Plan) -> bool:
    """Whether the kernel reads codes 128 higher or lower, as the type that its dot wants."""
    isa, dtype = plan.isa, plan.conv.x_dtype
    if plan.conv.depthwise or plan.matrix or isa.widened or not isa.dot:
        return False
    return dtype != isa.takes and not (dtype == "int8" and isa.int8_dot)


def packed_shapes(plan: Plan) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Shapes of the packed weight and of the packed bias."""
    panels, lanes = plan.groups * plan.panels, plan.panel_width
    group = 1 if plan.conv.depthwise else plan.isa.group
    return (panels, plan.tap_count * plan.steps, lanes * group), (panels, lanes)


def packed_dtype(plan: Plan) -> str:
    """Element type of the packed weight."""
    return "int16" if plan.source_dtype == "int16" else "int8"


def pack(
    problem: Conv2d | Matmul,
    isa: Isa,
    weight: np.ndarray,
    bias: np.ndarray,
    cut: Cut | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Arrange weight and bias for the kernel that `build` makes of the same problem and ISA.

    Args:
        problem: The convolution or product.
        isa: The instruction set.
        weight: int8 [o, c / groups, kh, kw] of a convolution, int8 [k, n] of a product.
        bias: int32 [o] or [n].
        cut: One of `cuts`; by default the first.

    Returns:
        Packed weight and packed bias, to be passed as the kernel's second and third argument.
    """
    plan = make_plan(problem, isa, cut)
    if isinstance(problem, Matmul):
        weight = weight.T[:, :, None, None]
    shape, bias_shape = packed_shapes(plan)
    if plan.conv.depthwise:
        rows = weight.reshape(1, plan.group_outputs, plan.tap_count, 1)
    else:
        rows = _reduction_rows(plan, weight)
    packed_bias = bias.astype(np.int64)
    if flips_sign(plan):
        flip = _SIGN_FLIP[plan.conv.x_dtype]
        packed_bias = packed_bias - flip * weight.astype(np.int64).sum((1, 2, 3))
    biases = packed_bias.astype(np.int32).reshape(plan.groups, plan.group_outputs)

    lanes = np.add.outer(plan.panel_starts(), np.arange(plan.panel_width))
    lanes = np.minimum(lanes, plan.group_outputs - 1)  # what those beyond compute is not stored
    panels = rows[:, lanes].transpose(0, 1, 3, 2, 4).reshape(shape)  # group, panel, step, lane, k
    return (
        np.ascontiguousarray(panels, dtype=packed_dtype(plan)),
        np.ascontiguousarray(biases[:, lanes].reshape(bias_shape)),
    )


def _reduction_rows(plan: Plan, weight: np.ndarray) -> np.ndarray:
    """Weight as [group, output, step, ``isa.group``], zeros where a tap's depth is padded."""
    by_tap = weight.transpose(0, 2, 3, 1).reshape(len(weight), plan.tap_count, plan.depth)
    by_tap = np.pad(by_tap, ((0, 0), (0, 0), (0, plan.padded_depth - plan.depth)))
    return by_tap.reshape(plan.groups, plan.group_outputs, -1, plan.isa.group)


def packed_types(
    problem: Conv2d | Matmul, isa: Isa
) -> tuple[tuple[tuple[int, ...], str], tuple[tuple[int, ...], str]]:
    """Shape and dtype of the packed weight, shape and dtype of the packed bias."""
    plan = make_plan(problem, isa)
    weight, bias = packed_shapes(plan)
    return (weight, packed_dtype(plan)), (bias, "int32")
