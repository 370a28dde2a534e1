"""Which values nothing rounds: they stay in the accumulators or the table of the op behind them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from qcompiler.graph import Constant, Graph, Op
from qcompiler.ops import Elementwise
from qcompiler.passes.spec import TABLES, Form, absorbing, spec

MAX_TERMS = 4


@dataclass(frozen=True, eq=False)
class Absorption:
    """What the ops of a real graph absorb, of what `spec` lets them.

    Attributes:
        graph: The graph.
        kept: Values that have to be codes.
        skips: Whether an op stays in float.
    """

    graph: Graph
    kept: Collection[Op]
    skips: Callable[[Op], bool]

    @property
    def values(self) -> Collection[Op]:
        """What is absorbed."""
        return self._found[0]

    @property
    def forms(self) -> Mapping[Op, Form | None]:
        """What each value is in front of its rounding, if it is rounded."""
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[Collection[Op], Mapping[Op, Form | None]]:
        values: set[Op] = set()
        forms: dict[Op, Form | None] = {}
        products: dict[Op, int] = {}
        terms: dict[Op, int] = {}
        for node in self.graph.ops:
            found = spec(node)
            operands = [x for x in node.operands if not isinstance(x, Constant)]
            forms[node] = found.form if found else None
            products[node] = found.products if found else 0
            terms[node] = len(operands) if isinstance(node, Elementwise) else 1
            if found is None or self.skips(node):
                continue
            if found.sums and len(operands) > 1 and any(forms[x] in TABLES for x in operands):
                continue  # tables take numbers along, and nothing else
            for x in reversed(operands):
                fits = products[node] + products[x] <= 1 and terms[node] + terms[x] - 1 <= MAX_TERMS
                form = absorbing(node, x, forms[x])
                if form is not None and fits and self.is_only_use(x):
                    values.add(x)
                    forms[node] = form
                    products[node] += products[x]
                    terms[node] += terms[x] - 1
        return values, forms

    def is_only_use(self, x: Op) -> bool:
        """Whether one operand of one op is all that a value is for."""
        user = self.graph.only_user(x)
        return (
            x not in self.kept
            and user is not None
            and sum(y is x for y in user.operands) == 1
            and not self.skips(x)
        )
