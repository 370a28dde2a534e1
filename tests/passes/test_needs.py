"""How wide operands have to be, at the bounds between one width and the next."""

from __future__ import annotations

import pytest
from spec_ops import X, function

from qcompiler.graph import Input
from qcompiler.ops import Cast, GreaterEqual, ReduceMean, Relu, scalar
from qcompiler.passes.needs import Demand, Need, averaged, is_steep
from qcompiler.types import FLOAT, TensorType


@pytest.mark.parametrize(("count", "need"), [(65535, Need.PRECISE), (65536, Need.NARROW)])
def test_sums_of_16_bits_that_fit_32(count: int, need: Need) -> None:
    x = Input(TensorType(FLOAT, (count,)), name="x")
    demand = Demand(x, {Need.PRECISE}, lambda function: False)
    assert averaged(ReduceMean(x, (0,)), demand) == {need}


def test_functions_with_other_values_than_reals_are_steep() -> None:
    """Where they jump is not known from a range in which they happen not to."""
    assert is_steep(function(X, lambda v: GreaterEqual(v, scalar(9, FLOAT))), 0.0, 0.5)
    assert is_steep(function(X, lambda v: Cast(v, "int64")), 0.0, 0.5)
    assert not is_steep(function(X, Relu), 0.0, 0.5)
