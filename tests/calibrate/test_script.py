"""Calibration data from a user's script, whose errors are told as the script's."""

import sys
import textwrap

import numpy as np
import pytest

from qcompiler.calibrate import SampleOptions, samples
from qcompiler.errors import CalibrationError, FileError, UsageError

INPUTS = {"x": ("float32", (1, 2))}


@pytest.fixture
def script(tmp_path):
    def write(text):
        path = tmp_path / "data.py"
        path.write_text(textwrap.dedent(text))
        return path

    return write


@pytest.mark.parametrize(
    "body",
    [
        "yield np.zeros(2); yield np.ones((1, 2))",
        "return [{'x': np.zeros(2)}, {'x': np.ones(2)}]",
        "return np.array([[0, 0], [1, 1]])",
        "return {'x': np.array([[0, 0], [1, 1]])}",
        "return lambda: iter([np.zeros(2), np.ones(2)])",
    ],
)
def test_what_the_function_returns_is_a_source(script, body):
    path = script(f"import numpy as np\ndef feeds():\n    {body}\n")
    feeds = samples(f"{path}:feeds", INPUTS)
    for _ in range(2):
        assert [feed["x"].tolist() for feed in feeds] == [[[0, 0]], [[1, 1]]]
    assert len(list(samples(f"{path}:feeds", INPUTS, options=SampleOptions(1)))) == 1


def test_a_script_may_import_its_neighbours_and_declare_dataclasses(script, tmp_path):
    (tmp_path / "neighbour_of_data.py").write_text("VALUE = 3.0")
    path = script("""
        from __future__ import annotations
        from dataclasses import dataclass
        from neighbour_of_data import VALUE
        @dataclass
        class Options:
            value: float = VALUE
        def feeds():
            return [[[Options().value, 0.0]]]
    """)
    before = list(sys.path)
    assert next(iter(samples(f"{path}:feeds", INPUTS)))["x"].tolist() == [[3, 0]]
    assert sys.path == before


ERRORS = {
    "raises": ("def feeds():\n    raise KeyError('boo')", "data.py, line 2 raised KeyError: 'boo'"),
    "raises later": (
        "import numpy as np\ndef feeds():\n    yield np.zeros(2)\n    1 / 0",
        "data.py, line 4 raised ZeroDivisionError",
    ),
    "raises in iter": (
        "class Data:\n    def __iter__(self):\n        raise OSError('gone')\n"
        "def feeds():\n    return Data()",
        "data.py, line 3 raised OSError: gone",
    ),
    "exits": ("import sys\nsys.exit('bye')", "data.py, line 2 raised SystemExit: bye"),
    "syntax": ("def feeds(:", "data.py, line 1 raised SyntaxError"),
    "import": ("import no_such_module", "line 1 raised ModuleNotFoundError: No module named"),
    "missing": ("def other(): ...", "no function 'feeds'; it has other: give script.py:function"),
    "arguments": ("def feeds(n): ...", "raised TypeError: feeds.* missing 1 required"),
    "nothing": ("def feeds():\n    yield from ()", "no samples at all"),
    "none": ("def feeds(): ...", "calibration data is NoneType"),
    "misfit": ("import numpy\ndef feeds():\n    yield numpy.zeros(3)", r"'x' has shape \[3\]"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(script, name):
    text, message = ERRORS[name]
    path = script(text)
    with pytest.raises(CalibrationError, match=message) as caught:
        list(samples(f"{path}:feeds", INPUTS))
    assert "\n" not in str(caught.value)


def test_files_and_options(script, tmp_path):
    with pytest.raises(FileError, match=r"no script .*absent.py"):
        samples(f"{tmp_path}/absent.py:feeds", INPUTS)
    path = script("import numpy as np\ndef feeds():\n    return np.zeros((4, 2))")
    with pytest.raises(FileError, match=r"unknown kind: .*script.py:function"):
        samples(path, INPUTS)
    with pytest.raises(UsageError, match="leave the seed out"):
        samples(f"{path}:feeds", INPUTS, options=SampleOptions(2, seed=0))
    assert np.array(list(samples(f"{path}:feeds", INPUTS))).size == 4
