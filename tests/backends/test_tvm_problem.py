"""What kernels are told to compute."""

import pytest

from qcompiler.backends.tvm.problem import MOST_ELEMENTS, Matmul, as_conv2d
from qcompiler.errors import ShapeError


@pytest.mark.parametrize("shape", [(MOST_ELEMENTS // 4 + 1, 4), (MOST_ELEMENTS // 8 + 1, 4)])
def test_tensors_beyond_int32_indices_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match="choose a smaller batch"):
        as_conv2d(Matmul(shape, "uint8", 8))


def test_the_largest_tensors_are_served() -> None:
    assert as_conv2d(Matmul((MOST_ELEMENTS // 8, 4), "uint8", 8)).x_shape[2] == MOST_ELEMENTS // 8
