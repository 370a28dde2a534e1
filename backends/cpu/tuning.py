"""Measure which tiles suit the products of a network on this machine.

Every tile gives the same bits, so that this changes nothing but time.  The cost model of
`kernels.cpu.cost` orders the choices; the first few are compiled into one library, which runs them
in turns on random codes, with the epilogue of the first such product of the network.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tvm.target import Target as TvmTarget

from qcompiler import host
from qcompiler.backends.cpu import machine
from qcompiler.backends.cpu.kernels import Cut, Isa, build, cuts, pack
from qcompiler.backends.cpu.kernels.product_rule import Products
from qcompiler.backends.cpu.library import LIBRARY, write_library
from qcompiler.backends.cpu.program import main
from qcompiler.backends.cpu.run import Library
from qcompiler.backends.cpu.tuning_cache import TuningCache, default_path
from qcompiler.backends.tvm.lower import Call, Kernel, Program
from qcompiler.backends.tvm.problem import Conv2d, Epilogue, Matmul
from qcompiler.errors import TargetError
from qcompiler.graph import Graph, Input
from qcompiler.types import TensorType

ROUNDS = 30
WARM_UP = 3
QUANTILE = 0.25
"""Of the rounds: other processes make some of them slow, none of them fast."""


def tuned(
    rules: Sequence[Any], target: TvmTarget, most: int, threads: int | None = None
) -> tuple[Any, ...]:
    """Kernel rules whose products have measured tiles.

    Args:
        rules: A kernel table.
        target: What to compile for: must run here.
        most: How many tiles to measure for each product.
        threads: Of each call; None for all cores.

    Raises:
        TargetError: this machine cannot run code for the target.
    """
    check_tunable(target)
    tuner = Tuner(target, most, threads or host.cores(), TuningCache(default_path()))
    return tuple(
        dataclasses.replace(rule, choose=tuner) if isinstance(rule, Products) else rule
        for rule in rules
    )


def check_tunable(target: TvmTarget) -> None:
    """Refuse a target whose code cannot be measured here.

    Raises:
        TargetError: says what this machine lacks.
    """
    triple = str(target.attrs.get("mtriple", host.architecture()))
    if not triple.startswith(host.architecture()):
        raise TargetError(f"--tune: measures on this machine, which is no {triple.split('-')[0]}")
    if lacking := machine.lacking(machine.code_features(target)):
        raise TargetError(
            f"--tune: measures on this machine, which lacks {', '.join(lacking)}: "
            "tune on one like that of the target, or leave --tune out"
        )


class Tuner:
    """Chooses the quickest of the first `most` cuts of a product.

    Args:
        target: What to compile for.
        most: How many cuts to measure.
        threads: Of each call.
        cache: Has the results of earlier compilations, and gets those of this one.
    """

    def __init__(self, target: TvmTarget, most: int, threads: int, cache: TuningCache) -> None:
        self._target = target
        self._most = most
        self._threads = threads
        self._cache = cache

    def __call__(self, problem: Conv2d | Matmul, isa: Isa, epilogue: Epilogue) -> Cut | None:
        """The cut to compile, or None where there is nothing to choose."""
        choices = cuts(problem, isa)[: self._most]
        if len(choices) < 2:
            return None
        key = self._key(problem, isa, epilogue)
        names = [_name(cut) for cut in choices]
        known = self._cache.get(key) or {}
        if not all(name in known for name in names):
            times = self.measure(problem, isa, epilogue, choices)
            known = {**known, **dict(zip(names, times, strict=True))}
            self._cache.put(key, known)
        return choices[int(np.argmin([known[name] for name in names]))]

    def _key(self, problem: Conv2d | Matmul, isa: Isa, epilogue: Epilogue) -> str:
        operands = "; ".join(f"{dtype} {list(shape)}" for shape, dtype in epilogue.operands)
        end = f"{epilogue.dtype} of {operands}"
        cpu = f"{machine.cpu_name()} ({self._target.attrs['mcpu']})"
        return f"{cpu} | {isa.name} | {self._threads} threads | {problem} | {end}"

    def measure(
        self, problem: Conv2d | Matmul, isa: Isa, epilogue: Epilogue, choices: Sequence[Cut]
    ) -> list[float]:
        """Microseconds of each choice."""
        program, feed, result = _program(problem, isa, epilogue, choices)
        clock = np.zeros((ROUNDS, len(choices) + 1), np.int64)
        with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
            write_library([program], main([program]), self._target, Path(folder))
            library = Library(Path(folder, LIBRARY))
            for times in (*clock[:WARM_UP], *clock):
                library.run(0, [feed, result], self._threads, times)
        spent = np.quantile(np.diff(clock), QUANTILE, axis=0)
        return [float(round(nanoseconds / 1e3, 2)) for nanoseconds in spent]


def _name(cut: Cut) -> str:
    rows, cols = cut.tile
    return f"{rows}x{cols}x{cut.vectors}" + (f" of {cut.tile_rows}" if cut.tile_rows else "")


def _program(
    problem: Conv2d | Matmul, isa: Isa, epilogue: Epilogue, choices: Sequence[Cut]
) -> tuple[Program, np.ndarray, np.ndarray]:
    """A program that calls the product once with each cut; its input and output."""
    rng = np.random.default_rng(0)
    x = Input(TensorType(problem.x_dtype, problem.x_shape), name="x")
    y = Input(TensorType(epilogue.dtype, problem.out_shape), name="y")
    bound = np.iinfo(problem.x_dtype)
    feed = rng.integers(bound.min, bound.max, problem.x_shape, problem.x_dtype, endpoint=True)
    outputs = problem.out_shape[-1]
    if isinstance(problem, Matmul):
        shape: tuple[int, ...] = (problem.x_shape[-1], outputs)
    else:
        shape = (outputs, problem.x_shape[3] // problem.groups, *problem.kernel)
    weight = rng.integers(-127, 127, shape, np.int8)
    bias = np.zeros(outputs, np.int32)
    operands = [np.ones(shape, dtype) for shape, dtype in epilogue.operands]
    kernels, calls = [], []
    for i, cut in enumerate(choices):
        function = build(problem, isa, epilogue, cut=cut)
        kernels.append(Kernel(f"qc_{i}", function, Products.name))
        packed = pack(problem, isa, weight, bias, cut)
        calls.append(Call(kernels[-1], (x, *packed, *operands), y))
    program = Program(Graph((x,), {"x": x}, "tuning"), tuple(kernels), tuple(calls), {}, (y,))
    return program, feed, np.empty(problem.out_shape, epilogue.dtype)
