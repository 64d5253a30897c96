"""A file is written whole or not at all."""

import os
from pathlib import Path

import pytest

from rddm_fast.system.files import write_whole


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, lambda unfinished: unfinished.write_text("first"))

    def fails(unfinished: Path) -> None:
        unfinished.write_text("sec")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_whole(path, fails)
    assert path.read_text() == "first" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.stat().st_mode & 0o600 == 0o600


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_first_write_that_fails_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def fails(unfinished: Path) -> None:
        unfinished.write_text("a part")
        raise error

    with pytest.raises(error):
        write_whole(tmp_path / "a.txt", fails)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("old")
    seen: list[str] = []

    def write(unfinished: Path) -> None:
        unfinished.write_text("new")
        seen.append(path.read_text())
        assert unfinished.parent == tmp_path and unfinished.suffix == ".safetensors"

    write_whole(str(path), write)
    assert seen == ["old"] and path.read_text() == "new" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_has_the_permissions_of_an_ordinary_one(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "a", lambda unfinished: unfinished.write_bytes(b"x"))
        assert os.umask(umask) == umask  # left as it was
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode
