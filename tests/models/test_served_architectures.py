"""Which rule serves each op of the public architectures, with fewer layers and their own shapes."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("tvm")

from served import lowered, served

from qcompiler import import_onnx, quantize
from qcompiler.passes import LOWERING, PassManager

sys.path.append(str(Path(__file__).resolve().parents[2] / "models"))

VISION_TRANSFORMER: dict[str, dict[str, object]] = {
    "cpu": {
        "cpu entry": 1,
        "cpu product": 8,
        "cpu normalization": 3,
        "cpu attention": 1,
        "generic": "concat, dequantize, requantize, slice",
    },
    "cuda": {
        "cuda product": 8,
        "cuda elements": 1,
        "cuda rows": 3,
        "cuda attention": 1,
        "generic": "concat, dequantize, quantize_transpose, slice",
    },
}
SERVED: dict[str, dict[str, dict[str, object]]] = {
    "resnet50": {
        "cpu": {
            "cpu entry": 1,
            "cpu product": 21,
            "cpu requantize": 2,
            "generic": "dequantize, max_pool, reduce_sum",
        },
        "cuda": {
            "cuda product": 21,
            "cuda pixels": 2,
            "cuda elements": 2,
            "generic": "dequantize, quantize_pad_transpose",
        },
    },
    "mobilenet_v2": {
        "cpu": {
            "cpu entry": 1,
            "cpu product": 36,
            "cpu depthwise": 17,
            "cpu requantize": 11,
            "generic": "dequantize, reduce_sum",
        },
        "cuda": {
            "cuda product": 36,
            "cuda pixels": 18,
            "cuda elements": 11,
            "generic": "dequantize, quantize_pad_transpose",
        },
    },
    "vit_tiny": VISION_TRANSFORMER,
    "deit_t": VISION_TRANSFORMER,
    "deit_s": VISION_TRANSFORMER,
    "deit_b": VISION_TRANSFORMER,
    "swin_t": {
        "cpu": {
            "cpu entry": 1,
            "cpu product": 35,
            "cpu normalization": 14,
            "cpu attention": 5,
            "generic": "concat, dequantize, normalize_integer_requantize, reduce_sum_requantize, "
            "requantize, slice, transpose",
        },
        "cuda": {
            "cuda product": 35,
            "cuda rows": 15,
            "cuda attention": 5,
            "cuda elements": 4,
            "generic": "concat, dequantize, quantize_transpose, reduce_sum_requantize, slice, "
            "transpose",
        },
    },
    "bert_base": {
        "cpu": {
            "cpu normalization": 3,
            "cpu requantize": 2,
            "cpu product": 8,
            "cpu attention": 1,
            "generic": "dequantize, equal_not, gather, greater_equal_add_select, requantize, slice",
        },
        "cuda": {
            "cuda elements": 6,
            "cuda rows": 3,
            "cuda product": 8,
            "cuda attention": 1,
            "generic": "dequantize, gather, slice",
        },
    },
}
"""Network → device → how many ops a rule serves; what is left to the generic kernel."""

TARGETS = {
    "cpu": ("cpu:haswell", "cpu:cascadelake", "cpu:sapphirerapids"),  # AVX2, VNNI, AMX
    "cuda": ("cuda:sm_80",),
}
LAYERS: dict[str, dict[str, object]] = {
    "resnet50": {"depths": [2, 1, 1, 1]},
    "mobilenet_v2": {},
    "swin_t": {"depths": [2, 1, 1, 1]},
}
"""What is left of a network, if not its first layer."""


@pytest.mark.parametrize("name", SERVED)
def test_rules_that_serve(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import architectures
    from export import export_model

    whole = architectures.ARCHITECTURES[name]
    config = whole.config()
    for field, value in LAYERS.get(name, {"num_hidden_layers": 1}).items():
        setattr(config, field, value)
    shallow = dataclasses.replace(whole, config=lambda: config)
    monkeypatch.setitem(architectures.ARCHITECTURES, name, shallow)
    inputs = architectures.example_inputs(name)
    export_model(architectures.build(name), inputs, tmp_path / "model.onnx")
    samples = {key: value.numpy() for key, value in inputs.items()}
    graph = PassManager(LOWERING)(quantize(import_onnx(tmp_path / "model.onnx"), [samples]))
    found = {
        device: [served(lowered(graph, target)) for target in targets]
        for device, targets in TARGETS.items()
    }
    expected = SERVED[name]
    assert found == {device: [expected[device]] * len(t) for device, t in TARGETS.items()}


def test_no_architecture_is_forgotten() -> None:
    import architectures

    assert set(SERVED) == set(architectures.ARCHITECTURES)
