"""Which tests run for a mutant: those that execute its statement, quick ones first."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import coverage
from draw import Mutant

PER_FUNCTION = 200
"""Tests of one parametrized function that are kept for a line."""

TURNS, QUICK = 3, 0.1
"""Tests of a function that come before the rest of them; seconds below which a test is quick."""


def digest(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Map:
    """What the recorder noted, in brief.

    Attributes:
        seconds: Of each test.
        lines: Of each file, tests that execute a line.
        digests: Of the files as they were recorded.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[int, list[str]]]
    digests: dict[str, str]

    @cached_property
    def breadth(self) -> Counter[str]:
        """How many lines each test executes, one at least."""
        found = Counter(dict.fromkeys(self.seconds, 1))
        for by_line in self.lines.values():
            for tests in by_line.values():
                found.update(tests)
        return found

    def stale(self, root: Path, files: Iterable[str]) -> list[str]:
        """Files that changed since."""
        return [x for x in files if self.digests.get(x) != digest(root / x)]

    def tests(self, mutant: Mutant, budget: float) -> list[str]:
        """The tests for a mutant, in the order to run them; none where none executes it.

        First come quick ones: those named like the file and three of each function, then the
        others; then slow ones likewise.  Within these, what executes little else comes first, since
        that is what it tests.

        Args:
            mutant: Any.
            budget: Seconds that all may take together; what would exceed them is left out.
        """
        first, last = mutant.lines
        lines = self.lines.get(mutant.file, {})
        found = {test for line in range(first, last + 1) for test in lines.get(line, ())}
        stem = Path(mutant.file).stem.replace("__init__", Path(mutant.file).parent.name)
        if mutant.on_import and not found:
            found = {test for tests in lines.values() for test in tests}
            found |= {x for x in self.seconds if f"test_{stem}" in x}
            found = found or set(self.seconds)
        turns: Counter[str] = Counter()
        ranked = []
        for test in sorted(found, key=lambda x: self.seconds[x] * self.breadth[x]):
            function = test.split("[")[0]
            turns[function] += 1
            named = f"test_{stem}" in test or f".{stem}]" in test
            quick = self.seconds[test] < QUICK
            few = named or turns[function] <= TURNS
            ranked.append((2 - quick - few if quick else 2 + (not few), self.seconds[test], test))
        ranked.sort(key=lambda x: x[0])
        kept, spent = [], 0.0
        for rank, seconds, test in ranked:
            if not kept or spent + seconds <= budget:
                kept.append((rank, seconds, test))
                spent += seconds
        # Within a rank by file, so that its fixtures are set up once.
        kept.sort(key=lambda x: (x[0], x[2].split("::")[0], x[1]))
        return [test for _, _, test in kept]


def compact(folder: Path, root: Path) -> Map:
    """The map of what the recorder left in a folder; kept there."""
    seconds: dict[str, float] = {}
    for path in folder.glob("seconds.*"):
        seconds.update(map(json.loads, path.read_text().splitlines()))
    found: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in folder.glob("coverage.*"):
        data = coverage.CoverageData(str(path))
        data.read()
        for file in data.measured_files():
            name = str(Path(file).relative_to(root))
            for line, tests in data.contexts_by_lineno(file).items():
                found[name][line].update(x for x in tests if x in seconds)
    lines = {
        file: {line: _few(tests, seconds) for line, tests in by_line.items()}
        for file, by_line in found.items()
    }
    made = Map(seconds, lines, {file: digest(root / file) for file in lines})
    (folder / "map.pickle").write_bytes(pickle.dumps(made))
    return made


def _few(tests: set[str], seconds: dict[str, float]) -> list[str]:
    kept: dict[str, list[str]] = defaultdict(list)
    for test in sorted(tests, key=lambda x: seconds[x]):
        same = kept[test.split("[")[0]]
        if len(same) < PER_FUNCTION:
            same.append(test)
    return [test for same in kept.values() for test in same]


def load(folder: Path) -> Map:
    """The map that `compact` kept."""
    made = pickle.loads((folder / "map.pickle").read_bytes())
    assert isinstance(made, Map)
    return made
