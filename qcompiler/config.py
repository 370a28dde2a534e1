"""What a user can choose about quantization: dataclasses here, YAML on the command line.

activations: uint8
weights: int8
residuals: int16
method: mse
softmax: log2
softmax_bits: 4
rules:
  - pattern: "*/layer4/*"
    method: percentile
  - pattern: "head"
    skip: true
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from qcompiler.calibrate import METHODS
from qcompiler.errors import FileError, QcompilerError, UsageError
from qcompiler.graph import Op
from qcompiler.types import Storage

ROUNDING = ("nearest", "balanced", "gptq")
SOFTMAX = ("table", "shift", "log2")
GELU = ("table", "shift")
NORMALIZATION = ("newton", "i-vit")
PRESETS = ("default", "i-vit")
WIDE = "int16"
"""The one storage of activations that has more than 8 bits."""


@dataclass(frozen=True)
class Rule:
    """Overrides for the values and nodes whose name matches a pattern; later rules win.

    What the rule of a value says counts for the value, that of a node (its ONNX node) for what the
    node does: `weights` and `rounding` are those of a product, `softmax…` those of a softmax.

    Attributes:
        pattern: Shell pattern (`*`, `?`, `[...]`) on value names and ONNX node names.
        skip: Keep the node in float.
        others: As in `QuantizationConfig`; None leaves a choice as it is.
    """

    pattern: str
    skip: bool | None = None
    activations: str | None = None
    weights: str | None = None
    residuals: str | None = None
    outputs: str | None = None
    table_scales: int | None = None
    rounding: str | None = None
    method: str | None = None
    softmax: str | None = None
    softmax_bits: int | None = None
    softmax_base: float | str | None = None
    gelu: str | None = None
    normalization: str | None = None


@dataclass(frozen=True)
class QuantizationConfig:
    """Which integers represent what.

    Attributes:
        activations: Storage of operands of products, tables and pools (unsigned: asymmetric).
            "int16": products with weights read 16 bits, as two products of 8 (twice the work), and
            tables have 2^16 entries; softmax and products of two values keep 8.
        weights: Storage of weights, symmetric per output channel.
        residuals: Storage of values that sums add to: full 8-bit residual sums ruin transformers.
        outputs: Storage of the model's outputs and of operands of ops that stay in float; 24 bits
            convert to float32 exactly.
        table_scales: How many scales, powers of two apart, the channels in front of a table may
            have; 1 is one scale per tensor.
        rounding: How weights are rounded: "nearest", "balanced" (errors cancel in each kernel and
            output channel, without data: SQuant) or "gptq" (error feedback on real inputs); None
            leaves it to the pass: to nearest in the default order, "gptq" where the user names it.
        method: How the range of an activation is chosen from its statistics.
        softmax: Exponentials by "table", by shifts ("shift": I-ViT's Shiftmax), or by a table of
            powers of a base ("log2": FQ-ViT's log2 quantization of attention, and its successors).
        softmax_bits: Of a "log2" weight: 4 or 8.
        softmax_base: Of "log2": a number above 1, "sqrt2" (RepQ-ViT) or "adaptive" (AdaLog).
        gelu: "table" of 256 entries, or "shift" (I-ViT's ShiftGELU).
        normalization: "newton" for the inverse root, or "i-vit" for I-LayerNorm's integer root.
        rules: Overrides by name.
    """

    activations: str = "uint8"
    weights: str = "int8"
    residuals: str = "int16"
    outputs: str = "int24"
    table_scales: int = 8
    rounding: str | None = None
    method: str = "min-max"
    softmax: str = "table"
    softmax_bits: int = 8
    softmax_base: float | str = 2.0
    gelu: str = "table"
    normalization: str = "newton"
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        overrides: tuple[QuantizationConfig | Rule, ...] = (self, *self.rules)
        for item in overrides:
            _check(item)

    @classmethod
    def preset(cls, name: str) -> QuantizationConfig:
        """The choices of a paper throughout.

        "i-vit" (Li & Gu, ICCV 2023): 8-bit symmetric activations by their extremes, weights per
        channel, Shiftmax, ShiftGELU and I-LayerNorm; residual sums stay 16 bits wide.

        Raises:
            UsageError: a name that is neither "default" nor "i-vit".
        """
        _check_choice("preset", name, PRESETS)
        if name == "default":
            return cls()
        return cls(
            activations="int8",
            table_scales=1,
            method="min-max",
            softmax="shift",
            gelu="shift",
            normalization="i-vit",
        )

    @property
    def wide_activations(self) -> bool:
        """Whether products and tables read 16 bits."""
        return self.activations == WIDE

    def rule(self, node: Op) -> QuantizationConfig:
        """The configuration for one value: the rules that match its name or sources applied."""
        chosen = self
        for rule in self.rules:
            if matches(rule.pattern, node):
                changes = {
                    f.name: value
                    for f in dataclasses.fields(Rule)
                    if f.name not in ("pattern", "skip")
                    and (value := getattr(rule, f.name)) is not None
                }
                chosen = dataclasses.replace(chosen, **changes)
        return chosen

    def skips(self, node: Op) -> bool:
        """Whether the node is to stay in float."""
        skip = False
        for rule in self.rules:
            if rule.skip is not None and matches(rule.pattern, node):
                skip = rule.skip
        return skip


def _check(item: QuantizationConfig | Rule) -> None:
    if item.activations != WIDE:
        _check_storage("activations", item.activations, 8)
    _check_storage("weights", item.weights, 8)
    if item.weights is not None and not Storage(item.weights).signed:
        raise UsageError(f"weights: expected int2…int8, found {item.weights!r}")
    _check_storage("residuals", item.residuals, 32)
    _check_storage("outputs", item.outputs, 32)
    if item.table_scales is not None and item.table_scales < 1:
        raise UsageError(f"table_scales: expected 1 or more, found {item.table_scales}")
    _check_choice("rounding", item.rounding, ROUNDING)
    if item.method is not None and item.method not in METHODS:
        raise UsageError(f"method {item.method!r}: expected one of {_list(METHODS)}")
    _check_choice("softmax", item.softmax, SOFTMAX)
    if item.softmax_bits not in (None, 4, 8):
        raise UsageError(f"softmax_bits: expected 4 or 8, found {item.softmax_bits!r}")
    base = item.softmax_base
    if base not in (None, "sqrt2", "adaptive") and (isinstance(base, str) or not 1 < base <= 16):
        raise UsageError(
            f"softmax_base: expected a number of 1 to 16, sqrt2 or adaptive, found {base!r}"
        )
    _check_choice("gelu", item.gelu, GELU)
    _check_choice("normalization", item.normalization, NORMALIZATION)


def matches(pattern: str, node: Op) -> bool:
    """Whether a shell pattern matches the value's name or one of its ONNX nodes."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in (node.name or "", *node.sources))


def load_config(path: str | os.PathLike[str]) -> QuantizationConfig:
    """Read a configuration from YAML.

    Raises:
        FileError: the file cannot be read or is no YAML.
        UsageError: a key or a value that does not exist.
    """
    try:
        data = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise FileError(f"cannot read configuration {path}: {reason}") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise FileError(f"configuration {path}, line {line}: not valid YAML") from None
    except RecursionError:
        raise FileError(f"configuration {path}: nested too deeply") from None
    try:
        return config_from(data or {})
    except QcompilerError as error:
        raise type(error)(f"configuration {path}: {error}") from None


def config_from(data: Any) -> QuantizationConfig:
    """A configuration from plain mappings and lists.

    Raises:
        UsageError: a key or a value that does not exist.
    """
    values = _fields(data, QuantizationConfig, "")
    rules = values.pop("rules", [])
    if not isinstance(rules, list):
        raise UsageError(f"rules: expected a list, found {rules!r}")
    made = [_rule(item, i) for i, item in enumerate(rules)]
    return QuantizationConfig(**values, rules=tuple(made))


def _rule(item: Any, index: int) -> Rule:
    values = _fields(item, Rule, f"rules[{index}].")
    if "pattern" not in values:
        raise UsageError(f"rules[{index}]: expected a pattern")
    return Rule(**values)


def _fields(data: Any, kind: type, where: str) -> dict[str, Any]:
    types = get_type_hints(kind)
    names = list(types)
    if not isinstance(data, dict):
        raise UsageError(f"{where or 'top level'}: expected a mapping with {_list(names)}")
    for key, value in data.items():
        if key not in names:
            raise UsageError(f"{where}{key}: unknown key, expected one of {_list(names)}")
        wanted = _yaml_types(types[key])
        if type(value) not in wanted:  # true is no number here
            expected = " or ".join(kind.__name__ for kind in wanted)
            raise UsageError(f"{where}{key}: expected {expected}, found {value!r}")
    return dict(data)


def _yaml_types(hint: Any) -> list[type]:
    """What YAML writes for values of a field's type."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    found: list[type] = []
    for kind in kinds:
        if kind is float:
            found.append(int)
        if kind is not NoneType:
            found.append(list if get_origin(kind) is tuple else kind)
    return found


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def _check_choice(field: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise UsageError(f"{field}: expected one of {_list(choices)}, found {value!r}")


def _check_storage(field: str, name: str | None, bits: int) -> None:
    if name is None:
        return
    try:
        found = Storage(name)
    except QcompilerError as error:
        raise UsageError(f"{field}: {error}") from None
    if found.bits > bits:
        raise UsageError(f"{field}: expected at most {bits} bits, found {name!r}")
