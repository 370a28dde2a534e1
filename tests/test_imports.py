"""What importing costs, and that the package list and the public names are true."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

import qcompiler

ROOT = Path(__file__).parent.parent
MAPPING = {"qcompiler": "qcompiler", "passes": "qcompiler.passes", "backends": "qcompiler.backends"}

LAYERS = (
    ("errors", "interval"),
    ("files", "host", "types"),
    ("fixed_point", "graph"),
    ("interpret", "ops"),
    ("batching", "fingerprint", "invariants", "metadata"),
    ("dispatch", "programs", "states"),
    ("artifact",),
    ("backends.onnx", "backends.target"),
    ("calibrate", "backends.tvm"),
    ("config", "evidence", "report", "backends.cpu", "backends.cuda"),
    ("lengths",),
    ("passes", "frontends", "backends.targets"),
    ("driver",),
    ("compare",),
    ("cli",),
)
"""Modules and folders of qcompiler; each may import those of earlier lines only."""

TVM = ("backends.tvm", "backends.cpu", "backends.cuda")
"""Where TVM is imported."""


def imported_by(statement: str) -> set[str]:
    program = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import qcompiler",
        "from qcompiler import *",
        "import qcompiler.passes, qcompiler.backends, qcompiler.backends.target",
    ],
)
def test_neither_tvm_nor_torch_is_imported(statement):
    assert not {"tvm", "torch"} & imported_by(statement)


def test_a_pass_runs_no_model_and_opens_no_image():
    imported = imported_by("from qcompiler.passes import DEFAULT; from qcompiler import Rule")
    assert not {"onnxruntime", "PIL", "onnx", "rich"} & imported


def test_public_names_exist():
    assert [name for name in qcompiler.__all__ if not hasattr(qcompiler, name)] == []
    assert set(qcompiler.__all__) == {n for names in qcompiler._HOMES.values() for n in names}
    assert set(qcompiler.__all__) <= set(dir(qcompiler))
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = qcompiler.nothing


def test_package_list_matches_the_tree():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = []
    for folder, package in MAPPING.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder).parts
            found.append(".".join((package, *inner)))
    assert sorted(listed) == sorted(found)


@pytest.mark.parametrize("folder", ["passes", "backends"])
def test_unmapped_import_is_refused(folder):
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {folder}"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"import qcompiler.{folder}, not {folder}" in done.stderr


def installed() -> dict[str, Path]:
    """Module → its file, of every package that installs."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {}
    for package in setuptools["packages"]:
        base = max((p for p in MAPPING.values() if f"{package}.".startswith(f"{p}.")), key=len)
        folder = ROOT / setuptools["package-dir"][base] / Path(*package[len(base) :].split("."))
        for path in folder.glob("*.py"):
            found[package if path.stem == "__init__" else f"{package}.{path.stem}"] = path
    return found


def imports(module: str, path: Path, types: bool = True) -> set[str]:
    """What import statements name, wherever they stand; `types`: also those for annotations."""
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    found, waiting = set(), [ast.parse(path.read_text("utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif types or not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            waiting += ast.iter_child_nodes(node)
    return found


def dependencies(types: bool = True) -> dict[str, set[str]]:
    """Module → the modules of qcompiler that it imports."""
    modules = installed()

    def module(name: str) -> str:
        return name if name in modules else name.rpartition(".")[0]

    return {
        name: {module(x) for x in imports(name, path, types) if module(x) in modules} - {name}
        for name, path in modules.items()
    }


def layer(module: str) -> int:
    inner = module.removeprefix("qcompiler.")
    found = [i for i, names in enumerate(LAYERS) for n in names if f"{inner}.".startswith(f"{n}.")]
    assert len(found) == 1, f"{module} stands in {len(found)} lines of LAYERS"
    return found[0]


def unit(module: str) -> str:
    return ".".join(module.split(".")[: 3 if module.startswith("qcompiler.backends.") else 2])


def test_imports_follow_the_layers() -> None:
    bare = ("qcompiler", "qcompiler.backends")  # import nothing before somebody asks
    wrong = {
        (name, other)
        for name, others in dependencies().items()
        for other in others - set(bare)
        if name not in bare and unit(name) != unit(other) and layer(other) >= layer(name)
    }
    assert wrong == set()


def test_no_module_imports_itself_in_a_circle() -> None:
    TopologicalSorter(
        dependencies(types=False)
    ).prepare()  # raises CycleError, which names the modules


def test_tvm_is_imported_by_the_rooms_of_devices_only() -> None:
    wrong = [
        name
        for name, path in installed().items()
        if any(x.split(".")[0] in ("tvm", "tvm_ffi") for x in imports(name, path))
        and unit(name).removeprefix("qcompiler.") not in TVM
    ]
    assert wrong == []
