"""The examples in docstrings, run under the names that the modules are installed as."""

import doctest
import importlib
import pkgutil

import pytest

import qcompiler


def modules() -> list[str]:
    found = [qcompiler.__name__]
    for package in ("qcompiler", "qcompiler.passes", "qcompiler.backends"):
        path = importlib.import_module(package).__path__
        found += [m.name for m in pkgutil.walk_packages(path, f"{package}.")]
    return sorted(set(found))


def with_examples() -> list[str]:
    finder = doctest.DocTestFinder()
    return [
        name
        for name in modules()
        if any(test.examples for test in finder.find(importlib.import_module(name)))
    ]


def test_modules_are_found():
    assert {"qcompiler.graph", "qcompiler.passes.fuse", "qcompiler.backends.onnx"} <= set(modules())


@pytest.mark.parametrize("name", with_examples())
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
