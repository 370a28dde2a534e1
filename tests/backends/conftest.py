"""What several tests of backends start from."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fake_gpu import FakeGpu


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> FakeGpu:
    pytest.importorskip("tvm")
    from fake_gpu import FakeGpu, build_driver

    library = build_driver(tmp_path_factory.mktemp("driver"))
    if library is None:
        pytest.skip("needs gcc and g++")
    return FakeGpu(library)


@pytest.fixture
def gpu(driver: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """A machine with one GPU, which is checked for mistakes and leaks afterwards."""
    monkeypatch.setenv("QCOMPILER_CUDA_DRIVER", driver.path)
    state = driver.state
    state.capability, state.devices, state.failing = 90, 1, b""
    state.launched_graphs = state.updates = state.waits = 0
    driver.calls.clear()
    driver.errors.clear()
    gc.collect()
    leaked, contexts = state.leaked, state.contexts
    yield driver
    state.failing = b""
    driver.finish()
    assert driver.errors == []
    gc.collect()
    assert state.leaked <= leaked  # less, where a test before this one failed
    assert state.contexts <= contexts
