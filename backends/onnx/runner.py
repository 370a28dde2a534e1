"""Models in ONNX Runtime: for calibration, and for reports on what quantization costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx

from qcompiler.backends.onnx.bfloat16 import widened
from qcompiler.errors import ModelError
from qcompiler.host import cores

Feeds = Mapping[str, np.ndarray]


def runner(
    model: onnx.ModelProto,
    weights: Mapping[str, np.ndarray],
    *,
    threads: int | None = None,
    prepacked: bool = True,
) -> Callable[[Feeds], list[Any]]:
    """The model as a function from inputs by name to outputs in order.

    Args:
        model: Under 2 GB.
        weights: Initializers by name whose data the model says to be external.
        threads: None takes the cores that this process may use.
        prepacked: Whether ONNX Runtime may copy weights into a layout that suits it.

    Raises:
        ModelError: ONNX Runtime cannot load the model or, when called, run it.
    """
    import onnxruntime  # takes longer than all of qcompiler, of which most runs no model

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads or cores()
    settings.log_severity_level = 3
    # Between two runs numpy looks at the values; threads that wait busily would be in its way.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Folds constants, which halves the time of exported transformers; the higher levels fuse
    # across whatever is not an output, so that roundings would depend on what is looked at.
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    if weights:
        if not prepacked:
            settings.add_session_config_entry("session.disable_prepacking", "1")
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        settings.add_external_initializers(list(weights), values)
    content = model.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(content, settings, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no other common base
        raise ModelError(
            f"ONNX Runtime cannot load the model ({_line(error)}): check it with onnx.checker"
        ) from error

    def run(feeds: Feeds) -> list[Any]:
        try:
            return list(session.run(None, widened(feeds)))
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime cannot run the model on a sample ({_line(error)}): check that both "
                "belong together"
            ) from error

    return run


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
