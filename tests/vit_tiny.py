"""The real ViT-Tiny in ../shared/data, where that is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "vit_tiny_tinyimagenet"
needs_vit_tiny = pytest.mark.skipif(not FOLDER.exists(), reason="needs ../shared/data")


def images(file: str, count: int) -> np.ndarray:
    """Images of "calib" or "val" as the model takes them, enlarged by repetition.

    Returns:
        float32 [count, 3, 224, 224] within −1…1.
    """
    pixels = np.load(FOLDER / f"{file}.npz")["x"][:count]
    near = np.arange(224) * pixels.shape[1] // 224
    large = pixels[:, near][:, :, near].transpose(0, 3, 1, 2)
    return np.ascontiguousarray(large, np.float32) / np.float32(127.5) - np.float32(1)
