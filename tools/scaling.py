"""Seconds and peak memory of compiling transformers of growing depth: both should be linear.

    python tools/scaling.py                               # 6, 12, 24 and 48 blocks of 192 channels
    python tools/scaling.py --blocks 12 --width 768       # BERT-base: 340 MB of float32 weights

Weights are random, the calibration is four samples. Each depth is compiled in a process of its own;
memory is what its resident set grew to, less what it is after the imports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HEAD = 64
SAMPLES = 4
RNG = np.random.default_rng(0)


class _Network:
    """An encoder as exporters write it, node by node."""

    def __init__(self, tokens: int, width: int) -> None:
        self.tokens, self.width = tokens, width
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, op_type: str, *inputs: str, **attributes: object) -> str:
        """A node's result, named like it."""
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        """An initializer."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def floats(self, *shape: int, scale: float = 1.0) -> str:
        """Random weights."""
        return self.constant(RNG.standard_normal(shape, np.float32) * np.float32(scale))

    def linear(self, x: str, inner: int, outer: int) -> str:
        """A dense layer."""
        product = self.node("MatMul", x, self.floats(inner, outer, scale=inner**-0.5))
        return self.node("Add", product, self.floats(outer, scale=0.1))

    def normalized(self, x: str) -> str:
        """LayerNormalization of the last axis."""
        ones = self.constant(np.ones(self.width, np.float32))
        return self.node("LayerNormalization", x, ones, self.floats(self.width, scale=0.1))

    def heads(self, x: str, order: list[int]) -> str:
        """[1, tokens, width] as heads, in another order."""
        split = self.constant(np.array([1, self.tokens, self.width // HEAD, HEAD]))
        return self.node("Transpose", self.node("Reshape", x, split), perm=order)

    def block(self, x: str) -> str:
        """Pre-norm attention and a GELU network of four times the width."""
        w, y = self.width, self.normalized(x)
        q, k, v = (self.linear(y, w, w) for _ in range(3))
        q = self.node("Mul", q, self.constant(np.float32(HEAD**-0.5)))
        scores = self.node("MatMul", self.heads(q, [0, 2, 1, 3]), self.heads(k, [0, 2, 3, 1]))
        mixed = self.node("MatMul", self.node("Softmax", scores), self.heads(v, [0, 2, 1, 3]))
        together = self.constant(np.array([1, self.tokens, w]))
        mixed = self.node("Reshape", self.node("Transpose", mixed, perm=[0, 2, 1, 3]), together)
        x = self.node("Add", x, self.linear(mixed, w, w))
        hidden = self.node("Gelu", self.linear(self.normalized(x), w, 4 * w))
        return self.node("Add", x, self.linear(hidden, 4 * w, w))


def encoder(blocks: int, tokens: int, width: int) -> onnx.ModelProto:
    """The model, float32 [1, tokens, width] to [1, tokens, width]."""
    network, x = _Network(tokens, width), "x"
    for _ in range(blocks):
        x = network.block(x)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, tokens, width])
        for name in ("x", x)
    ]
    graph = helper.make_graph(network.nodes, "encoder", ends[:1], ends[1:], network.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def measure(path: Path, tokens: int, width: int) -> dict[str, float]:
    """Compile a file in this process: seconds of each stage, and bytes of peak memory."""
    import onnxruntime  # noqa: F401
    import tvm  # noqa: F401

    from qcompiler.driver import compile_model

    warnings.simplefilter("ignore")
    samples = [{"x": RNG.standard_normal((1, tokens, width), np.float32)} for _ in range(SAMPLES)]
    before = resident("VmRSS")
    done = compile_model(path, "cpu", samples)
    return {**done.summary.seconds, "memory": resident("VmHWM") - before}


def resident(field: str) -> float:
    """Bytes of this process: now ("VmRSS"), or at most so far ("VmHWM"); Linux only.

    The peak that getrusage reports begins with that of the parent.
    """
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return 1024.0 * next(float(x.split()[1]) for x in lines if x.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[6, 12, 24, 48])
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.tokens, given.width)))
        return
    print(
        "blocks  model MB  seconds: import quantize fuse build  per block  peak/model", flush=True
    )
    for blocks in given.blocks:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            onnx.save(encoder(blocks, given.tokens, given.width), path)
            size = path.stat().st_size
            command = [sys.executable, __file__, "--measure", str(path)]
            command += ["--tokens", str(given.tokens), "--width", str(given.width)]
            started = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            total = time.perf_counter() - started
        found = json.loads(done.stdout.splitlines()[-1])
        stages = [found[s] for s in ("import", "quantize", "fuse", "build")]
        print(
            f"{blocks:6} {size / 1e6:9.0f}  {' '.join(f'{s:6.1f}' for s in stages)}"
            f" (process {total:.1f}) {sum(stages) / blocks:9.2f} {found['memory'] / size:10.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
