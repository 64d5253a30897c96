"""Photographs to train on: found in a fixed order, complete or not at all, and scaled down."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rddm_fast.images.photographs import SOURCES, find_training_photographs, gather

Image = pytest.importorskip("PIL.Image")

PHOTOS = sorted((Path(__file__).parents[2] / "rddm_fast" / "restoration" / "photos").glob("*.png"))


def fake_package(root: Path, package: str, size: tuple[int, int] = (640, 400)) -> Path:
    for name in SOURCES[package].names:
        path = root / SOURCES[package].pattern.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)
    return root


def test_training_photographs_are_found_in_a_fixed_order(tmp_path):
    roots = {package: fake_package(tmp_path / package, package, (4, 4)) for package in SOURCES}
    found = find_training_photographs(roots)
    assert len(found) == len(set(found)) == sum(len(source.names) for source in SOURCES.values()) == 33
    assert found == find_training_photographs(dict(reversed(roots.items())))
    assert not {path.stem for path in found} & {path.stem for path in PHOTOS}  # the demo photographs


def test_no_training_photographs_says_what_to_install(tmp_path):
    nowhere = {package: tmp_path / package for package in SOURCES}
    with pytest.raises(FileNotFoundError, match=r"apt install mate-backgrounds; pip install scikit-image"):
        find_training_photographs(nowhere)
    with pytest.raises(ValueError, match="unknown package 'gimp' in roots; the packages are plasma"):
        find_training_photographs({"gimp": tmp_path})


def test_another_version_of_a_package_is_an_error(tmp_path):
    root = fake_package(tmp_path, "mate-backgrounds", (4, 4))
    (root / "nature" / "Dune.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"nature/Dune\.jpg is missing: another version of mate-backgrounds"):
        find_training_photographs({"mate-backgrounds": root})


def test_gather_scales_down_but_not_too_far(tmp_path):
    roots: dict[str, Path] = {package: tmp_path / "none" for package in SOURCES}
    roots["mate-backgrounds"] = fake_package(tmp_path / "mate", "mate-backgrounds", (1280, 1024))
    written = gather(tmp_path / "out", 2, roots=roots)
    assert sorted(path.name for path in written) == sorted(os.listdir(tmp_path / "out"))
    assert written[0].name == "mate-backgrounds-Aqua.png"
    assert Image.open(written[0]).size == (640, 512)
    assert Image.open(gather(tmp_path / "out", 4, roots=roots)[0]).size == (375, 300)
    with pytest.raises(ValueError, match="scale must be at least 1"):
        gather(tmp_path / "out", 0.5, roots=roots)


def test_gather_from_the_command_line(tmp_path):
    root = fake_package(tmp_path / "plasma", "plasma-workspace-wallpapers", (64, 40))
    roots = [f"--root=plasma-workspace-wallpapers={root}", f"--root=mate-backgrounds={tmp_path / 'none'}"]
    roots.append(f"--root=scikit-image={tmp_path / 'none'}")
    command = [sys.executable, "-m", "rddm_fast.images.photographs", str(tmp_path / "out")]
    run = subprocess.run([*command, *roots], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == f"11 photographs written to {tmp_path / 'out'}\n"
    run = subprocess.run([*command, "--root=oops"], capture_output=True, text=True)
    assert run.returncode == 2 and "--root takes PACKAGE=FOLDER, got 'oops'" in run.stderr
    run = subprocess.run([*command, f"--root=gimp={tmp_path}"], capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.startswith("error: unknown package 'gimp'")
