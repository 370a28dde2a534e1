"""Accuracy and bit equality on real models: one table.

    python tools/accuracy.py --data ../shared/data [--check]

Each model is quantized from its calibration images, compiled for this CPU, and run on all its test
images by three executors: the numpy reference, the library, and the integer ONNX file in ONNX
Runtime.  The table shows top-1 of the float and the integer model, how often both choose the same
class, and how many of all output values differ between the executors in any bit.

Models that ONNX Runtime has quantized are compiled without any data, and compared with what ONNX
Runtime makes of the quantized model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from PIL import Image
from rich.console import Console
from rich.table import Table

import qcompiler
from qcompiler.errors import UsageError

IMAGENET_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
IMAGENET_STD = np.array((0.229, 0.224, 0.225), np.float32)
QUANTIZER_SAMPLES = 100
"""What `quantize_static` is given."""


@dataclass(frozen=True)
class Task:
    """A model with its images.

    Attributes:
        load: From the data folder: calibration images, test images, test labels.
        top1: Per cent that the integer model must reach.
        agreement: Per cent of test images on which it must choose the float model's class.
        bits: On how many test images all three executors are compared; None on all of them.
        quantizer: Makes the model to compile from the float one: ONNX Runtime's `quantize_static`
            with these options.
    """

    name: str
    load: Callable[[Path], tuple[np.ndarray, np.ndarray, np.ndarray]]
    top1: float
    agreement: float
    bits: int | None = None
    quantizer: Mapping[str, Any] | None = None

    @property
    def folder(self) -> str:
        """Where model and images are."""
        return self.name.partition(" ")[0]


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


TASKS = (
    Task("resnet20_cifar10", cifar10, top1=91.2, agreement=99.0),
    Task("mobilenet_v1_025_imagenet", imagenet, top1=56.0, agreement=0.0),
    Task("vit_tiny_tinyimagenet", tiny_imagenet, top1=68.3, agreement=95.0, bits=100),
    Task(
        "resnet20_cifar10 QDQ",
        cifar10,
        top1=91.2,
        agreement=99.5,
        bits=100,
        quantizer={"quant_format": QuantFormat.QDQ, "per_channel": True},
    ),
    Task(
        "resnet20_cifar10 QOperator",
        cifar10,
        top1=91.2,
        agreement=99.5,
        bits=100,
        # With uint8 activations ONNX Runtime's own products saturate on CPUs without VNNI.
        quantizer={"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QInt8},
    ),
)


class Samples(CalibrationDataReader):
    """Calibration images as ONNX Runtime's quantizer reads them."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self.left = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next image."""
        return next(self.left, None)


@dataclass(frozen=True)
class Result:
    """Per cents, and output values that differ between executors."""

    float_top1: float
    integer_top1: float
    agreement: float
    images: int
    differing: int
    float_instructions: int


def session(model: str | Path, *, fused: bool = True) -> Callable[[np.ndarray], np.ndarray]:
    """The model in ONNX Runtime, as a function of one image.

    Unless `fused`, pairs of QuantizeLinear and DequantizeLinear are computed as they are written:
    the products that are fused from them saturate on CPUs without VNNI.
    """
    options = onnxruntime.SessionOptions()
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 2
    runtime = onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])
    name = runtime.get_inputs()[0].name
    return lambda x: np.asarray(runtime.run(None, {name: x[None]})[0])


def measure(task: Task, data: Path, threads: int | None) -> Result:
    """Quantize, compile and run on every test image."""
    folder = data / task.folder
    calibration, images, labels = task.load(folder)
    options = qcompiler.Options(require_integer=True, threads=threads)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("error", qcompiler.SyntheticCalibrationWarning)
        model = folder / "model.onnx"
        if task.quantizer is not None:
            name = qcompiler.import_onnx(model).inputs[0].name
            samples = Samples(str(name), calibration[:QUANTIZER_SAMPLES])
            quantized = Path(scratch, "quantized.onnx")
            quantize_static(model, quantized, samples, **task.quantizer)
            model = quantized
        given = None if task.quantizer is not None else calibration
        made = qcompiler.compile_model(model, "cpu", given, options=options)
        (x,), (y,) = made.integer.inputs, made.integer.outputs
        integer_file = Path(scratch, "integer.onnx")
        qcompiler.export_onnx(made.integer, integer_file)
        float_model = session(model, fused=task.quantizer is None)
        integer_model = session(integer_file)
    floats, integers, differing = [], [], 0
    for i, image in enumerate(images):
        floats.append(float_model(image)[0])
        feeds = {str(x.name): image[None]}
        integers.append(made.model(feeds)[y][0])
        if task.bits is not None and i >= task.bits:
            continue
        for other in (qcompiler.evaluate(made.integer, feeds)[y], integer_model(image)):
            differing += int((other[0].view(np.uint32) != integers[-1].view(np.uint32)).sum())
    chosen, expected = np.argmax(integers, 1), np.argmax(floats, 1)
    return Result(
        100 * float(np.mean(expected == labels)),
        100 * float(np.mean(chosen == labels)),
        100 * float(np.mean(chosen == expected)),
        len(images),
        differing,
        made.model.metadata.float_instructions,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", action="append", help="only this model (repeatable)")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--check", action="store_true", help="exit 1 if a bound does not hold")
    arguments = parser.parse_args()
    tasks = [t for t in TASKS if not arguments.model or t.name in arguments.model]
    if not tasks:
        raise UsageError(f"--model: expected one of {', '.join(t.name for t in TASKS)}")
    table = Table("model", "images", "float", "integer", "agreement", "differing bits", "holds")
    failed = False
    for task in tasks:
        r = measure(task, arguments.data, arguments.threads)
        holds = (
            r.integer_top1 >= task.top1
            and r.agreement >= task.agreement
            and not r.differing
            and not r.float_instructions
        )
        failed |= not holds
        top1 = f"{r.integer_top1:.2f} % (≥ {task.top1})"
        agreement = f"{r.agreement:.2f} % (≥ {task.agreement})"
        cells = (task.name, str(r.images), f"{r.float_top1:.2f} %", top1, agreement)
        table.add_row(*cells, str(r.differing), "yes" if holds else "NO")
    Console(width=140).print(table)
    return int(failed and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
