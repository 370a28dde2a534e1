"""Numbers that no integer expresses: refused, but for −∞ where it only takes part in a mask."""

from __future__ import annotations

import numpy as np

from qcompiler.errors import UnsupportedError
from qcompiler.frontends.onnx_model import not_finite
from qcompiler.graph import Constant, Graph, Op
from qcompiler.ops import Add, Movement, Select, Softmax


def check_finite(graph: Graph) -> None:
    """Refuse constants that are not finite.

    −∞ may stay where sums, choices and movements bring it in front of a softmax and nowhere else:
    such an entry is a mask.

    Raises:
        UnsupportedError: a constant holds NaN or infinities.  The model need not be damaged:
            weights that hold such were refused before, others are computed, or masks elsewhere.
    """
    for node in graph.ops:
        if not isinstance(node, Constant) or (masks(node.array) and _only_masks(graph, node)):
            continue
        if (problem := not_finite(node.array)) is not None:
            raise UnsupportedError(f"constant {node.name!r} {problem}")


def masks(array: np.ndarray) -> bool:
    """Whether the only elements that are not finite are −∞."""
    return array.dtype.kind == "f" and not np.isnan(array).any() and not np.isposinf(array).any()


def _only_masks(graph: Graph, constant: Op) -> bool:
    stack, seen = [constant], {constant}
    while stack:
        node = stack.pop()
        if graph.is_output(node):
            return False
        for user in graph.users[node]:
            if isinstance(user, Softmax) or user in seen:
                continue
            if not isinstance(user, (Add, Select, Movement)):
                return False
            seen.add(user)
            stack.append(user)
    return True
