"""A pytest plugin that notes which lines each test executes, and how long it takes.

Coverage is switched to a context per test; the seconds stand beside it, per process:

    folder/coverage.*   what `coverage` writes, a context per test
    folder/seconds.*    lines of JSON, [test, seconds]
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

FOLDER = "MUTANTS_FOLDER"
"""The environment variable that leads the plugin (and xdist's workers) to its folder."""


class Recorder:
    """Traces the sources under test while tests of this process run."""

    def __init__(self, folder: Path, sources: list[str]) -> None:
        self.coverage = coverage.Coverage(
            data_file=folder / "coverage", data_suffix=str(os.getpid()), source=sources
        )
        self.seconds = (folder / f"seconds.{os.getpid()}").open("w")
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """One context, and one line of seconds, per test."""
        self.coverage.switch_context(item.nodeid)
        start = time.perf_counter()
        result = yield
        json.dump([item.nodeid, round(time.perf_counter() - start, 4)], self.seconds)
        self.seconds.write("\n")
        self.coverage.switch_context("")
        return result

    def pytest_unconfigure(self) -> None:
        """Write the data of this process."""
        self.coverage.stop()
        self.coverage.save()
        self.seconds.close()


def pytest_configure(config: pytest.Config) -> None:
    """Record in each process that runs tests itself: all of xdist's but the first."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        root = config.rootpath
        sources = [str(root / x) for x in ("qcompiler", "passes")]
        config.pluginmanager.register(Recorder(Path(os.environ[FOLDER]), sources))
