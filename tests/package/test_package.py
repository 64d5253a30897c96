"""Importing is silent and light; the public names are there; files are written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rddm_fast
from rddm_fast.system.files import write_whole

CORE = [
    "theory.schedule",
    "theory.objective",
    "theory.steps",
    "diffusion",
    "diffusion.residual_unets",
    "ops",
    "fast",
    "compat",
    "system.files",
    "models.folder",
    "ops.env_report",
]
EXTRAS = [
    "safetensors",
    "PIL",
    "cv2",
    "typer",
    "rich",
    "accelerate",
    "torchmetrics",
    "matplotlib",
    "pynvml",
    "skimage",
    "torchvision",
]


def test_the_core_imports_without_any_extra_and_without_a_word() -> None:
    code = f"""
import sys
import torch
triton = "triton" in sys.modules  # torch may import it; this package's core does not
for name in {EXTRAS}:
    sys.modules[name] = None  # an import of it fails
import rddm_fast
for name in {CORE}:
    __import__("rddm_fast." + name)
rddm_fast.FastSampler
assert not torch.cuda.is_initialized()
assert ("triton" in sys.modules) == triton and "rddm_fast.kernels" not in sys.modules
assert all(sys.modules[name] is None for name in {EXTRAS})
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missing_extra_is_named_where_it_is_needed(tmp_path: Path) -> None:
    code = "import sys; sys.modules['safetensors'] = None; import rddm_fast; rddm_fast.load_model('derain')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("pip install 'rddm_fast[models]' installs it")


def test_every_public_name_is_there() -> None:
    assert all(getattr(rddm_fast, name) is not None for name in rddm_fast.__all__)
    assert set(rddm_fast.__all__) <= set(dir(rddm_fast))
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = rddm_fast.Nothing  # type: ignore[attr-defined]


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
