"""Files and locks as Windows has them, imitated here."""

import errno
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from rddm_fast.system import files
from rddm_fast.system.portable import locks


@pytest.fixture
def open_handles(monkeypatch: pytest.MonkeyPatch) -> dict[Path, int]:
    """Windows' rules: folders are not opened, and open temporary files neither renamed nor removed."""
    handles: dict[Path, int] = {}
    make, replace, unlink, open_ = tempfile.mkstemp, Path.replace, Path.unlink, os.open

    def recorded(**options: object) -> tuple[int, str]:
        handle, name = make(**options)
        handles[Path(name)] = handle
        return handle, name

    def refuse_if_open(path: Path) -> None:
        if path in handles:
            try:
                os.fstat(handles[path])
            except OSError:
                return
            raise PermissionError(errno.EACCES, "open", str(path))

    def replaced(path: Path, target: Path) -> Path:
        refuse_if_open(path)
        return replace(path, target)

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        refuse_if_open(path)
        unlink(path, missing_ok)

    def opened(path: str | Path, *options: int, **more: object) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "a folder", str(path))
        return open_(path, *options, **more)

    monkeypatch.setattr(files, "WINDOWS", True)
    monkeypatch.setattr(tempfile, "mkstemp", recorded)
    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(Path, "unlink", unlinked)
    monkeypatch.setattr(os, "open", opened)
    return handles


def test_a_file_is_written_whole(tmp_path: Path, open_handles: dict[Path, int]) -> None:
    for text in ("first", "second"):
        files.write_text_whole(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and len(open_handles) == 2


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, open_handles: dict[Path, int]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fails(unfinished: Path) -> None:
        unfinished.write_text("a part")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        files.write_whole(path, fails)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_writer_left_is_removed_and_what_is_written_is_kept(
    tmp_path: Path, open_handles: dict[Path, int]
) -> None:
    path, left = tmp_path / "a.txt", tmp_path / ".a.txt.abcdefgh.txt"
    left.write_text("a part")

    def write(unfinished: Path) -> None:
        unfinished.write_text("whole")
        files.remove_unfinished([path])
        assert unfinished.exists() and not left.exists()

    files.write_whole(path, write)
    assert path.read_text() == "whole"


def windows_locks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as Windows imports it, over a table of locked bytes in msvcrt's place."""
    locked: dict[tuple[int, int], int] = {}

    def locking(descriptor: int, mode: str, count: int) -> None:
        byte = os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR)
        assert count == 1
        if mode == "unlock":
            assert locked.pop(byte) == descriptor
        elif locked.setdefault(byte, descriptor) != descriptor:
            raise PermissionError(errno.EACCES, "locked by another")

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK="lock", LK_UNLCK="unlock"))
    monkeypatch.setattr(sys, "platform", "win32")
    spec = importlib.util.spec_from_file_location("windows_locks", locks.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.undo()
    return module


@pytest.mark.parametrize("system", ["this one", "Windows"])
def test_one_has_the_lock(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = locks if system == "this one" else windows_locks(monkeypatch)
    path = tmp_path / "run.lock"
    path.write_text("process 1")
    first, second = (os.open(path, os.O_RDWR) for _ in range(2))
    assert ours.try_lock(first) and not ours.try_lock(second)
    assert path.read_text() == "process 1"
    ours.unlock(first)
    assert ours.try_lock(second)
    os.close(first), os.close(second)
