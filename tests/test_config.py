"""Configurations from YAML: every field, for all and by rule."""

from __future__ import annotations

import dataclasses

import pytest

from qcompiler import QuantizationConfig, Rule, load_config
from qcompiler.config import config_from
from qcompiler.errors import UsageError
from qcompiler.graph import Input
from qcompiler.types import FLOAT, TensorType

OTHER = {
    "activations": "uint6",
    "weights": "int4",
    "residuals": "int12",
    "outputs": "int16",
    "table_scales": 3,
    "rounding": "balanced",
    "method": "mse",
    "softmax": "log2",
    "softmax_bits": 4,
    "softmax_base": 1.5,
    "gelu": "shift",
    "normalization": "i-vit",
}


def test_every_field_can_be_set_in_a_file(tmp_path) -> None:
    names = {f.name for f in dataclasses.fields(QuantizationConfig)} - {"rules"}
    assert names == set(OTHER)
    path = tmp_path / "config.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in OTHER.items()), "utf-8")
    assert load_config(path) == QuantizationConfig(**OTHER)


@pytest.mark.parametrize("field", OTHER)
def test_every_field_can_be_set_by_rule(field: str) -> None:
    config = config_from({"rules": [{"pattern": "in*", field: OTHER[field]}]})
    assert config.rules == (Rule("in*", **{field: OTHER[field]}),)
    inside, outside = (Input(TensorType(FLOAT, (1,)), name=name) for name in ("inside", "outside"))
    assert getattr(config.rule(inside), field) == OTHER[field]
    assert config.rule(outside) == config
    assert getattr(QuantizationConfig(), field) != OTHER[field]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("table_scales", True, "expected int, found True"),
        ("table_scales", 0, "expected 1 or more, found 0"),
        ("residuals", 16, "expected str, found 16"),
        ("residuals", "int40", "residuals: "),
        ("outputs", "int33", "outputs: "),
        ("rounding", "up", "rounding: expected one of nearest, balanced, gptq, found 'up'"),
        ("softmax_bits", 5, "expected 4 or 8, found 5"),
        ("softmax_base", [2], "expected int or float or str, found"),
        ("softmax_base", 1, "a number of 1 to 16"),
        ("method", None, "method: expected str, found None"),
    ],
)
def test_values_that_do_not_exist_are_refused_everywhere(field, value, words) -> None:
    for data in ({field: value}, {"rules": [{"pattern": "*", field: value}]}):
        with pytest.raises(UsageError, match=words):
            config_from(data)
