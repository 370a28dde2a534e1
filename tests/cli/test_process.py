"""The command line as a process: start-up, signals, pipes, and failures that nobody planned."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import pytest

import qcompiler.driver
from qcompiler.cli.boundary import printable

COMMAND = [sys.executable, "-I", "-c", "from qcompiler.cli import main; main()"]


def test_starting_imports_no_part_of_the_compiler():
    program = "import qcompiler.cli, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, check=True)
    modules = set(done.stdout.decode().split())
    assert not {"numpy", "onnx", "onnxruntime", "scipy", "tvm", "qcompiler.graph"} & modules


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_nothing(tiny, tmp_path, number):
    script = tmp_path / "slow.py"
    script.write_text(
        textwrap.dedent(
            """
            import pathlib, time
            def data():
                pathlib.Path("started").touch()
                time.sleep(60)
            """
        )
    )
    model = tiny()
    process = subprocess.Popen(
        [*COMMAND, str(model), "--calib", f"{script}:data"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell's background jobs ignore SIGINT, and what they start inherits that.
        preexec_fn=functools.partial(signal.signal, number, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err == f"qcompile: error: interrupted by {number.name}\n"
    assert out == ""
    left = {p.name for p in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"tiny.onnx", "slow.py", "started"}


def test_reader_that_goes_away():
    process = subprocess.Popen(
        [*COMMAND, "--list-targets"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 1


def test_completion():
    environment = {
        **os.environ,
        "_QCOMPILE_COMPLETE": "complete_bash",
        "COMP_WORDS": "qcompile model.onnx --calib-method m",
        "COMP_CWORD": "3",
    }
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True)
    assert set(done.stdout.split()) == {"min-max", "moving-average", "mse"}


@pytest.fixture
def failing(monkeypatch):
    """Let the compilation raise."""

    def fail(error):
        def work(*_arguments, **_options):
            raise error

        monkeypatch.setattr(qcompiler.driver, "compile_model", work)

    return fail


def test_defect(failing, qcompile, refused, tiny):
    failing(ZeroDivisionError("two\nlines"))
    words = ("bug in qcompiler", "ZeroDivisionError: two lines", "-vv")
    refused(70, tiny(), words=words)
    loud = qcompile(tiny(), "-vv")
    assert loud.code == 70
    assert "Traceback (most recent call last)" in loud.err
    assert loud.err.splitlines()[-1].startswith("qcompile: error: this is a bug")


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (OSError(28, "No space left on device", "/tmp/x"), "/tmp/x: No space"),
        (MemoryError(), "out of memory"),
    ],
)
def test_system_that_refuses(failing, refused, tiny, error, word):
    failing(error)
    refused(74, tiny(), words=(word,))


def test_traceback_of_user_errors_only_when_asked(qcompile):
    assert "Traceback" not in qcompile("gone.onnx", "-v").err
    assert "Traceback" in qcompile("gone.onnx", "-vv").err


def test_control_characters_of_names_are_not_printed(refused):
    assert printable("a\x1b[31m\r\n  b") == "a [31m b"
    refused(3, "a\x1b[31m\nb.onnx", words=("[31m b.onnx",))


def test_warnings_are_shown_once(monkeypatch, qcompile, tiny):
    def work(*_arguments, **_options):
        for _ in range(3):
            warnings.warn("mind the gap", UserWarning, stacklevel=1)
        raise MemoryError

    monkeypatch.setattr(qcompiler.driver, "compile_model", work)
    err = qcompile(tiny()).err
    assert err.splitlines()[0] == "qcompile: warning: mind the gap"
    assert err.count("mind the gap") == 1
