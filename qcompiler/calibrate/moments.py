"""Second moments of values: how the inputs of a product vary together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Moments:
    """Sums over all rows of a value [..., k].

    Attributes:
        count: Rows.
        total: Σ x, float64 [k].
        products: Σ x·xᵀ, float64 [k, k].
    """

    count: int
    total: np.ndarray
    products: np.ndarray

    @classmethod
    def of(cls, channels: int) -> Moments:
        """No rows yet."""
        return cls(0, np.zeros(channels), np.zeros((channels, channels)))

    def update(self, values: np.ndarray) -> None:
        """Count the rows of one more value."""
        rows = values.reshape(-1, values.shape[-1])
        self.count += len(rows)
        self.total += rows.sum(0, dtype=np.float64)
        # One feed's sum of products loses nothing that rounding weights could notice.
        self.products += rows.T @ rows

    @property
    def mean(self) -> np.ndarray:
        """The average row."""
        return self.total / max(self.count, 1)
