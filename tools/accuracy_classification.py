"""Classifiers: what they choose in float and in integers."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_executors import Executors, Line
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from PIL import Image

import qcompiler

IMAGENET_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
IMAGENET_STD = np.array((0.229, 0.224, 0.225), np.float32)
QUANTIZER_SAMPLES = 100
"""What `quantize_static` is given."""


@dataclass(frozen=True)
class Classifier:
    """A model that chooses a class for each sample.

    Attributes:
        load: From the data folder: calibration samples, test samples, test labels.
        top1: Per cent that the integer model must reach.
        agreement: Per cent of test samples on which it must choose the float model's class.
        bits: On how many test samples all three executors are compared; None on all of them.
        quantizer: Makes the model to compile from the float one: ONNX Runtime's `quantize_static`
            with these options; it is compiled without data.
    """

    load: Callable[[Path], tuple[np.ndarray, np.ndarray, np.ndarray]]
    top1: float
    agreement: float
    bits: int | None = None
    quantizer: Mapping[str, Any] | None = None

    def __call__(self, folder: Path, threads: int | None) -> tuple[Line, Executors]:
        """Run all test samples."""
        calibration, samples, labels = self.load(folder)
        options = qcompiler.Options(require_integer=True, threads=threads)
        if self.quantizer is None:
            run = Executors(folder / "model.onnx", calibration, options)
        else:
            with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
                warnings.simplefilter("error", qcompiler.SyntheticCalibrationWarning)
                model = Path(scratch, "quantized.onnx")
                quantize(folder / "model.onnx", model, calibration, self.quantizer)
                run = Executors(model, None, options, fused=False)
        chosen, expected = [], []
        for i, x in enumerate(samples):
            feeds = {run.input: x[None]}
            compare = self.bits is None or i < self.bits
            for found, y in ((expected, run.real(feeds)), (chosen, run.integer(feeds, compare))):
                found.append(int(np.argmax(next(iter(y.values())))))
        real, top1, agreement = (
            100 * float(np.mean(np.equal(a, b)))
            for a, b in ((expected, labels), (chosen, labels), (chosen, expected))
        )
        line = Line(
            len(samples),
            f"{real:.2f} %",
            f"{top1:.2f} % (≥ {self.top1})",
            f"{agreement:.2f} % (≥ {self.agreement})",
            top1 >= self.top1 and agreement >= self.agreement,
        )
        return line, run


class Samples(CalibrationDataReader):
    """Calibration samples as ONNX Runtime's quantizer reads them."""

    def __init__(self, name: str, samples: np.ndarray) -> None:
        self.left = iter([{name: x[None]} for x in samples])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sample."""
        return next(self.left, None)


def quantize(model: Path, result: Path, samples: np.ndarray, options: Mapping[str, Any]) -> None:
    """Have ONNX Runtime quantize a model."""
    name = str(qcompiler.import_onnx(model).inputs[0].name)
    quantize_static(model, result, Samples(name, samples[:QUANTIZER_SAMPLES]), **options)


def cifar10(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """512 training images, and all 932 test images."""

    def prepared(x: np.ndarray) -> np.ndarray:
        real = (x.astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
        return np.ascontiguousarray(real.transpose(0, 3, 1, 2))

    with np.load(folder / "train.npz") as train, np.load(folder / "test.npz") as test:
        return prepared(train["x"][:512]), prepared(test["x"]), test["y"]


def imagenet(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """100 calibration and 400 evaluation photographs; their names are their classes."""

    def images(name: str) -> tuple[np.ndarray, np.ndarray]:
        paths = sorted((folder / name).glob("*.jpg"))
        pixels = [np.asarray(Image.open(p).convert("RGB"), np.float32) for p in paths]
        real = np.stack(pixels).transpose(0, 3, 1, 2) / np.float32(127.5) - np.float32(1)
        return np.ascontiguousarray(real), np.array([int(p.stem) for p in paths])

    return images("calib")[0], *images("eval")


def tiny_imagenet(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """64 calibration images, and the first 1000 of the validation images."""

    def prepared(x: np.ndarray) -> np.ndarray:
        result = np.empty((len(x), 3, 224, 224), np.float32)
        for i, pixels in enumerate(x):
            resized = Image.fromarray(pixels).resize((256, 256), Image.Resampling.BILINEAR)
            crop = np.asarray(resized, np.float32)[16:240, 16:240] / np.float32(255)
            result[i] = ((crop - np.float32(0.5)) / np.float32(0.5)).transpose(2, 0, 1)
        return result

    with np.load(folder / "calib.npz") as calib, np.load(folder / "val.npz") as val:
        return prepared(calib["x"][:64]), prepared(val["x"][:1000]), val["y"][:1000]


def speech(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """100 clips to calibrate with, and the other 900."""
    with np.load(folder / "clips.npz") as clips:
        x, y = clips["x"], clips["y"]
    order = np.random.RandomState(0).permutation(len(x))
    return x[order[:100]], x[order[100:]], y[order[100:]]
