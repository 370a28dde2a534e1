"""What works: ONNX's node tests and small models of public architectures, as one table.

    python tools/coverage.py --write docs/coverage.md --cache FOLDER   # everything: an hour
    python tools/coverage.py --check                                   # node tests: the floor
    python tools/coverage.py --check --architectures ci                # and a few architectures

`--cache` keeps exported models and results: with `--architectures REGEX` only those that match
are measured anew.  The floor (`coverage_floor.json`) only rises: `--write` raises it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from coverage_models import Architecture, architectures
from coverage_report import Row, integer_only, report

TOOLS = Path(__file__).resolve().parent
SERVER = multiprocessing.get_context("forkserver")  # imports once, forks for every architecture
FLOOR = TOOLS / "coverage_floor.json"
CI = ("ConvNeXt", "Denoising autoencoder", "BERT", "Llama", "Temporal convolutional network")


def measured(architecture: Architecture, cache: Path, library: bool, limit: int) -> Row:
    """The result of one architecture, measured in a process of its own."""
    name = architecture.name
    receiver, sender = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=_run, args=(sender, name, cache, library, limit))
    process.start()
    sender.close()
    try:
        waiting = not receiver.poll(20 * limit)  # the limit is of processor time
        row: Row = {} if waiting else receiver.recv()
    except EOFError:
        process.join()
        waiting = process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL)
        row = {"name": name, "stage": "process", "reason": f"exit status {process.exitcode}"}
    finally:
        process.kill()
        process.join()
    return {"name": name, "stage": "time", "reason": f"over {limit} s"} if waiting else row


def _run(sender: Connection, name: str, cache: Path, library: bool, limit: int) -> None:
    from coverage_worker import run

    run(sender, name, cache, library, limit)


def measure_all(
    chosen: Sequence[Architecture], cache: Path, library: bool, limit: int, jobs: int
) -> Iterator[Row]:
    """Results as they come, each kept in the cache."""
    SERVER.set_forkserver_preload(["coverage_worker", "coverage_build"])
    results = cache / "results"
    results.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        for row in pool.map(lambda a: measured(a, cache, library, limit), chosen):
            (results / f"{_slug(row['name'])}.json").write_text(json.dumps(row))
            yield row


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower())


def kept(cache: Path) -> list[Row]:
    """The cache's results, in the list's order."""
    rows = []
    for architecture in architectures():
        path = cache / "results" / f"{_slug(architecture.name)}.json"
        if path.exists():
            rows.append({**json.loads(path.read_text()), "group": architecture.group})
    return rows


def node_results() -> list[Row]:
    """All node tests; see `coverage_nodes`."""
    from coverage_nodes import node_tests, run

    return [
        {
            "name": r.name,
            "operator": r.operator,
            "kind": r.kind.value,
            "outcome": r.outcome.value,
            "form": r.form,
            "reason": r.reason,
        }
        for r in run(node_tests())
    ]


def below(floor: Row, nodes: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """What the floor asks for and does not hold."""
    from coverage_nodes import Kind

    failed = []
    if nodes:
        outcomes = Counter(r["outcome"] for r in nodes if r["kind"] == Kind.FLOAT.value)
        if outcomes["right"] < floor["node_tests_right"]:
            failed.append(f"{outcomes['right']} node tests are right: {floor['node_tests_right']}")
        failed += [
            f"{r['name']}: {r['outcome']}: {r['reason']}"
            for r in nodes
            if r["outcome"] in ("wrong", "crash")
        ]
    for row in rows:
        if row["name"] in floor["architectures"] and not integer_only(row):
            failed.append(f"{row['name']} was integer-only with equal bits: {row['stage']}")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", type=Path, help="write the report here, and raise the floor")
    parser.add_argument("--check", action="store_true", help="exit 1 below the floor")
    parser.add_argument("--no-nodes", action="store_true", help="leave the node tests out")
    parser.add_argument(
        "--architectures", metavar="REGEX", help="`ci`: a few; default with --write: all"
    )
    parser.add_argument("--cache", type=Path, help="folder of exported models and results")
    parser.add_argument("--library", action="store_true", help="compare the compiled library too")
    parser.add_argument(
        "--limit", type=int, default=300, help="processor seconds for one architecture"
    )
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()

    pattern = arguments.architectures or (".*" if arguments.write else "(?!)")
    chosen = [
        a
        for a in architectures()
        if (a.name in CI if pattern == "ci" else re.fullmatch(pattern, a.name, re.I))
    ]
    floor = json.loads(FLOOR.read_text())
    nodes = [] if arguments.no_nodes else node_results()
    with tempfile.TemporaryDirectory() as scratch:
        cache = arguments.cache or Path(scratch)
        rows = []
        for row in measure_all(chosen, cache, arguments.library, arguments.limit, arguments.jobs):
            print(row["name"], row["stage"], row["reason"][:200], flush=True)
            rows.append(row)
        everything = kept(cache)
    for text in (failed := below(floor, nodes, rows)):
        print(f"below the floor: {text}", file=sys.stderr)
    if arguments.write:
        arguments.write.write_text(report(nodes, everything))
        right = sum(r["outcome"] == "right" and r["kind"].startswith("float32") for r in nodes)
        good = {r["name"] for r in everything if integer_only(r)}
        floor = {
            "node_tests_right": max(right, floor["node_tests_right"]),
            "architectures": sorted(good.union(floor["architectures"])),
        }
        FLOOR.write_text(json.dumps(floor, indent=1) + "\n")
    if nodes:
        print(Counter(f"{r['kind']}: {r['outcome']}" for r in nodes))
    return int(bool(failed) and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
