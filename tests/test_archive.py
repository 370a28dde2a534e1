"""Graphs in files: an equal graph comes back, or one line says what is wrong with the file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tiny import Example, examples, tiny_graphs

import qcompiler
from qcompiler.errors import FileError, OutputError, UsageError
from qcompiler.graph import Constant, Graph, Input, Op, op
from qcompiler.graph.archive import TEXT, read_note
from qcompiler.ops import Add, Composite, Concat, Fused, Relu, Sigmoid
from qcompiler.passes import DEFAULT, LOWERING, Instrument, Pass, PassManager
from qcompiler.types import FLOAT, TensorType

DIGITS = Path(__file__).parents[1] / "models" / "digits"


def check_equal(graph: Graph, other: Graph) -> None:
    """Equal text, fields and bits; two values are one there exactly if they are one here."""
    assert str(graph) == str(other)
    pairs: dict[Op | Graph, Op | Graph] = {}
    _pair(graph, other, pairs)
    assert len(set(pairs.values())) == len(pairs)


def _pair(a: Any, b: Any, pairs: dict[Op | Graph, Op | Graph]) -> None:
    assert type(a) is type(b)
    if isinstance(a, (Op, Graph)) and a in pairs:
        assert pairs[a] is b
    elif isinstance(a, Graph):
        pairs[a] = b
        assert (a.name, list(a.outputs), len(a.ops)) == (b.name, list(b.outputs), len(b.ops))
        ends = ((*g.ops, *g.inputs, *g.outputs.values()) for g in (a, b))
        for x, y in zip(*ends, strict=True):
            _pair(x, y, pairs)
    elif isinstance(a, tuple):
        for x, y in zip(a, b, strict=True):
            _pair(x, y, pairs)
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    elif isinstance(a, Op):
        pairs[a] = b
        for f in dataclasses.fields(a):
            _pair(getattr(a, f.name), getattr(b, f.name), pairs)
    else:
        assert repr(a) == repr(b)  # −0.0 and NaN too


def reread(graph: Graph, folder: Path) -> Graph:
    path = folder / "saved.qgraph"
    graph.save(path)
    return Graph.load(path)


@pytest.mark.parametrize("example", [*examples(), *tiny_graphs()], ids=lambda e: e.name)
def test_every_op_and_tiny_graph_comes_back(example: Example, tmp_path: Path) -> None:
    check_equal(example.graph, reread(example.graph, tmp_path))


@pytest.mark.parametrize("name", ["cnn", "vit", "gru"])
def test_every_stage_of_the_digits_comes_back(name: str, tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Check(Instrument):
        def after(self, step: Pass, before: Graph, after: Graph, seconds: float) -> None:
            seen.append(step.title())
            if after is not before:
                check_equal(after, reread(after, tmp_path))

    seen: list[str] = []
    images = np.load(DIGITS / "calib.npz")["x"][:4]
    options = qcompiler.Options(instruments=(Check(),))
    model = qcompiler.import_onnx(DIGITS / f"{name}.onnx")
    integer = qcompiler.quantize(model, {"x": images}, options=options)
    PassManager(LOWERING, (Check(),))(integer)
    assert seen == [step.title() for step in (*DEFAULT, *LOWERING)]


def test_what_is_shared_stays_shared_in_regions_too(tmp_path: Path) -> None:
    x, inside = (Input(TensorType(FLOAT, (2,)), name=name) for name in ("x", "inside"))
    weight = Constant(np.arange(2, dtype=FLOAT), name="w", sources=("/w",))
    region = Graph((inside,), {"y": Add(Sigmoid(inside), weight)}, "region")
    twice = [Fused((v,), region) for v in (x, Add(x, weight))]
    equal = Constant(np.arange(2, dtype=FLOAT))  # of the same bits, but another value
    graph = Graph((x,), {"y": Concat((*twice, equal, weight), 0)}, "twice")
    again = reread(graph, tmp_path)
    check_equal(graph, again)
    with zipfile.ZipFile(tmp_path / "saved.qgraph") as file:
        assert len(file.namelist()) == 2
    y = again.outputs["y"]
    assert isinstance(y, Concat)
    assert y.inputs[0].region is y.inputs[1].region  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "array",
    [
        np.array([np.nan, -np.inf, -0.0, 1e-45], FLOAT),
        np.array([0x7FC00001, 0xFFFFFFFF], np.uint32).view(FLOAT),
        np.arange(6).reshape(2, 3).T,
        np.zeros((0, 3), np.int8),
        np.array(True),
        np.array([1.5, -0.0]).astype(ml_dtypes.bfloat16),
    ],
    ids=["special", "nan bits", "strided", "empty", "bool", "bfloat16"],
)
def test_arrays_keep_their_bits(array: np.ndarray, tmp_path: Path) -> None:
    graph = Graph((), {"y": Constant(array)})
    check_equal(graph, reread(graph, tmp_path))


def test_sources_are_those_of_the_file(tmp_path: Path) -> None:
    graph = Graph((x := Input(TensorType(FLOAT, (2,)), name="x"),), {"y": Relu(x)})
    graph.save(tmp_path / "a")
    with qcompiler.graph.origin(("/elsewhere",)):
        check_equal(graph, Graph.load(tmp_path / "a"))


def test_the_note_can_be_read_alone(tmp_path: Path) -> None:
    Graph((), {}).save(tmp_path / "a", "pass fuse: two\nlines")
    assert read_note(tmp_path / "a") == "pass fuse: two\nlines"


def test_5000_ops_are_no_recursion(tmp_path: Path) -> None:
    x = Input(TensorType(FLOAT, (2,)), name="x")
    node: Op = x
    for _ in range(5_000):
        node = Relu(node)
    assert len(reread(Graph((x,), {"y": node}), tmp_path).ops) == 5_001


def test_what_cannot_be_saved_leaves_no_file(tmp_path: Path) -> None:
    @op
    class Odd(Composite):
        x: Op
        how: object

        def body(self) -> Op:
            return Relu(self.x)

    x = Input(TensorType(FLOAT, (2,)), name="x")
    with pytest.raises(UsageError, match="a set in an op cannot be saved"):
        Graph((x,), {"y": Odd(x, {1})}).save(tmp_path / "a")
    with pytest.raises(OutputError, match="cannot be written"):
        Graph((x,), {"y": x}).save(tmp_path / "no folder" / "a")
    assert not list(tmp_path.iterdir())


def saved(folder: Path) -> Path:
    """y = relu(x + [0, 1]) in a file."""
    x = Input(TensorType(FLOAT, (2,)), name="x")
    Graph((x,), {"y": Relu(Add(x, Constant(np.arange(2, dtype=FLOAT))))}).save(folder / "good")
    return folder / "good"


def rewritten(folder: Path, old: str, new: str, compression: int = zipfile.ZIP_STORED) -> Path:
    """The file of `saved` with other text."""
    path = folder / "bad"
    with (
        zipfile.ZipFile(saved(folder)) as good,
        zipfile.ZipFile(path, "w", compression) as bad,
    ):
        for name in good.namelist():
            data = good.read(name)
            if name == TEXT:
                assert old in data.decode()
                data = data.decode().replace(old, new).encode()
            bad.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"version": 1', '"version": 2', "qcompiler graph 2, expected qcompiler graph 1"),
        ('"op": "relu"', '"op": "eval"', "line 4: no op is called 'eval' here"),
        ('"op": "relu"', '"op": "mul"', "line 4: KeyError: 'x'"),
        ('"x": 3', '"x": 4', "line 4: IndexError"),
        ('"x": 3', '"x": 0', "line 4: TypeError: expected Op, found NoneType"),
        ('"x": 3', '"x": true', "line 4: TypeError: expected int, found bool"),
        ('"x": 3', '"x": 3, "name": 3', "line 4: TypeError: expected str, found int"),
        ('"x": 3', '"x": 3, "infer": 3', "line 4: KeyError: 'infer'"),
        ('"shape": [2]', '"shape": [3]', "line 2: cannot reshape array of size 2"),
        ('"shape": [2]', '"shape": [999999999999]', "line 2: cannot reshape array of size 2"),
        ('"dtype": "float32"', '"dtype": "object"', "line 1: dtype 'object': expected one of"),
        ('"member": "arrays/', '"member": "../', "line 2: KeyError: \"There is no item named '../"),
        ('"outputs": {"y": 4}', '"outputs": {"y": 4}}', "line 5: Extra data"),
        ('{"graph"', "[" * 100_000 + '{"graph"', "line 5: RecursionError"),
        (
            '\n{"graph": "graph", "inputs": [1], "outputs": {"y": 4}}',
            "",
            "expected Graph, found Relu",
        ),
    ],
)
def test_malformed_text_is_named(old: str, new: str, words: str, tmp_path: Path) -> None:
    path = rewritten(tmp_path, old, new)
    with pytest.raises(FileError, match=f"^{path}: no graph that this version") as caught:
        Graph.load(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a zip file")
    np.savez(tmp_path / "arrays.npz", x=np.zeros(2))
    for name, words in [
        ("gone", "No such file"),
        (".", "Is a directory"),
        ("text", "File is not a zip file"),
        ("arrays.npz", "no item named 'graph.jsonl'"),
    ]:
        with pytest.raises(FileError, match=words):
            Graph.load(tmp_path / name)
    with pytest.raises(FileError, match="is compressed"):
        Graph.load(rewritten(tmp_path, "relu", "relu", zipfile.ZIP_DEFLATED))


def test_damage_is_a_file_error_or_does_no_harm(tmp_path: Path) -> None:
    whole = saved(tmp_path).read_bytes()
    path, rng = tmp_path / "bad", np.random.default_rng(0)
    refusals = 0
    for _ in range(200):
        data = bytearray(whole[: rng.integers(len(whole)) if rng.random() < 0.2 else None])
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                Graph.load(path)
        except FileError:
            refusals += 1
    assert refusals > 150


def test_mutated_text_is_a_file_error_or_another_graph(tmp_path: Path) -> None:
    graph = next(e for e in tiny_graphs() if e.name == "attention").graph
    graph.save(tmp_path / "good")
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "good") as good:
        members = {name: good.read(name) for name in good.namelist()}
    lines = members[TEXT].decode().splitlines()
    odd = [-1, 0, 1, 2**70, 0.5, None, "", [], {}, True, "conv", float("nan")]
    for _ in range(150):
        edited = [json.loads(line) for line in lines]
        fields = edited[rng.integers(1, len(edited))]
        fields[rng.choice(list(fields))] = odd[rng.integers(len(odd))]
        with zipfile.ZipFile(tmp_path / "bad", "w") as bad:
            members[TEXT] = "\n".join(map(json.dumps, edited)).encode()
            for name, data in members.items():
                bad.writestr(name, data)
        with contextlib.suppress(FileError):
            assert str(Graph.load(tmp_path / "bad"))
