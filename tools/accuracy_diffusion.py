"""A diffusion model: how much of the predicted noise is lost, and digits drawn by both models."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

STEPS = 1000
OFFSET = 0.008
IMAGE = (1, 1, 28, 28)

Predict = Callable[[np.ndarray, int], np.ndarray]
"""The noise in x [1, 1, 28, 28] at a timestep."""


def signal(t: np.ndarray | int) -> np.ndarray:
    """How much of an image is left at timestep t, as a part of its variance.

    The cosine schedule of Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic
    Models", eq. 17.
    """
    angle = (np.asarray(t, np.float64) + 1) / STEPS
    part = np.cos((angle + OFFSET) / (1 + OFFSET) * np.pi / 2) ** 2
    return np.clip(part / np.cos(OFFSET / (1 + OFFSET) * np.pi / 2) ** 2, 1e-5, 1)


def images(folder: Path) -> np.ndarray:
    """MNIST's test images in −1…1: float32 [10000, 1, 28, 28]."""
    data = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    pixels = np.frombuffer(data, np.uint8, offset=16).reshape(-1, *IMAGE[1:])
    return pixels.astype(np.float32) / np.float32(127.5) - 1


def noisy(
    pictures: np.ndarray, timesteps: np.ndarray, seed: int
) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """Pictures with noise, their timesteps, and the noise."""
    rng = np.random.default_rng(seed)
    for picture, t in zip(pictures, timesteps, strict=True):
        noise = rng.standard_normal(IMAGE).astype(np.float32)
        kept = signal(t)
        x = np.sqrt(kept) * picture[None] + np.sqrt(1 - kept) * noise
        yield x.astype(np.float32), int(t), noise


def calibration(folder: Path, count: int = 64) -> list[dict[str, np.ndarray]]:
    """Noisy images at uniform timesteps, the first and the last among them."""
    timesteps = np.linspace(0, STEPS - 1, count).astype(int)
    rows = noisy(images(folder)[-count:], timesteps, seed=1)
    return [{"x": x, "t": np.array([t], np.int64)} for x, t, _ in rows]


def draw(predict: Predict, seed: int, steps: int = 50) -> np.ndarray:
    """A picture from noise by deterministic steps (Song et al. 2021, DDIM, eq. 12)."""
    x = np.random.default_rng(seed).standard_normal(IMAGE)
    timesteps = np.linspace(STEPS - 1, 0, steps).round().astype(int)
    for t, following in zip(timesteps, [*timesteps[1:], -1], strict=True):
        noise = predict(x.astype(np.float32), int(t))
        kept, wanted = signal(t), signal(following) if following >= 0 else 1.0
        picture = np.clip((x - np.sqrt(1 - kept) * noise) / np.sqrt(kept), -1, 1)
        noise = (x - np.sqrt(kept) * picture) / np.sqrt(1 - kept)
        x = np.sqrt(wanted) * picture + np.sqrt(1 - wanted) * noise
    return np.asarray(np.clip(x, -1, 1)[0, 0])


def sheet(rows: list[list[np.ndarray]], path: Path) -> None:
    """Pictures in rows, as one file."""
    pixels = np.vstack([np.hstack(row) for row in rows])
    Image.fromarray(((pixels + 1) * 127.5).round().astype(np.uint8)).resize(
        (pixels.shape[1] * 2, pixels.shape[0] * 2), Image.Resampling.NEAREST
    ).save(path)
