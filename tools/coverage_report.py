"""The Markdown of docs/coverage.md."""

from __future__ import annotations

import platform
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

from coverage_models import architectures

Row = dict[str, Any]
OUTCOMES = ("right", "refused by name", "wrong", "crash")
HEAD = """# What works

Written by `python tools/coverage.py --write docs/coverage.md` ({packages}; Python {python});
do not edit. `tools/coverage_floor.json` holds what must not be lost again.
"""
NODES = """
## ONNX's node tests

All {total} tests of `onnx.backend.test.loader.load_model_tests(kind="node")`: imported, evaluated
in float by the numpy reference, compared with the expected outputs within the test's tolerances, or
a millionth of the largest value.
The tests give everything as an input, shapes and weights too; a compiler of static graphs must know
those. *As given* counts tests that are right without; *indices known* those where operands of no
float type are constants; *weights known* those where all operands but the first are.
"""
MODELS = """
## Architectures

Small models (two layers, widths of 32 to 64, images of 16 to 64 pixels) with random weights, from
`tools/coverage_architectures.yaml`, exported by `torch.onnx.export` as in `models/export.py`,
calibrated on 32 random inputs. *Signal to noise* is that of the worst output on 4 fresh inputs
against the float model in ONNX Runtime; random weights say little about accuracy, but show where
precision is lost (and deep networks of them amplify: MobileNetV1 loses 1.4 dB in each of 27
layers). *Bits*: whether numpy and the executors named agree in every bit of every output
on two of them. Seconds are those of the processor for import and quantization.
"""


def integer_only(row: Row) -> bool:
    """Whether nothing is left in float and all executors gave the same bits."""
    return row["stage"] == "done" and not row["floats"] and row["differing"] == 0


def report(nodes: Sequence[Row], rows: Sequence[Row]) -> str:
    """The whole file."""
    names = ("onnx", "onnxruntime", "torch", "transformers", "numpy")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    parts = [HEAD.format(packages=packages, python=platform.python_version())]
    if nodes:
        parts += [NODES.format(total=len(nodes)), *_node_tables(nodes)]
    if rows:
        parts += [MODELS, *_architecture_tables(rows)]
    return "\n".join(parts)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for row in rows:
        cells = (str(x).replace("|", "\\|") for x in row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _node_tables(nodes: Sequence[Row]) -> Iterator[str]:
    kinds: dict[str, list[Row]] = defaultdict(list)
    for r in nodes:
        kinds[r["kind"]].append(r)
    yield table(
        ("tests of", "all", "right", "as given", "indices known", "weights known", *OUTCOMES[1:]),
        ((kind, *_counts(rows)) for kind, rows in kinds.items()),
    )
    operators: dict[str, list[Row]] = defaultdict(list)
    for r in next(rows for kind, rows in kinds.items() if kind.startswith("float32")):
        operators[r["operator"]].append(r)
    complete = [
        f"{name} {len(rows)}"
        for name, rows in sorted(operators.items())
        if all(r["outcome"] == "right" for r in rows)
    ]
    yield "### float32, by operator\n"
    yield f"All right ({len(complete)} operators, with their tests): {', '.join(complete)}.\n"
    yield table(
        ("operator", "all", "right", *OUTCOMES[1:], "what is refused"),
        (
            (name, len(rows), *(_outcomes(rows)[o] for o in OUTCOMES), _reasons(rows))
            for name, rows in sorted(operators.items())
            if any(r["outcome"] != "right" for r in rows)
        ),
    )


def _counts(rows: Sequence[Row]) -> list[object]:
    outcomes = _outcomes(rows)
    forms = Counter(r["form"] for r in rows if r["outcome"] == "right")
    share = f"{outcomes['right']} ({100 * outcomes['right'] / len(rows):.1f} %)"
    return [len(rows), share, *(forms[i] for i in range(3)), *(outcomes[o] for o in OUTCOMES[1:])]


def _outcomes(rows: Sequence[Row]) -> Counter[str]:
    return Counter(r["outcome"] for r in rows)


def _reasons(rows: Sequence[Row]) -> str:
    found = Counter(_brief(r["reason"]) for r in rows if r["outcome"] != "right")
    return "; ".join(text for text, _ in found.most_common(3))


def _brief(reason: str) -> str:
    """A refusal without the names of nodes, cut to one cell."""
    text = re.sub(r" \([^()]*:[^()]*\)", "", reason)
    return text if len(text) < 120 else text[:117] + "…"


def _architecture_tables(rows: Sequence[Row]) -> Iterator[str]:
    exported = [r for r in rows if r["stage"] != "export"]
    good = [r for r in exported if integer_only(r)]
    outcomes = Counter(outcome(r) for r in exported)
    found = ", ".join(f"{count} {text}" for text, count in outcomes.most_common())
    share = 100 * len(good) / max(1, len(exported))
    headline = f"{len(good)} of {len(exported)} ({share:.0f} %) integer-only with equal bits"
    yield f"**{headline}**: {found}.\n"
    measured = {r["name"] for r in rows}
    if missing := [a.name for a in architectures() if a.name not in measured]:
        yield f"In the list and not measured yet ({len(missing)}): {', '.join(missing)}.\n"
    for group in dict.fromkeys(r["group"] for r in exported):
        yield f"### {group[0].upper()}{group[1:]}\n"
        yield table(
            ("model", "outcome", "ops", "signal to noise, dB", "bits", "seconds", "why"),
            (_cells(r) for r in exported if r["group"] == group),
        )
    if apart := [r for r in rows if r["stage"] == "export"]:
        yield "### Not exported by torch\n"
        yield table(("model", "error"), ((r["name"], r["reason"][:160]) for r in apart))


def outcome(row: Row) -> str:
    """What to call what came of an architecture."""
    if row["stage"] == "time":
        return "over the time limit"
    if row["stage"] == "process" or (row["stage"] != "done" and not row["refused"]):
        return "crash"
    if row["stage"] != "done":
        return "refused by name"
    if row["differing"]:
        return "bits differ"
    return "keeps float ops" if row["floats"] else "integer-only"


def _cells(row: Row) -> list[object]:
    why = _brief(row["reason"])
    if row.get("floats"):
        kinds = ", ".join(f"{name} ×{count}" for name, count in row["floats"].items())
        why = f"{kinds} ({'; '.join(row['float_nodes'][:2])})"
    snr, differing = row.get("snr"), row.get("differing")
    executors = " and ".join(row.get("executors", ()))
    seconds = row.get("seconds", {})
    return [
        row["name"],
        outcome(row),
        row.get("operators") or "",
        "" if snr is None else f"{snr:.1f}",
        ""
        if differing is None
        else f"equal: {executors}"
        if not differing
        else f"{differing} differ",
        f"{seconds.get('import', 0):.1f} + {seconds.get('quantize', 0):.1f}" if seconds else "",
        why,
    ]
