"""From what is typed on the command line to the option dataclasses of the library."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from qcompiler.errors import OutputError, UsageError
from qcompiler.files import atomic_path

if TYPE_CHECKING:
    from qcompiler.calibrate import SampleOptions
    from qcompiler.config import QuantizationConfig
    from qcompiler.passes import Pass

_T = TypeVar("_T")


@dataclass(frozen=True)
class Preprocessing:
    """How images were asked to be preprocessed; None where nothing was said.

    Attributes:
        mean: Such as "0.485,0.456,0.406".
        std: Likewise.
        layout: "auto", "NCHW" or "NHWC".
        resize: "256" or "256x256".
    """

    mean: str | None = None
    std: str | None = None
    layout: str | None = None
    resize: str | None = None


@dataclass(frozen=True)
class Choices:
    """Fields of the configuration that have an option of their own; None where nothing was said.

    Attributes:
        method: Of calibration.
        softmax: Form of softmax.
        gelu: Form of GELU.
    """

    method: str | None = None
    softmax: str | None = None
    gelu: str | None = None


def input_shapes(given: Iterable[str]) -> Mapping[str, tuple[int, ...]] | None:
    """`name:1x3x32x32` → shape by name; None where nothing is given.

    Raises:
        UsageError: another form, or a name given twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in given:
        match = re.fullmatch(r"(.+):(\d+(?:x\d+)*)", text)
        if match is None:
            raise UsageError(f"--input-shape {text!r}: expected name:1x3x32x32")
        if match[1] in shapes:
            raise UsageError(f"--input-shape: input {match[1]!r} is given twice")
        shapes[match[1]] = tuple(int(size) for size in match[2].split("x"))
    return shapes or None


def states(given: Iterable[str]) -> Mapping[str, str] | None:
    """`input=output` → output by input; None where nothing is given.

    Raises:
        UsageError: another form, or an input given twice.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, after = text.partition("=")
        if not (name and equals and after):
            raise UsageError(f"--state {text!r}: expected INPUT=OUTPUT")
        if name in found:
            raise UsageError(f"--state: input {name!r} is given twice")
        found[name] = after
    return found or None


def sizes(option: str, given: str | None) -> tuple[int, ...] | None:
    """`1,4,16` → positive numbers, increasing; None where nothing is given.

    Raises:
        UsageError: another form.
    """
    if given is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,5}(,[1-9]\d{0,5})*", given):
        raise UsageError(f"{option} {given!r}: expected positive numbers, such as 1,4,16")
    return tuple(sorted({int(size) for size in given.split(",")}))


def input_values(given: Iterable[str]) -> Mapping[str, float | list[float]] | None:
    """`name=1`, `name=1,2.5` → value by name; None where nothing is given.

    Raises:
        UsageError: another form, or a name given twice.
    """
    values: dict[str, float | list[float]] = {}
    for text in given:
        name, _, numbers = text.rpartition("=")
        try:
            found = [float(n) if re.search("[.einEIN]", n) else int(n) for n in numbers.split(",")]
        except ValueError:
            found = []
        if not (name and found):
            raise UsageError(f"--input-value {text!r}: expected name=1 or name=1,2.5")
        if name in values:
            raise UsageError(f"--input-value: input {name!r} is given twice")
        values[name] = found if len(found) > 1 else found[0]
    return values or None


def quantization_config(
    path: Path | None, preset: str | None, choices: Choices, skipped: Sequence[str]
) -> QuantizationConfig:
    """The configuration file or preset, or the default, with the command line's words on top.

    Raises:
        FileError: the file cannot be read.
        UsageError: a key or value that does not exist, or both a file and a preset.
    """
    from qcompiler.config import QuantizationConfig, Rule, load_config

    if path is not None and preset is not None:
        raise UsageError("--preset: not together with --config; choose one")
    config = QuantizationConfig.preset(preset or "default") if path is None else load_config(path)
    found = {f.name: getattr(choices, f.name) for f in dataclasses.fields(choices)}
    given = {name: value for name, value in found.items() if value is not None}
    config = dataclasses.replace(config, **given)
    rules = tuple(Rule(pattern, skip=True) for pattern in skipped)
    return dataclasses.replace(config, rules=(*config.rules, *rules))


def sample_options(
    source: str | None, number: int | None, preprocessing: Preprocessing
) -> SampleOptions:
    """Which samples are used, and how images become inputs.

    Raises:
        UsageError: preprocessing for what is no folder of images, or a value of another form.
        CalibrationError: a value that does not suit images.
    """
    from qcompiler.calibrate import ImageOptions, SampleOptions
    from qcompiler.evidence import DEFAULT_SAMPLES

    found = {f.name: getattr(preprocessing, f.name) for f in dataclasses.fields(preprocessing)}
    asked = [f"--{name}" for name, value in found.items() if value is not None]
    if asked and not (source and Path(source).is_dir()):
        raise UsageError(
            f"{', '.join(asked)}: only for --calib with a folder of images; "
            "arrays and scripts give samples that are preprocessed already"
        )
    image = ImageOptions()
    if preprocessing.mean is not None:
        image = dataclasses.replace(image, mean=_floats("--mean", preprocessing.mean))
    if preprocessing.std is not None:
        image = dataclasses.replace(image, std=_floats("--std", preprocessing.std))
    if preprocessing.layout is not None:
        image = dataclasses.replace(image, layout=preprocessing.layout)
    if preprocessing.resize is not None:
        image = dataclasses.replace(image, resize=_resize(preprocessing.resize))
    return SampleOptions(num_samples=number or DEFAULT_SAMPLES, image=image)


def _floats(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text!r}: expected numbers like 0.485,0.456,0.406") from None


def _resize(text: str) -> int | tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if match is None:
        raise UsageError(f"--resize {text!r}: expected 256 (shorter side) or 256x256")
    return int(match[1]) if match[2] is None else (int(match[1]), int(match[2]))


def pass_list(text: str | None, disabled: Sequence[str]) -> tuple[Pass, ...]:
    """The passes from the real graph to the integer one, less the disabled ones.

    Raises:
        UsageError: a pass or option that does not exist.
    """
    from qcompiler.passes import DEFAULT, known_passes, parse_pass, without

    passes = DEFAULT
    if text is not None:
        known = known_passes()
        passes = tuple(parse_pass(item, known) for item in re.split(r",(?![^{]*\})", text))
        for step in passes:
            _check_values(step)
    return without(passes, disabled)


def _check_values(step: Pass) -> None:
    """Refuse option values of another type than their default's."""
    for field in dataclasses.fields(step):
        if field.default in (None, dataclasses.MISSING):
            continue
        found, expected = getattr(step, field.name), type(field.default)
        if type(found) not in ((int, float) if expected is float else (expected,)):
            raise UsageError(
                f"--passes {step.title()}: {field.name}={found!r}: expected {expected.__name__}"
            )


class _ProbedError(Exception):
    """Leaves `atomic_path` without replacing the file."""


def check_writable(path: Path, *sources: Path) -> None:
    """Find out before the work whether its result can be written.

    Raises:
        OutputError: it cannot, or it would replace one of the sources.
    """
    for source in sources:
        if path.exists() and source.exists() and path.samefile(source):
            raise OutputError(f"{path}: is what is read: name another output with -o")
    try:
        with atomic_path(path):
            raise _ProbedError
    except _ProbedError:
        return
