"""Directories of images as calibration samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qcompiler.calibrate.feeds import Input
from qcompiler.errors import CalibrationError, FileError

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


@dataclass(frozen=True)
class ImageOptions:
    """How image files become an input: resize, centre crop, /255, (v − mean) / std.

    Attributes:
        mean: Per channel, in units of 0..1 (ImageNet: 0.485, 0.456, 0.406); one value for all.
        std: Likewise, in units of 0..1.
        layout: "NCHW", "NHWC", or "auto": by which dimension of the input is 1 or 3.
        resize: (height, width) to resize to, or the length of the shorter side, before the centre
            crop to the input's size; None resizes to the smallest size of the same proportions that
            covers it.  Bilinear with antialiasing, as Pillow does it.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "auto"
    resize: int | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.layout not in ("auto", "NCHW", "NHWC"):
            raise CalibrationError(f"layout is {self.layout!r}, expected auto, NCHW or NHWC")
        if not all(0 <= value <= 1 for value in self.mean):
            raise CalibrationError(
                f"mean is {list(self.mean)}, expected values in units of 0..1: divide by 255"
            )
        if not all(0 < value <= 1 for value in self.std):
            raise CalibrationError(
                f"std is {list(self.std)}, expected values above 0 in units of 0..1: divide by 255"
            )


@dataclass(frozen=True)
class ImageColumn:
    """One sample for each file.

    Attributes:
        paths: The image files.
        wanted: The input they are for: float [N, C, H, W] or [N, H, W, C], or uint8 for raw pixels.
        options: How they are preprocessed.
        height, width, channels: Of the input.
        first: Whether channels come before height and width.
    """

    paths: tuple[Path, ...]
    wanted: Input
    options: ImageOptions
    height: int
    width: int
    channels: int
    first: bool

    @property
    def length(self) -> int:
        """See `Column`."""
        return len(self.paths)

    def batches(self, groups: Iterable[NDArray[np.intp]]) -> Iterator[NDArray]:
        """See `Column`.

        Raises:
            FileError: A file is no image that Pillow can read.
        """
        for group in groups:
            yield np.stack([self._load(self.paths[row]) for row in group])

    def _load(self, path: Path) -> NDArray:
        from PIL import Image  # which most who import this never need

        try:
            with Image.open(path) as image:
                pixels = self._crop(image.convert("RGB" if self.channels == 3 else "L"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise FileError(
                f"cannot read image {path} ({type(error).__name__}): remove or replace it"
            ) from error
        values = np.asarray(pixels).reshape(self.height, self.width, self.channels)
        if self.wanted.dtype.kind == "f":
            mean = np.asarray(self.options.mean, np.float32)
            std = np.asarray(self.options.std, np.float32)
            values = (values.astype(np.float32) / np.float32(255) - mean) / std
        return (values.transpose(2, 0, 1) if self.first else values).astype(self.wanted.dtype)

    def _crop(self, image: Image) -> Image:
        from PIL.Image import Resampling

        width, height = self._resized(image.width, image.height)
        if (width, height) != image.size:
            image = image.resize((width, height), Resampling.BILINEAR)
        left, top = (width - self.width) // 2, (height - self.height) // 2
        return image.crop((left, top, left + self.width, top + self.height))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        resize = self.options.resize
        if isinstance(resize, tuple):
            return resize[1], resize[0]
        if resize is None:
            factor = max(self.width / width, self.height / height)
        else:
            factor = resize / min(width, height)
        return max(round(width * factor), self.width), max(round(height * factor), self.height)


def image_column(folder: Path, inputs: Sequence[Input], options: ImageOptions) -> ImageColumn:
    """All images below a folder, in the order of their paths.

    Raises:
        CalibrationError: There are none, or the model's input cannot take images.
        FileError: The folder cannot be read.
    """
    try:
        found = sorted(
            p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file()
        )
    except OSError as error:
        raise FileError(
            f"cannot read {folder} ({error.strerror}): check its permissions"
        ) from error
    if not found:
        raise CalibrationError(
            f"no images in {folder}: expected files ending in {' '.join(sorted(_SUFFIXES))}"
        )
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise CalibrationError(
            f"{folder} holds images, but the model takes "
            + ", ".join(f"'{i.name}' {list(i.shape)}" for i in inputs)
            + ": expected one input [N, C, H, W] or [N, H, W, C]; give an npz file or a script"
        )
    wanted = inputs[0]
    first = options.layout == "NCHW" or (options.layout == "auto" and wanted.shape[1] in (1, 3))
    channels, height, width = wanted.sample if first else (wanted.shape[3], *wanted.shape[1:3])
    _check(wanted, options, height, width, channels)
    return ImageColumn(tuple(found), wanted, options, height, width, channels, first)


def _check(wanted: Input, options: ImageOptions, height: int, width: int, channels: int) -> None:
    if channels not in (1, 3):
        raise CalibrationError(
            f"input '{wanted.name}' has shape {list(wanted.shape)} and so {channels} channels, "
            "expected 1 or 3 for images: set layout, or give an npz file or a script"
        )
    if any(len(values) not in (1, channels) for values in (options.mean, options.std)):
        raise CalibrationError(
            f"mean {list(options.mean)} and std {list(options.std)} do not fit input "
            f"'{wanted.name}' of {channels} channels: give one value or one per channel"
        )
    if wanted.dtype.kind != "f" and wanted.dtype != np.uint8:
        raise CalibrationError(
            f"input '{wanted.name}' is {wanted.dtype}, expected float or uint8 for images: "
            "give an npz file or a script"
        )
    if wanted.dtype == np.uint8 and (options.mean, options.std) != ((0.0,), (1.0,)):
        raise CalibrationError(
            f"input '{wanted.name}' is uint8 and takes raw pixels: leave mean and std out"
        )
    resize = options.resize
    small = (resize,) * 2 if isinstance(resize, int) else resize
    if small is not None and (small[0] < height or small[1] < width):
        raise CalibrationError(
            f"images resized to {resize} are smaller than input '{wanted.name}' "
            f"({height}x{width}): resize to at least that"
        )
