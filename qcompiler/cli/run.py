"""`qcompile run LIB`: feed arrays to a compiled library."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qcompiler.cli.arguments import check_writable
from qcompiler.cli.boundary import guarded
from qcompiler.errors import FileError, ShapeError

if TYPE_CHECKING:
    import numpy as np

    from qcompiler.calibrate import Feed
    from qcompiler.metadata import Batch, Lengths, Value


@guarded
def run_command(
    library: Annotated[
        Path, typer.Argument(metavar="LIB", help="Compiled library.", show_default=False)
    ],
    source: Annotated[
        Path,
        typer.Option(
            "-i",
            "--input",
            metavar="FILE.npz",
            show_default=False,
            help="Arrays by input name. More samples than the model's batch, or one more "
            "dimension in front, make several runs.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.npz",
            show_default=False,
            help="Gets the arrays by output name, those of all runs stacked.",
        ),
    ],
    threads: Annotated[
        int | None,
        typer.Option(min=1, show_default=False, help="By default what LIB says, else all cores."),
    ] = None,
    verbose: Annotated[
        int,
        typer.Option(
            "-v", "--verbose", count=True, show_default=False, help="-vv: tracebacks of errors."
        ),
    ] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing.")] = False,
) -> None:
    """Run a compiled library on arrays and store what it returns.

    One with a state remembers it from each run to the next.
    """
    check_writable(output, source, library)
    from qcompiler.artifact import load

    model = load(library, threads)
    batch, kept = model.metadata.batch, model.metadata.programs[0].states
    states = {model.inputs[x].name for x, _ in kept}
    inputs = _as_long(_samples(model.inputs, batch), model.metadata.lengths, source)
    fed = [v for v in inputs if v.name not in states]
    stacked, feeds = _feeds(source, fed)
    if batch is not None and not stacked and not states:
        feeds = _together(feeds, model.inputs, batch)
    call = model.session() if states else model
    runs, seconds = [], []
    for feed in feeds:
        start = time.perf_counter()
        runs.append(call(feed))
        seconds.append(time.perf_counter() - start)
    names = [v.name for v in model.outputs]
    results = {name: [run[name] for run in runs] for name in names if name in runs[0]}
    if batch is not None and not stacked:
        axes = dict(zip(names, batch.outputs, strict=True))
        arrays = {name: _behind(found, axes[name]) for name, found in results.items()}
    else:
        first = next((v.type.shape[0] for v in model.inputs if v.type.shape), None)
        size = None if stacked else first
        arrays = {name: _joined(found, size) for name, found in results.items()}
    _save(output, arrays)
    if quiet:
        return
    for name, array in arrays.items():
        typer.echo(f"{name}: {array.dtype}[{'x'.join(map(str, array.shape))}]")
    middle = sorted(seconds)[len(seconds) // 2]
    typer.echo(f"{len(runs)} runs in {sum(seconds):.3f} s, median {1e3 * middle:.3f} ms")
    typer.echo(f"output  {output}")


def _samples(values: Sequence[Value], batch: Batch | None) -> Sequence[Value]:
    """The inputs for one sample."""
    if batch is None:
        return values
    return [
        dataclasses.replace(v, type=batch.resized(v.type, axis, 1))
        for v, axis in zip(values, batch.inputs, strict=True)
    ]


def _as_long(values: Sequence[Value], lengths: Lengths | None, path: Path) -> Sequence[Value]:
    """The inputs for sequences as long as those of the file."""
    if lengths is None or not path.is_file():
        return values
    from qcompiler.calibrate.columns import headers

    found = headers(path)
    result = []
    for v, axis in zip(values, lengths.inputs, strict=True):
        shape = v.type.shape
        if axis is not None and v.name in found:
            given = found[v.name].shape[axis - len(shape)]
            shape = (*shape[:axis], given, *shape[axis + 1 :])
        result.append(dataclasses.replace(v, type=v.type.with_shape(shape)))
    return result


def _together(feeds: Iterator[Feed], values: Sequence[Value], batch: Batch) -> Iterator[Feed]:
    """As many samples in each feed as the largest program takes."""
    import numpy as np

    while some := list(itertools.islice(feeds, batch.sizes[-1])):
        yield {
            v.name: some[0][v.name]
            if axis is None
            else np.concatenate([feed[v.name] for feed in some], axis)
            for v, axis in zip(values, batch.inputs, strict=True)
        }


def _feeds(path: Path, values: Sequence[Value]) -> tuple[bool, Iterator[Feed]]:
    """Whether the arrays have one more dimension for the runs, and one feed per run."""
    from qcompiler.calibrate import samples
    from qcompiler.calibrate.columns import headers
    from qcompiler.calibrate.feeds import model_inputs, select

    if not path.is_file() or path.suffix.lower() not in (".npz", ".npy"):
        raise FileError(f"{path}: expected an existing .npz file of arrays by input name")
    shapes = {v.name: v.type.shape for v in values}
    declared = {v.name: (v.type.dtype, v.type.shape) for v in values}
    wanted = model_inputs(declared)
    found = select(headers(path), wanted, str(path))
    stacked = all(found[name].shape[1:] == shape for name, shape in shapes.items())
    if stacked:
        # A run is a sample then, and a batch is one run.
        declared = {v.name: (v.type.dtype, (1, *v.type.shape)) for v in values}
    for i in () if stacked else wanted:
        shape = found[i.name].shape
        number = shape[0] if len(shape) == len(i.shape) else 1
        if left := number % i.batch:
            raise ShapeError(
                f"{path}: {number} samples for input '{i.name}' are no multiple of the model's "
                f"batch of {i.batch}: leave {left} out or add {i.batch - left}"
            )
    feeds = samples(path, declared)
    return stacked, ({name: x.reshape(shapes[name]) for name, x in feed.items()} for feed in feeds)


def _joined(results: Sequence[np.ndarray], batch: int | None) -> np.ndarray:
    """The results of all runs: batches behind one another, anything else stacked."""
    import numpy as np

    first = results[0]
    if batch is not None and first.ndim and first.shape[0] == batch:
        return np.concatenate(results)
    return np.stack(results)


def _behind(results: Sequence[np.ndarray], axis: int | None) -> np.ndarray:
    """The samples of all runs along their axis; of a result that all share, the first."""
    import numpy as np

    return results[0] if axis is None else np.concatenate(results, axis)


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    import numpy as np

    from qcompiler.backends.onnx import widened
    from qcompiler.files import atomic_path

    with atomic_path(path) as temporary, temporary.open("wb") as file:
        # Files of numpy cannot hold bfloat16, but float32 holds its values.
        np.savez(file, **widened(arrays))  # type: ignore[arg-type]  # numpy declares a keyword of its own
