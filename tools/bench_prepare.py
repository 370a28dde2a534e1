"""Make the file that one executor of `bench.py` runs, in a process of its own.

    python tools/bench_prepare.py RECIPE MODEL.onnx FEEDS.npz OUT THREADS

RECIPE is a key of `RECIPES` or a target of qcompiler.  Writes OUT, and a line of JSON about it to
stdout; a file that cannot be made is explained by its `reason`.  All executors that quantize get
the same few random samples: that does not change what their kernels compute, only the values.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

CALIBRATION_SAMPLES = 4
TRANSFORMER = "Softmax"
"""Networks with this operator are quantized as transformers."""

TVM_TRIALS = 2000
"""For the whole network; hours on a few cores."""

Feeds = dict[str, np.ndarray]


class UnavailableError(Exception):
    """This machine or this tool cannot do it."""


def random_feeds(model: onnx.ModelProto, seed: int) -> Feeds:
    """Normal floats; integers 0 and 1 (masks, rows of any embedding)."""
    rng = np.random.default_rng(seed)
    constants = {x.name for x in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        shape = [dimension.dim_value for dimension in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        floating = np.issubdtype(dtype, np.floating)
        drawn = rng.standard_normal(shape) if floating else rng.integers(0, 2, shape)
        feeds[value.name] = drawn.astype(dtype)
    return feeds


def samples(model: onnx.ModelProto) -> list[Feeds]:
    return [random_feeds(model, seed) for seed in range(1, CALIBRATION_SAMPLES + 1)]


def is_transformer(model: onnx.ModelProto) -> bool:
    return any(node.op_type == TRANSFORMER for node in model.graph.node)


def ours(path: Path, feeds: Feeds, out: Path, threads: int, target: str) -> dict[str, Any]:
    """A library of qcompiler, and the digest of what numpy computes from the same graph."""
    import qcompiler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", qcompiler.SyntheticCalibrationWarning)
        options = qcompiler.Options(require_integer=True, threads=threads)
        made = qcompiler.compile_model(path, target, options=options)
    made.model.save(out)
    reference = qcompiler.evaluate(made.integer, feeds)
    values = b"".join(np.ascontiguousarray(y).tobytes() for y in reference.values())
    return {
        "compile_seconds": sum(made.summary.seconds.values()),
        "digest": hashlib.sha256(values).hexdigest(),
    }


def onnxruntime_int8(path: Path, feeds: Feeds, out: Path, threads: int) -> dict[str, Any]:
    """Static QDQ, u8 activations, s8 weights per channel: every operator, or only products.

    ONNX Runtime's documentation leaves that choice to measurement: the quicker one is kept.
    """
    import onnxruntime
    from onnxruntime import quantization

    model = onnx.load(path)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(samples(model))

        def get_next(self) -> Feeds | None:
            return next(self.left, None)

    clean = out.with_suffix(".clean.onnx")
    quantization.quant_pre_process(path, clean, skip_symbolic_shape=is_transformer(model))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    best, chosen = float("inf"), ""
    for choice, operators in (("all", None), ("products", ["Conv", "Gemm", "MatMul"])):
        candidate = out.with_suffix(f".{choice}.onnx")
        quantization.quantize_static(
            clean,
            candidate,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=operators,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        session = onnxruntime.InferenceSession(str(candidate), settings, ["CPUExecutionProvider"])
        seconds = []
        for _ in range(8):
            start = time.perf_counter()
            session.run(None, feeds)
            seconds.append(time.perf_counter() - start)
        if min(seconds) < best:
            best, chosen = min(seconds), choice
            candidate.replace(out)
        else:
            candidate.unlink()
    clean.unlink()
    return {"operators": chosen}


def openvino_float(path: Path, feeds: Feeds, out: Path, threads: int) -> dict[str, Any]:
    import openvino

    openvino.save_model(openvino.convert_model(path), out, compress_to_fp16=False)
    return {}


def openvino_bf16(path: Path, feeds: Feeds, out: Path, threads: int) -> dict[str, Any]:
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in able:
        raise UnavailableError("OpenVINO has no bf16 on this CPU")
    return openvino_float(path, feeds, out, threads)


def openvino_int8(path: Path, feeds: Feeds, out: Path, threads: int) -> dict[str, Any]:
    import nncf
    import openvino

    model = onnx.load(path)
    quantized = nncf.quantize(
        openvino.convert_model(path),
        nncf.Dataset(samples(model)),
        subset_size=CALIBRATION_SAMPLES,
        model_type=nncf.ModelType.TRANSFORMER if is_transformer(model) else None,
    )
    openvino.save_model(quantized, out, compress_to_fp16=False)
    return {}


def tvm_float(path: Path, feeds: Feeds, out: Path, threads: int, trials: int = 0) -> dict[str, Any]:
    """Relax's own ONNX importer and its default pipeline for CPUs, or the one that tunes.

    Args:
        trials: Schedules that MetaSchedule measures altogether.
    """
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx
    from tvm.target import codegen

    cpu = codegen.llvm_get_system_cpu()
    target = tvm.target.Target({"kind": "llvm", "mcpu": cpu, "num-cores": threads})
    module = from_onnx(onnx.load(path))
    if trials:
        with target, tempfile.TemporaryDirectory() as work:
            tune = relax.get_pipeline(
                "static_shape_tuning", total_trials=trials, target=target, work_dir=work
            )
            module = tune(module)
    tvm.compile(module, target).export_library(str(out))
    return {}


RECIPES: dict[str, Callable[[Path, Feeds, Path, int], dict[str, Any]]] = {
    "onnxruntime-int8": onnxruntime_int8,
    "openvino-float": openvino_float,
    "openvino-bf16": openvino_bf16,
    "openvino-int8": openvino_int8,
    "tvm-float": tvm_float,
    "tvm-tuned": lambda *given: tvm_float(*given, TVM_TRIALS),
}


def main() -> None:
    recipe, model, feeds_path, out, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with np.load(feeds_path) as file:
        feeds = dict(file)
    start = time.perf_counter()
    facts: dict[str, Any]
    try:
        if recipe in RECIPES:
            facts = RECIPES[recipe](Path(model), feeds, Path(out), int(threads))
        else:
            facts = ours(Path(model), feeds, Path(out), int(threads), recipe)
    except ImportError as error:
        facts = {"reason": f"needs {error.name}: pip install 'qcompiler[bench]'"}
    except UnavailableError as error:
        facts = {"reason": str(error)}
    facts["prepare_seconds"] = time.perf_counter() - start
    facts["prepare_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps(facts), file=answers)


if __name__ == "__main__":
    main()
