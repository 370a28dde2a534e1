"""Mutants of the sources, and whether the tests kill them.

    python tools/mutants map                        # which test executes what; all tests run once
    python tools/mutants run --count 150 --jobs 2   # per folder; again: goes on where it stopped
    python tools/mutants report                     # scores and survivors of the results so far

A seeded sample of places (each file by its share) gets one mutant each, by the operators of
cosmic-ray and one that deletes a statement.  A mutant's tests are those that execute its statement.
A mutant that is the same program, or as good, stands in `equivalent.yaml` with the reason.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from draw import Mutant, sample
from selection import Map, compact, load
from serve import IMPORTED, KILLED, SURVIVED, TIMEOUT, Job, Result, collected, imported

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (
    "qcompiler/fixed_point.py",
    "qcompiler/ops",
    "passes",
    "qcompiler/calibrate",
    "qcompiler/frontends",
)
EQUIVALENT = Path(__file__).with_name("equivalent.yaml")

FOREIGN = (
    *("hypothesis", "ml_dtypes", "networkx", "numpy", "onnx", "onnx.reference", "onnx_ir"),
    *("onnxruntime", "onnxscript", "PIL", "psutil", "rich", "scipy.special", "torch", "tvm"),
    *("typer.testing", "yaml"),
)
"""What tests import that is not ours: imported once, before any fork."""

Key = tuple[str, ...]


class Results:
    """Outcomes by mutant, in a file that grows by a line each; the last line about one counts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[Key, Result]:
        """All outcomes so far; `imported` is none yet."""
        if not self.path.exists():
            return {}
        lines = map(json.loads, self.path.read_text().splitlines())
        found = {tuple(key): (outcome, note) for key, outcome, note in lines}
        return {key: result for key, result in found.items() if result[0] != IMPORTED}

    def add(self, mutant: Mutant, result: Result) -> None:
        """Append an outcome; processes may do so at once."""
        with self.path.open("a") as file:
            file.write(json.dumps([mutant.key, *result]) + "\n")


def drawn(folder: str, count: int, seed: int, memory: Path) -> list[Mutant]:
    """The sample of a folder or file."""
    path = ROOT / folder
    files = sorted(path.glob("*.py")) if path.is_dir() else [path]
    return sample(ROOT, files, count, seed, memory)


def record(folder: Path, tests: Sequence[str]) -> None:
    """Run tests and keep which executes what."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    paths = {"MUTANTS_FOLDER": str(folder.resolve()), "PYTHONPATH": str(Path(__file__).parent)}
    command = ["pytest", "-q", "-p", "recorder", "-p", "no:cacheprovider", *tests]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **paths}, check=False)
    print(slowest(compact(folder, ROOT)))


def slowest(found: Map) -> str:
    """The 30 test files that take longest, with seconds under coverage."""
    totals: dict[str, float] = {}
    for test, seconds in found.seconds.items():
        file = test.split("::")[0]
        totals[file] = totals.get(file, 0) + seconds
    ranked = sorted(totals.items(), key=lambda x: -x[1])
    return "\n".join(f"{seconds:7.1f} s  {file}" for file, seconds in ranked[:30])


def judge(mutants: list[Mutant], found: Map, results: Results, jobs: int, budget: float) -> None:
    """Run tests on mutants and keep the outcomes."""
    before = results.read()
    todo = [_job(x, found, budget, before.get(x.key, ("", ""))[1]) for x in mutants]
    for job in todo:
        if not job.tests:
            results.add(job.mutant, (SURVIVED, "no test executes it"))
    todo = [job for job in todo if job.tests]
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # numpy reads them once
    for name in FOREIGN:
        importlib.import_module(name)
    _shared(todo, jobs, lambda part: collected(ROOT, part, results.add))
    outcomes = results.read()

    def anew(part: list[Job]) -> None:
        for job in part:
            results.add(job.mutant, imported(ROOT, job))

    _shared([job for job in todo if job.mutant.key not in outcomes], jobs, anew)


def _job(mutant: Mutant, found: Map, budget: float, killer: str) -> Job:
    """What killed a mutant before comes first."""
    tests = found.tests(mutant, budget)
    if killer in found.seconds:
        tests = [killer, *(x for x in tests if x != killer)]
    return Job(mutant, tests, 20 + 5 * sum(found.seconds[x] for x in tests))


def _shared(todo: list[Job], jobs: int, work: Callable[[list[Job]], None]) -> None:
    """Do work in so many forks."""
    pids = []
    for i in range(jobs):
        pid = os.fork()
        if not pid:
            work(todo[i::jobs])
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)


@dataclass(frozen=True)
class Equivalent:
    """Mutants that no test can or should kill: those that agree in all fields that are given."""

    why: str
    file: str | None = None
    definition: str | None = None
    operator: str | None = None
    before: str | None = None
    after: str | None = None

    def covers(self, mutant: Mutant) -> bool:
        """Whether this is about the mutant."""
        fields = ("file", "definition", "operator", "before", "after")
        return all(getattr(self, x) in (None, getattr(mutant, x)) for x in fields)


def equivalents() -> list[Equivalent]:
    """The list beside this script."""
    return [Equivalent(**entry) for entry in yaml.safe_load(EQUIVALENT.read_text())]


def report(samples: dict[str, list[Mutant]], results: Results) -> str:
    """The table of scores, then every survivor that is not listed."""
    listed, known = equivalents(), results.read()
    lines = [
        "| folder | mutants | killed | listed as equivalent | survived | score | 95 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    alive: list[tuple[Mutant, Result]] = []
    for folder, mutants in samples.items():
        outcomes = [(x, known[x.key]) for x in mutants if x.key in known]
        killed = sum(outcome in (KILLED, TIMEOUT) for _, (outcome, _) in outcomes)
        left = [(x, y) for x, y in outcomes if y[0] not in (KILLED, TIMEOUT)]
        unlisted = [(x, y) for x, y in left if not any(entry.covers(x) for entry in listed)]
        alive += unlisted
        low, high = interval(killed, killed + len(unlisted))
        score = killed / max(1, killed + len(unlisted))
        lines.append(
            f"| {folder} | {len(outcomes)} | {killed} | {len(left) - len(unlisted)} "
            f"| {len(unlisted)} | {score:.1%} | {low:.1%} to {high:.1%} |"
        )
    for mutant, (outcome, note) in alive:
        place = f"{mutant.file}:{mutant.lines[0]} {mutant.definition} ({mutant.operator})"
        changes = [f"  - {x}" for x in mutant.before.splitlines()]
        changes += [f"  + {x}" for x in mutant.after.splitlines()]
        lines += ["", f"{outcome}: {place} {note}".rstrip(), *changes]
    return "\n".join(lines)


def interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if not trials:
        return 0.0, 1.0
    z, share = 1.96, successes / trials
    middle = share + z * z / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    return tuple(min(1.0, (middle + x) / (1 + z * z / trials)) for x in (-reach, reach))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["map", "run", "report"])
    parser.add_argument("paths", nargs="*", help="of tests to map; of sources to mutate")
    parser.add_argument("--count", type=int, default=150, help="mutants per folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--budget", type=float, default=12, help="seconds of tests per mutant")
    parser.add_argument("--again", choices=["survivors", "all"], help="what to run once more")
    parser.add_argument("--folder", type=Path, default=ROOT / "mutants", help="of what is kept")
    given = parser.parse_intermixed_args()
    if given.command == "map":
        record(given.folder, given.paths)
        return
    results = Results(given.folder / "results.jsonl")
    samples = {
        path: drawn(path, given.count, given.seed, given.folder) for path in given.paths or FOLDERS
    }
    if given.command == "run":
        done = {
            key
            for key, (outcome, _) in results.read().items()
            if not given.again or (given.again == "survivors" and outcome != SURVIVED)
        }
        mutants = [x for part in samples.values() for x in part if x.key not in done]
        judge(mutants, load(given.folder), results, given.jobs, given.budget)
    print(report(samples, results))


if __name__ == "__main__":
    main()
