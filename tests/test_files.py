"""Atomic writing: the old file or the new one, never a part, nothing left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qcompiler.errors import OutputError
from qcompiler.files import atomic_path


def test_the_file_appears_when_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "a.so"
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".so"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.so"]


def fail_halfway(path: Path, error: type[BaseException]) -> None:
    path.write_text("half")
    raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as temporary:
        fail_halfway(temporary, error)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_writer_that_replaces_the_temporary_file_is_fine(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a") as temporary:
        temporary.unlink()
        temporary.write_text("linked")
    assert (tmp_path / "a").read_text() == "linked"


def test_permissions_are_those_of_a_new_file(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a"):
        pass
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_path(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "no" / "a", tmp_path / "file" / "a", tmp_path, Path(os.devnull)):
        with pytest.raises(OutputError) as info, atomic_path(path):
            pytest.fail("the block ran")
        assert str(info.value).startswith(f"{path}: ")
        assert "\n" not in str(info.value)


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="No space left on device"),
        atomic_path(tmp_path / "a"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert os.listdir(tmp_path) == []
