"""Damaged files through the command line, each in a process with little memory and little time.

Whatever a file holds, the command ends with a documented exit code and one line, and leaves a whole
file or none.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from fuzz_check import Outcome
from fuzz_files import Files, damage

MEMORY = 3 << 30
CODES = frozenset({0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
"""Exit codes that a damaged file may lead to: no defect (70), and no lack of memory (74)."""

_LINE = re.compile(r"qcompile: (error|warning): [^\n]{1,2000}\n")


def damage_job(seed: int, library: Path, limit: float, keep: Path | None) -> Outcome:
    """Write the damaged files of a seed, run the command, and judge how it ended.

    Args:
        seed: Of the damage.
        library: A sound library, which some seeds damage.
        limit: Seconds of processor time.
        keep: Where the files of a failure go.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, streams = Path(scratch, "work"), Path(scratch, "streams")
        folder.mkdir()
        streams.mkdir()
        try:
            files = damage(seed, folder, library)
        except Exception as error:  # of a generator
            return Outcome("crash", f"generator: {type(error).__name__}", str(error)[:300])
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        started = time.monotonic()
        status = _run(files, folder, streams, limit)
        outcome = _judge(files, folder, streams, status, before, time.monotonic() - started)
        if outcome.failed and keep is not None:
            shutil.copytree(folder, keep / f"damage{seed}", dirs_exist_ok=True)
        return outcome


def _run(files: Files, folder: Path, streams: Path, limit: float) -> int:
    """The command in a forked process: its wait status."""
    import qcompiler.backends.tvm
    import qcompiler.driver  # noqa: F401  # once, and not in every child
    from qcompiler.cli import app

    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, 1 << 28))
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(8 * limit))
        os.chdir(folder)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(streams / name, os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        code = 99
        try:
            app([*files.command, *files.quiet], prog_name="qcompile")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 98
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    finally:
        os._exit(97)


def _judge(
    files: Files,
    folder: Path,
    streams: Path,
    status: int,
    before: dict[str, bytes],
    seconds: float,
) -> Outcome:
    error = (streams / "err").read_text(errors="replace") if (streams / "err").exists() else ""
    what = " ".join(files.command[:2])
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name
        kind = "timeout" if number in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL) else "died"
        return Outcome(kind, f"{files.kind}: {name}", f"{what}: {name} after {seconds:.0f} s")
    code = os.WEXITSTATUS(status)
    text = re.sub(r"'[^']*'|\d+", "#", error.strip().rpartition("error: ")[2])[:90]
    if code not in CODES:
        return Outcome(
            "crash", f"{files.kind}: exit {code}: {text}", f"{what}: {error.strip()[-300:]}"
        )
    lines = error.splitlines(keepends=True)
    if code and not any(x.startswith("qcompile: error: ") for x in lines):
        return Outcome("refusal", f"{files.kind}: exit {code} without a line", error[-300:])
    panel = "NO CALIBRATION DATA" in error
    strange = [x for x in lines if not _LINE.fullmatch(x) and not (panel and x[0] in "╭│╰")]
    errors = sum(x.startswith("qcompile: error: ") for x in lines)
    if strange or errors > 1:
        return Outcome("refusal", f"{files.kind}: more than one line", f"{what}: {error[-300:]!r}")
    after = {p.name: p.read_bytes() for p in folder.iterdir()}
    new = set(after) - set(before)
    if any(after.get(name) != data for name, data in before.items()):
        return Outcome("died", f"{files.kind}: an input was changed", what)
    if new != ({files.output} if code == 0 and files.output else set()):
        return Outcome(
            "died", f"{files.kind}: partial files", f"{what}: exit {code}, {sorted(new)}"
        )
    return Outcome("exit", f"{code} ({files.kind})", text)
