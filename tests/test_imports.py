"""What importing costs, and that the package list and the public names are true."""

import subprocess
import sys
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

import qcompiler

ROOT = Path(__file__).parent.parent
MAPPING = {"qcompiler": "qcompiler", "passes": "qcompiler.passes", "backends": "qcompiler.backends"}


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
