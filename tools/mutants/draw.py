"""A sample of the mutants of source files, by the operators of cosmic-ray and one of our own."""

from __future__ import annotations

import ast
import difflib
import hashlib
import pickle
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import parso
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

SAME = {f"ReplaceComparisonOperator_{x}" for x in ("Eq_Is", "Is_Eq", "NotEq_IsNot", "IsNot_NotEq")}
"""Operators without effect here: small integers are interned, ops compare by identity."""

KINDS = {"ReplaceBinaryOperator": "operator", "ReplaceComparisonOperator": "comparison"}
"""The nodes that the operators of a large family look at; the others look at all."""

Span = tuple[tuple[int, int], tuple[int, int]]


class DeleteStatement:
    """Replaces a call, `x += y` or `x[i] = y` that stands alone by `pass`."""

    def mutation_positions(self, node: Any) -> Iterator[Span]:
        """The statement, where it is one of those."""
        if node.type != "simple_stmt":
            return
        first = node.children[0]
        if first.type == "expr_stmt":
            target, sign = first.children[0], first.children[1]
            indexed = sign.type == "operator" and _ends(target) == "["
            if indexed or sign.type == "annassign" or sign.get_code().strip() == "=":
                if indexed:
                    yield first.start_pos, first.end_pos
            else:
                yield first.start_pos, first.end_pos
        elif _ends(first) == "(":
            yield first.start_pos, first.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The same line with `pass`."""
        prefix = node.get_first_leaf().prefix
        node.children[0] = parso.parse(f"{prefix}pass")
        return node


def _ends(node: Any) -> str:
    """The bracket that the last trailer opens with; empty where there is none."""
    if node.type not in ("atom_expr", "power") or node.children[-1].type != "trailer":
        return ""
    return str(node.children[-1].children[0].value)


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        file: Relative to the repository.
        definition: The function or class that the change is in; empty outside of any.
        operator: As cosmic-ray names it.
        before, after: The changed lines, without indentation.
        lines: First and last line (from 1) whose execution runs the change.
        on_import: Whether these lines run when the file is imported.
        occurrence: Of the operator in the file.
    """

    file: str
    definition: str
    operator: str
    before: str
    after: str
    lines: tuple[int, int]
    on_import: bool
    occurrence: int

    @property
    def key(self) -> tuple[str, ...]:
        """What stays when lines move."""
        return self.file, self.definition, self.before, self.after

    def source(self, original: str) -> str:
        """The whole file, changed."""
        return _mutated(original, self.operator, self.occurrence)


@cache
def _operators() -> dict[str, Any]:
    found = {name: plugins.get_operator(name) for name in plugins.operator_names()}
    made = {name.split("/")[1]: x() for name, x in found.items() if not x.arguments()}
    made["DeleteStatement"] = DeleteStatement()
    return {name: x for name, x in made.items() if name not in SAME}


def _mutated(source: str, operator: str, occurrence: int) -> str:
    return str(mutate_code(source, _operators()[operator], occurrence))


def sample(root: Path, files: Sequence[Path], count: int, seed: int, memory: Path) -> list[Mutant]:
    """Mutants of these files, each file by its number of places, each place at most once.

    A larger count with the same seed has the same mutants and more.  What was drawn of a file is
    remembered in a folder, as long as the file stays the same.
    """
    drawn = {file: _Draw.of(file, str(file.relative_to(root)), seed, memory) for file in files}
    share = min(1.0, count / max(1, sum(len(x.places) for x in drawn.values())))
    return [
        mutant
        for draw in drawn.values()
        for mutant in draw.first(min(len(draw.places), max(1, round(share * len(draw.places)))))
    ]


@dataclass
class _Draw:
    """The places of a file in a random order, and the mutants made of the first of them."""

    path: Path
    name: str
    memory: Path
    places: list[tuple[Span, str, int]]
    mutants: list[Mutant | None]

    @classmethod
    def of(cls, path: Path, name: str, seed: int, folder: Path) -> _Draw:
        key = hashlib.sha256(f"{name} {seed} {path.read_text()}".encode()).hexdigest()[:20]
        memory = folder / f"draw.{key}"
        if memory.exists():
            places, mutants = pickle.loads(memory.read_bytes())
            return cls(path, name, memory, places, mutants)
        return cls(path, name, memory, _shuffled(path.read_text(), f"{seed} {name}"), [])

    def first(self, count: int) -> list[Mutant]:
        """So many that compile and change something, or all there are."""
        source = self.path.read_text()
        known = len(self.mutants)
        while sum(x is not None for x in self.mutants) < count:
            if len(self.mutants) == len(self.places):
                break
            place = self.places[len(self.mutants)]
            self.mutants.append(_mutant(self.name, source, *place))
        if len(self.mutants) > known or not known:
            self.memory.write_bytes(pickle.dumps((self.places, self.mutants)))
        return [x for x in self.mutants if x is not None][:count]


def _shuffled(source: str, seed: str) -> list[tuple[Span, str, int]]:
    """One mutant per place, in a random order: span, operator and occurrence."""
    places: dict[tuple[Span, str], list[tuple[str, int]]] = defaultdict(list)
    nodes = list(ast_nodes(get_ast(source)))
    of_kind = {
        "comparison": [x for x in nodes if x.type == "comparison"],
        "operator": [x for x in nodes if x.type == "operator" and not x.value.strip("+-*/%<>&|^")],
    }
    unread = _unread(source)
    for name, operator in _operators().items():
        some = of_kind.get(KINDS.get(name.split("_")[0], ""), nodes)
        spans = (span for node in some for span in operator.mutation_positions(node))
        for occurrence, span in enumerate(spans):
            if not any(a <= span[0] and span[1] <= b for a, b in unread):
                places[span, name.split("_")[0]].append((name, occurrence))
    rng = random.Random(seed)
    chosen = [(span, *rng.choice(made)) for (span, _), made in sorted(places.items())]
    rng.shuffle(chosen)
    return chosen


def _unread(source: str) -> list[Span]:
    """What has no effect: annotations, the texts of errors, `if TYPE_CHECKING`, `zip(strict=)`."""
    spans = []
    for node in ast.walk(ast.parse(source)):
        parts: list[Any] = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            parts += node.exc.args + node.exc.keywords
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            parts.append(node.test)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "zip":
            parts += node.keywords
        for part in filter(None, parts):
            end = part.end_lineno, part.end_col_offset
            spans.append(((part.lineno, part.col_offset), end))
    return spans


def _mutant(file: str, source: str, span: Span, operator: str, occurrence: int) -> Mutant | None:
    """None where the change does not compile, or changes nothing."""
    changed = _mutated(source, operator, occurrence)
    try:
        if ast.dump(ast.parse(changed)) == ast.dump(ast.parse(source)):
            return None
    except SyntaxError:
        return None
    old, new = source.splitlines(), changed.splitlines()
    before, after = [], []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            before += old[a:b]
            after += new[c:d]
    lines, definition, on_import = _place(source, span[0][0])
    return Mutant(
        file=file,
        definition=definition,
        operator=operator,
        before="\n".join(x.strip() for x in before),
        after="\n".join(x.strip() for x in after),
        lines=lines,
        on_import=on_import,
        occurrence=occurrence,
    )


def _place(source: str, line: int) -> tuple[tuple[int, int], str, bool]:
    """Around a line: what to execute, the definition, and whether the line runs on import.

    To execute are the lines of the innermost statement (of its head only); of what runs on import,
    those of the definition that it is a part of.
    """
    lines, names, on_import = (line, line), [], True
    node: ast.AST = ast.parse(source)
    while True:
        inside = [x for x in _statements(node) if _first(x) <= line <= (x.end_lineno or line)]
        if not inside:
            return lines, ".".join(names), on_import
        on_import = on_import and not isinstance(node, ast.FunctionDef)
        node = inside[0]
        first, last = _first(node), node.end_lineno or line
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
            lines = first, last
        elif not (on_import and names):
            body = getattr(node, "body", None)
            lines = first, max(first, body[0].lineno - 1 if isinstance(body, list) else last)


def _first(node: ast.AST) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(x.lineno for x in decorators)])  # type: ignore[attr-defined]


def _statements(node: ast.AST) -> Iterator[Any]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        else:
            yield from _statements(child)
