"""Random graphs and damaged files against everything that qcompiler promises.

    python tools/fuzz.py --count 1000                # graphs of the seeds 0 to 999
    python tools/fuzz.py --only Conv --minutes 5     # each with a convolution
    python tools/fuzz.py --damage --count 200        # damaged models, samples, YAML, libraries

Every graph is valid by onnx.checker and ONNX Runtime.  Its import computes the same; quantized, it
gives the same bits in numpy, in the library and as integer ONNX; see `fuzz_check.py` for what is
demanded and `fuzz_noise.py` for when a graph is conditioned well enough to demand accuracy.  A
failing graph is reduced and written to `--folder` as .onnx with its samples as .npz; `--replay`
judges such a file again.  Graphs depend on the seed and on the operators that are imported.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import onnx
from fuzz_check import Outcome, check, crash
from fuzz_damage import damage_job
from fuzz_files import small_model
from fuzz_graphs import Case, draw, missing, operators
from fuzz_reduce import Parts, evaluate, reduce
from fuzz_runtime import RejectedError
from fuzz_workers import Worker

import qcompiler


def redrawn(seed: int, only: str | None) -> Case | Outcome:
    """The graph of a seed whose job ended without a result; drawing it may end likewise."""
    try:
        return draw(seed, only)
    except RejectedError as error:
        return Outcome("discarded", "nothing drawn", str(error))


def graph_job(seed: int, only: str | None, library: bool) -> Outcome:
    """Draw the graph of a seed and judge it."""
    try:
        case = draw(seed, only)
    except RejectedError as error:
        return Outcome("discarded", "nothing drawn", str(error))
    except Exception as error:  # of a generator
        return crash(error)
    outcome = check(case, library=library)
    return replace(outcome, case=case) if outcome.failed else outcome


@dataclass
class Tally:
    """What became of all jobs so far."""

    seeds: tuple[int, int]
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome; a refusal by each of its reasons."""
        self.counts[outcome.kind, outcome.what] += 1
        if outcome.kind == "refused":
            kind, _, reasons = outcome.what.partition("not supported: ")
            self.refusals.update(reasons.split("; ") if reasons else [kind])

    @property
    def total(self) -> int:
        """How many jobs have ended."""
        return sum(self.counts.values())

    def kinds(self) -> Counter[str]:
        """Outcomes by kind."""
        kinds: Counter[str] = Counter()
        for (kind, _), number in self.counts.items():
            kinds[kind] += number
        return kinds

    def show(self, top: int = 25) -> None:
        """All kinds, and the most frequent reasons of what was neither integer nor discarded."""
        seconds = time.monotonic() - self.started
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.kinds().most_common())
        print(f"seeds {self.seeds[0]} to {self.seeds[1]}: {self.total} in {seconds:.0f} s: {kinds}")
        rest = [(k, v) for k, v in self.counts.most_common() if k[0] not in ("integer", "refused")]
        for (kind, what), number in rest[:top]:
            print(f"{number:6} {kind}: {what}")
        for reason, number in self.refusals.most_common(top):
            print(f"{number:6} refused: {reason}")

    def write(self, path: Path) -> None:
        """The figures as JSON."""
        figures = {
            "seeds": self.seeds,
            "seconds": round(time.monotonic() - self.started),
            "kinds": dict(self.kinds()),
            "reasons": [[*key, number] for key, number in self.counts.most_common()],
            "refusals": dict(self.refusals.most_common()),
            "failures": self.failures,
        }
        path.write_text(json.dumps(figures, indent=1) + "\n")


def sound_library(path: Path) -> None:
    """What damaged libraries are made from."""
    feeds = [{"x": np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 4)}]
    qcompiler.compile(small_model(), "cpu", feeds).save(path)


def explore(arguments: argparse.Namespace, scratch: Path) -> Tally:
    """Judge graphs or damaged files until enough were judged or time is up."""
    tally = Tally((arguments.seed, arguments.seed))
    sound = scratch / "sound.so"
    if arguments.damage:
        sound_library(sound)
    end = time.monotonic() + 60 * arguments.minutes
    workers = [Worker(arguments.limit) for _ in range(arguments.jobs)]
    running: dict[int, tuple[int, bool]] = {}
    following = arguments.seed
    limit = arguments.seed + arguments.count
    reduced: Counter[tuple[str, str]] = Counter()
    while True:
        for i, worker in enumerate(workers):
            if i not in running and following < limit and time.monotonic() < end:
                share = np.random.default_rng((following, 1)).random()
                job = (following, bool(share < arguments.library))
                if arguments.damage:
                    worker.give(damage_job, job[0], sound, arguments.limit, arguments.folder)
                else:
                    worker.give(graph_job, job[0], arguments.only, job[1])
                running[i] = job
                following += 1
        if not running:
            break
        wait([workers[i].pipe for i in running], 0.5)
        for i, (seed, library) in list(running.items()):
            if (outcome := workers[i].take()) is None:
                continue
            del running[i]
            if outcome.kind in ("died", "timeout") and not arguments.damage:
                found = workers[i].call(redrawn, seed, arguments.only)
                if isinstance(found, Outcome):  # ONNX Runtime dies of a node as it is drawn
                    outcome = Outcome("discarded", f"drawing: {found.what}")
                else:
                    outcome = replace(outcome, case=found)
            tally.add(outcome)
            tally.seeds = (arguments.seed, max(seed, tally.seeds[1]))
            if not outcome.failed:
                continue
            reduced[outcome.kind, outcome.what] += 1
            first = reduced[outcome.kind, outcome.what] <= arguments.each
            line = _failure(seed, outcome, workers[i], library, arguments, first)
            tally.failures.append(line)
            print(line, flush=True)
        if arguments.report and tally.total % 50 == 0:
            tally.write(arguments.report)
    for worker in workers:
        worker.stop()
    return tally


def _failure(
    seed: int,
    outcome: Outcome,
    worker: Worker,
    library: bool,
    arguments: argparse.Namespace,
    first: bool,
) -> str:
    """Reduce a failing graph, write it down, and say so in one line."""
    line = f"FAILED seed {seed}: {outcome.kind}: {outcome.what}: {outcome.detail}"
    case = outcome.case
    if not first or case is None:
        return line

    def alike(candidate: Case) -> bool:
        found = worker.call(judge, candidate, library)
        same = found.kind == "accuracy" or found.what == outcome.what
        return found.kind == outcome.kind and same

    def evaluated(parts: Parts) -> tuple[Parts, Case] | None:
        found = worker.call(evaluation, parts)  # shapes that do not fit may crash ONNX Runtime
        return None if isinstance(found, Outcome) else found

    small = reduce(case, alike, arguments.reduce, evaluated)
    path = write(small, arguments.folder, f"seed{seed}")
    return f"{line}\n    {path}: {' '.join(small.operators)}"


def judge(case: Case, library: bool) -> Outcome:
    """As `check`, by position: a job of a worker."""
    return check(case, library=library)


def evaluation(parts: Parts) -> tuple[Parts, Case] | Outcome:
    """As `evaluate`: a job of a worker, which has a result in any case."""
    return evaluate(parts) or Outcome("discarded", "does not run")


def write(case: Case, folder: Path, stem: str) -> Path:
    """The model and its samples, `sample:input`, beside each other."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.onnx"
    onnx.save(case.model, path)
    arrays = {f"{i}:{k}": x for i, feed in enumerate(case.feeds) for k, x in feed.items()}
    np.savez(path.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]
    return path


def read(path: Path) -> Case:
    """What `write` wrote."""
    feeds: dict[int, dict[str, np.ndarray]] = {}
    with np.load(path.with_suffix(".npz")) as arrays:
        for key in arrays:
            sample, _, name = key.rpartition(":")
            feeds.setdefault(int(sample or 0), {})[name] = arrays[key]
    return Case(0, onnx.load(path), tuple(feeds[i] for i in sorted(feeds)) or ({},))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1 << 30, help="graphs or files at most")
    parser.add_argument("--minutes", type=float, default=10.0, help="at most")
    parser.add_argument("--seed", type=int, default=0, help="the first one; others follow")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", choices=sorted(operators()), help="an operator of every graph")
    parser.add_argument("--damage", action="store_true", help="damaged files instead of graphs")
    parser.add_argument("--library", type=float, default=0.2, help="share that is compiled too")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds of processor time each")
    parser.add_argument("--reduce", type=float, default=60.0, help="seconds to reduce a failure")
    parser.add_argument("--each", type=int, default=2, help="graphs reduced of each defect")
    parser.add_argument("--folder", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--report", type=Path, help="figures as JSON")
    parser.add_argument("--replay", type=Path, nargs="+", help="judge written graphs again")
    parser.add_argument("--top", type=int, default=25, help="reasons shown")
    arguments = parser.parse_args()
    if arguments.replay:
        outcomes = [check(read(path)) for path in arguments.replay]
        for path, outcome in zip(arguments.replay, outcomes, strict=True):
            print(f"{path}: {outcome.kind}: {outcome.what}: {outcome.detail}")
        return int(any(o.failed for o in outcomes))
    if lacking := missing():
        print(f"no generator for: {', '.join(lacking)} (add one to tools/fuzz_*.py)")
    with tempfile.TemporaryDirectory() as scratch:
        tally = explore(arguments, Path(scratch))
    tally.show(arguments.top)
    if arguments.report:
        tally.write(arguments.report)
    return int(bool(tally.failures))


if __name__ == "__main__":
    sys.exit(main())
