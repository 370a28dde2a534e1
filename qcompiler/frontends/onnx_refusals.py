"""What a model uses that has no importer: collected over the whole model, reported in one line."""

from __future__ import annotations

from qcompiler.errors import UnsupportedError

ADVICE = {
    "com.microsoft.nchwc": " in one machine's layout (optimize with ORT_ENABLE_EXTENDED at most)",
}
"""Domain → what to do about its operators."""

_SHOWN = 6  # node names per operator; the count says how many there are


class Refusals:
    """Operators (or forms of them) and the nodes that use them."""

    def __init__(self) -> None:
        self.nodes: dict[str, list[str]] = {}

    def add(self, what: str, node: str) -> None:
        """Record that a node was refused."""
        self.nodes.setdefault(what, []).append(node)

    @property
    def count(self) -> int:
        """How many were recorded."""
        return sum(map(len, self.nodes.values()))

    def check(self) -> None:
        """Report what was recorded.

        Raises:
            UnsupportedError: something was.
        """
        if not self.nodes:
            return
        found = "; ".join(
            f"{what} ×{len(names)} ({_some(names)})" for what, names in self.nodes.items()
        )
        raise UnsupportedError(f"operators that are not supported: {found}")


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
