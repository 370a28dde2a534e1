"""The way in for ONNX models: files, bytes, `onnx.ModelProto` and `onnx_ir.Model`."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir
from numpy.typing import ArrayLike

from qcompiler.errors import ModelError, QcompilerError, UnsupportedError
from qcompiler.frontends import (  # noqa: F401
    onnx_activation,
    onnx_attention,
    onnx_contrib_attention,
    onnx_contrib_linear,
    onnx_contrib_normalization,
    onnx_conv,
    onnx_conv_transpose,
    onnx_einsum,
    onnx_elementwise,
    onnx_gather,
    onnx_integer,
    onnx_linear,
    onnx_linear_attention,
    onnx_logic,
    onnx_normalization,
    onnx_pad,
    onnx_pool,
    onnx_power,
    onnx_qlinear,
    onnx_quantize,
    onnx_quotient,
    onnx_recurrent,
    onnx_reduce,
    onnx_regions,
    onnx_reshape,
    onnx_resize,
    onnx_rotary,
    onnx_sample,
    onnx_scan,
    onnx_scatter,
    onnx_sequence,
    onnx_signal,
    onnx_slice,
    onnx_sort,
    onnx_triangle,
    onnx_winml,
)
from qcompiler.frontends.onnx_functions import check_functions
from qcompiler.frontends.onnx_model import Source, label_of, load, printable
from qcompiler.frontends.onnx_quantize import warn_of_blocks
from qcompiler.frontends.onnx_walk import Walk
from qcompiler.graph import Graph

OLDEST, NEWEST = 7, 28  # opsets whose operator definitions the importers follow
MANY = 1 << 24  # elements of weights whose copies are not left to the collector's own timing


def import_onnx(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    input_values: Mapping[str, ArrayLike] | None = None,
    length: int | None = None,
) -> Graph:
    """Import a float ONNX model into the real language, in float32 and with static shapes.

    Half, bfloat16 and double become float32 behind the inputs, and float32 becomes them in front of
    the outputs.  Values keep their ONNX names; `sources` of an op are
    the names of the nodes that it comes from (`<op_type>:<first output>` for unnamed ones).

    A model that ends in a choice of boxes (non-maximum suppression) is imported up to it, with what
    it chooses from as outputs; a `LeftOutWarning` names the nodes that are left out.

    Args:
        model: A path, serialized bytes, or a model in memory, which is not modified.
        input_shapes: Input name → shape, for inputs with symbolic dimensions.  A first dimension
            that counts samples may stay open: the graph is for one sample then, and its
            `open_batch` says so.
        input_values: Input name → value, for inputs that become constants: a number fills them.
        length: Of sequences: the size of the only dimension that is open besides the first.

    Raises:
        FileError: the file is missing, unreadable or no ONNX model.
        ModelError: the model is damaged or contradicts itself.
        ShapeError: a dimension is not fixed, or shapes do not fit together.
        UnsupportedError: the model uses what has no importer; all of it is listed.
        UsageError: `input_shapes` or `input_values` names an input that does not exist, or the
            value does not fit.
    """
    try:
        source = load(model)
        _check_opset(source)
        check_functions(source.model)
        walk = Walk(source, input_shapes or {}, input_values or {}, length)
        graph = walk.graph()
        warn_of_blocks(source.model, graph)
    except QcompilerError as error:
        raise type(error)(printable(f"{label_of(model)}: {error}")) from None
    large = walk.loaded > MANY
    del source, walk
    if large:  # the file's own copy of the weights hangs on the cyclic graph of onnx_ir
        gc.collect()
    return graph


def _check_opset(source: Source) -> None:
    newest = min(NEWEST, onnx.defs.onnx_opset_version())
    if (opset := source.opset) is None:
        nodes = [n for n in source.model.graph if n.domain not in ("", "ai.onnx")]
        if others := sorted({f"{n.domain}.{n.op_type}" for n in nodes}):
            raise UnsupportedError(f"operators that are not supported: {', '.join(others)}")
        raise ModelError("declares no opset of the standard operators")
    if not OLDEST <= opset <= newest:
        raise UnsupportedError(
            f"opset {opset}: expected {OLDEST} to {newest}; convert the model with "
            "onnx.version_converter"
        )
