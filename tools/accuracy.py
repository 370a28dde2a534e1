"""Accuracy and bit equality on real models: one table.

    python tools/accuracy.py --data ../shared/data [--check]

Each model is quantized from its calibration samples, compiled for this CPU, and run on test samples
by three executors: the numpy reference, the library, and the integer ONNX file in ONNX Runtime.
The table shows what the float and the integer model reach, how far they agree, and how many of the
output values differ between the executors in any bit.

Models that ONNX Runtime has quantized are compiled without any data, and compared with what ONNX
Runtime makes of the quantized model.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path

import accuracy_detection as detection
import accuracy_diffusion as diffusion
import numpy as np
from accuracy_classification import Classifier, cifar10, imagenet, speech, tiny_imagenet
from accuracy_executors import Executors, Line
from onnxruntime.quantization import QuantFormat, QuantType
from rich.console import Console
from rich.table import Table

import qcompiler
from qcompiler.errors import UsageError


def detect(folder: Path, threads: int | None) -> tuple[Line, Executors]:
    """NanoDet on 128 images of COCO: mAP at an overlap of 0.5, at least 43.3 %."""
    samples = [{"image": x} for x, _ in detection.images(folder / "calib")]
    options = qcompiler.Options(
        config=qcompiler.QuantizationConfig(activations="int16", rounding="balanced"),
        require_integer=True,
        threads=threads,
    )
    run = Executors(folder / "model.onnx", samples, options)
    samples = [{run.input: x} for x, _ in detection.images(folder / "val")]
    real = detection.mean_average_precision(lambda x: run.real({run.input: x}), folder / "val")
    for feeds in samples[:4]:
        run.integer(feeds)
    integer = detection.mean_average_precision(
        lambda x: run.integer({run.input: x}, compare=False), folder / "val"
    )
    bound = 43.3
    line = Line(
        len(samples),
        f"{real:.1f} mAP50",
        f"{integer:.1f} mAP50 (≥ {bound})",
        "",
        integer >= bound,
    )
    return line, run


def denoise(
    folder: Path, threads: int | None, picture: Path | None = None
) -> tuple[Line, Executors]:
    """A diffusion UNet: noise predicted over all timesteps, 25 dB, and an MSE within 2 %."""
    options = qcompiler.Options(
        config=qcompiler.QuantizationConfig(activations="int16"),
        require_integer=True,
        threads=threads,
    )
    run = Executors(folder / "model.onnx", diffusion.calibration(folder), options)
    count = 400
    timesteps = np.linspace(0, diffusion.STEPS - 1, count).astype(int)
    sums = np.zeros(4)
    pictures = diffusion.images(folder)[:count]
    for i, (x, t, noise) in enumerate(diffusion.noisy(pictures, timesteps, seed=0)):
        feeds = {"x": x, "t": np.array([t], np.int64)}
        real, integer = run.real(feeds)["eps"], run.integer(feeds, compare=i % 8 == 0)["eps"]
        errors = (real, real - integer, real - noise, integer - noise)
        sums += [float(np.mean(np.square(e, dtype=np.float64))) for e in errors]
    ratio = 10 * np.log10(sums[0] / sums[1])
    more = 100 * (sums[3] / sums[2] - 1)
    if picture is not None:
        runs = (run.real, functools.partial(run.integer, compare=False))
        drawn = [
            [
                diffusion.draw(lambda x, t, f=f: f({"x": x, "t": np.array([t])})["eps"], seed)  # type: ignore[misc]
                for seed in range(12)
            ]
            for f in runs
        ]
        diffusion.sheet(drawn, picture)
    line = Line(
        count,
        f"MSE {sums[2] / count:.4f}",
        f"MSE {more:+.2f} % (≤ 2)",
        f"{ratio:.1f} dB (≥ 25)",
        bool(ratio >= 25 and abs(more) <= 2),
    )
    return line, run


TASKS: dict[str, Callable[[Path, int | None], tuple[Line, Executors]]] = {
    "resnet20_cifar10": Classifier(cifar10, top1=91.2, agreement=99.0),
    "mobilenet_v1_025_imagenet": Classifier(imagenet, top1=56.0, agreement=0.0),
    "vit_tiny_tinyimagenet": Classifier(tiny_imagenet, top1=68.3, agreement=95.0, bits=100),
    "kwt1_speech_commands": Classifier(speech, top1=92.0, agreement=98.0, bits=100),
    "resnet20_cifar10 QDQ": Classifier(
        cifar10,
        top1=91.2,
        agreement=99.5,
        bits=100,
        quantizer={"quant_format": QuantFormat.QDQ, "per_channel": True},
    ),
    "resnet20_cifar10 QOperator": Classifier(
        cifar10,
        top1=91.2,
        agreement=99.5,
        bits=100,
        # With uint8 activations ONNX Runtime's own products saturate on CPUs without VNNI.
        quantizer={"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QInt8},
    ),
    "nanodet_coco128": detect,
    "ddpm_mnist_unet": denoise,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", action="append", help="only this model (repeatable)")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--digits", type=Path, help="draw digits by the diffusion model: a .png")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bound does not hold")
    arguments = parser.parse_args()
    if unknown := set(arguments.model or ()) - set(TASKS):
        raise UsageError(f"--model {min(unknown)}: expected one of {', '.join(TASKS)}")
    tasks = TASKS | {"ddpm_mnist_unet": functools.partial(denoise, picture=arguments.digits)}
    columns = ("model", "samples", "float", "integer", "agreement", "differing bits", "holds")
    table = Table(*columns)
    failed = False
    for name in arguments.model or tasks:
        folder = arguments.data / name.partition(" ")[0]
        line, run = tasks[name](folder, arguments.threads)
        holds = line.holds and not run.differing and not run.float_instructions
        failed |= not holds
        cells = (name, str(line.samples), line.real, line.integer, line.agreement)
        table.add_row(*cells, str(run.differing), "yes" if holds else "NO")
    Console(width=140).print(table)
    return int(failed and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
