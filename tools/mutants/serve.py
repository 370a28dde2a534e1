"""Running tests on mutants: in a copy of a process that has collected them, or imported anew.

One process collects all tests once; each mutant runs in a fork of it, in which the functions that
the mutant changes get their new code.  What a mutant changes outside of functions runs on import
only: those run in a fork that has not imported qcompiler yet.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.machinery
import io
import os
import resource
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import NoReturn

import pytest
from draw import Mutant

MEMORY = 8 << 30
FIRST = 4  # files of tests that are collected first for a mutant of what runs on import
KILLED, SURVIVED, TIMEOUT, IMPORTED = "killed", "survived", "timeout", "imported"

Result = tuple[str, str]
"""Outcome, and the test that killed."""

Functions = dict[tuple[str, int, str], list[FunctionType]]
"""Living functions by file, first line and name."""


@dataclass(frozen=True)
class Job:
    """A mutant, the tests to run for it in their order, and the seconds that they may take."""

    mutant: Mutant
    tests: list[str]
    limit: float


class Tests:
    """Pytest's side: collects, then hands the items to `loop`, and tells of the first failure."""

    def __init__(self, loop: Callable[[pytest.Session], None]) -> None:
        self.loop = loop
        self.failed = -1
        self.collecting = True

    def pytest_collection(self) -> None:
        """The same examples for every mutant, none written, and no search for smaller ones."""
        from hypothesis import Phase, settings

        phases = (Phase.explicit, Phase.generate)
        quick = settings(deadline=None, derandomize=True, database=None, phases=phases)
        settings.register_profile("mutants", quick)
        settings.load_profile("mutants")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that does not import fails."""
        if report.failed:
            self._tell(f"{report.nodeid} does not import")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The first failure ends a fork."""
        if report.failed:
            self._tell(report.nodeid)

    def _tell(self, test: str) -> None:
        if self.failed >= 0:
            os.write(self.failed, test.encode())
            os._exit(1)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own."""
        self.loop(session)
        return True


def run(session: pytest.Session, names: Sequence[str]) -> None:
    """Run these of the session's tests."""
    by_name = {item.nodeid: item for item in session.items}
    items = [by_name[name] for name in names if name in by_name]
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)


def collected(root: Path, jobs: Sequence[Job], report: Callable[[Mutant, Result], None]) -> None:
    """Judge mutants in forks of a process that collects all their tests; `imported` left undone.

    A test that fails without the mutant too, or with it only behind other tests, kills nothing.
    """
    sound: dict[str, bool] = {}

    def judge(job: Job, functions: Functions) -> Result:
        changes = _changed(root, job.mutant, functions)
        if changes is None:
            return IMPORTED, ""

        def child(tests: list[str], changed: bool = True) -> Callable[[], None]:
            def work() -> None:
                for function, code in changes if changed else ():
                    function.__code__ = code
                run(session_of[0], tests)

            return work

        tests = job.tests
        while True:
            tests = [test for test in tests if sound.get(test, True)]
            outcome, test = _forked(child(tests), plugin, job.limit)
            if outcome != KILLED or not test:
                return outcome, test
            # Does it fail alone, and because of the change?
            if test not in sound:
                sound[test] = _forked(child([test], False), plugin, job.limit)[0] == SURVIVED
            if sound[test] and _forked(child([test]), plugin, job.limit)[0] != SURVIVED:
                return outcome, test
            tests = [other for other in tests if other != test]

    def loop(session: pytest.Session) -> None:
        session_of.append(session)
        functions = _functions(root)
        gc.collect()
        gc.freeze()
        for job in jobs:
            report(job.mutant, judge(job, functions))

    session_of: list[pytest.Session] = []
    plugin = Tests(loop)
    files = sorted({test.split("::")[0] for job in jobs for test in job.tests})
    _pytest(root, files, plugin)


def imported(root: Path, job: Job) -> Result:
    """Judge a mutant in forks of this process, which must not have imported qcompiler.

    The files with the fewest tests of the job's come first: they are collected anew.
    """
    assert "qcompiler" not in sys.modules
    path = str(root / job.mutant.file)
    source = job.mutant.source((root / job.mutant.file).read_text())
    loader = importlib.machinery.SourceFileLoader
    get_code = loader.get_code

    def mutated(self: importlib.machinery.SourceFileLoader, name: str) -> CodeType | None:
        if self.path == path:
            return compile(source, path, "exec", dont_inherit=True)
        return get_code(self, name)

    counts = Counter(test.split("::")[0] for test in job.tests)
    files = sorted(counts, key=lambda x: counts[x])
    for part in (files[:FIRST], files[FIRST:]):
        tests = [test for test in job.tests if test.split("::")[0] in part]
        plugin = Tests(lambda session, tests=tests: run(session, tests))

        def child(part: list[str] = part, plugin: Tests = plugin) -> None:
            loader.get_code = mutated  # type: ignore[method-assign]
            _pytest(root, part, plugin)

        result = _forked(child, plugin, 90 + job.limit) if part else (SURVIVED, "")
        if result[0] != SURVIVED:
            return result
    return SURVIVED, ""


def _pytest(root: Path, files: list[str], plugin: Tests) -> None:
    os.chdir(root)
    with tempfile.TemporaryDirectory() as base, contextlib.redirect_stdout(io.StringIO()):
        options = ["-n0", "-p", "no:cacheprovider", "-q", f"--basetemp={base}/files"]
        code = pytest.main([*options, *files], plugins=[plugin])
    if code and plugin.failed >= 0:
        plugin._tell(f"pytest: {code}")


def _forked(child: Callable[[], None], plugin: Tests, limit: float) -> Result:
    """Run a function in a fork; failing is being killed."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        _in_fork(child, plugin, write)
    os.close(write)
    test = b""
    end = time.monotonic() + limit
    ready, _, _ = select.select([read], [], [], limit)
    if ready:
        test = os.read(read, 4096)
    os.close(read)
    done, status = 0, 0
    while not done and time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if not done:
            time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if not done:
        os.waitpid(pid, 0)
        return TIMEOUT, ""
    return (SURVIVED if status == 0 else KILLED), test.decode()


def _in_fork(child: Callable[[], None], plugin: Tests, write: int) -> NoReturn:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    plugin.failed = write
    try:
        child()
    except BaseException as error:
        plugin._tell(f"{type(error).__name__}: {error}"[:200])
    os._exit(0)


def _functions(root: Path) -> Functions:
    """All living functions of this project by where they are defined."""
    found: Functions = {}
    for x in gc.get_objects():
        if type(x) is FunctionType and x.__code__.co_filename.startswith(str(root)):
            found.setdefault(_where(x.__code__), []).append(x)
    return found


def _where(code: CodeType) -> tuple[str, int, str]:
    return code.co_filename, code.co_firstlineno, code.co_name


def _changed(
    root: Path, mutant: Mutant, functions: Functions
) -> list[tuple[FunctionType, CodeType]] | None:
    """Functions and their new code; None where the change is not (only) in functions."""
    path = root / mutant.file
    original = path.read_text()
    old = list(_codes(compile(original, str(path), "exec", dont_inherit=True)))
    new = list(_codes(compile(mutant.source(original), str(path), "exec", dont_inherit=True)))
    if len(old) != len(new):
        return None
    changes = []
    for (function, a), (_, b) in zip(old, new, strict=True):
        if _own(a) == _own(b):
            continue
        if not function or a.co_freevars != b.co_freevars:
            return None
        changes += [(x, b) for x in functions.get(_where(a), ()) if x.__code__ == a]
    # What only nested code changes, the outermost function must carry.
    for (function, a), (_, b) in zip(old, new, strict=True):
        if function and a != b and _own(a) == _own(b):
            changes += [(x, b) for x in functions.get(_where(a), ()) if x.__code__ == a]
    return changes or None


def _codes(code: CodeType, in_function: bool = False) -> Iterator[tuple[bool, CodeType]]:
    yield in_function, code
    for x in code.co_consts:
        if isinstance(x, CodeType):
            # A class body runs when its surroundings do; its code has no fast locals.
            function = in_function or bool(x.co_flags & 0x2)
            yield from _codes(x, function)


def _own(code: CodeType) -> tuple[object, ...]:
    consts = tuple(
        "code" if isinstance(x, CodeType) else (type(x), repr(x)) for x in code.co_consts
    )
    names = code.co_names, code.co_varnames, code.co_freevars
    return code.co_code, code.co_exceptiontable, consts, *names
