"""Photographs to train on: found in a fixed order, complete or not at all, and scaled down."""

import os
from pathlib import Path

import pytest
from commands import python

from rddm_fast.images.photographs import SOURCES, find_training_photographs, gather
from rddm_fast.restoration.demo import photographs

Image = pytest.importorskip("PIL.Image")

PHOTOS = photographs()


def fake_package(root: Path, package: str, size: tuple[int, int] = (640, 400)) -> Path:
    for name in SOURCES[package].names:
        path = root / SOURCES[package].pattern.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)
    return root


def test_training_photographs_are_found_in_a_fixed_order(tmp_path):
    roots = {package: fake_package(tmp_path / package, package, (4, 4)) for package in SOURCES}
    found = find_training_photographs(roots)
    assert len(found) == len(set(found)) == sum(len(source.names) for source in SOURCES.values()) == 41
    assert found == find_training_photographs(dict(reversed(roots.items())))
    assert not {path.stem for path in found} & {path.stem for path in PHOTOS}  # the demo photographs


def test_no_training_photographs_says_what_to_install(tmp_path):
    nowhere = {package: tmp_path / package for package in SOURCES}
    with pytest.raises(FileNotFoundError, match=r"apt install mate-backgrounds; .*; pip install scikit-image"):
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
    # Whatever else is installed on this machine is not looked for.
    folders = {package: tmp_path / "none" for package in SOURCES} | {"plasma-workspace-wallpapers": root}
    command = ("-m", "rddm_fast.images.photographs", tmp_path / "out")
    done = python(*command, *(f"--root={package}={folder}" for package, folder in folders.items()))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"11 photographs written to {tmp_path / 'out'}\n"
    done = python(*command, "--root=oops")
    assert done.returncode == 2 and "--root takes PACKAGE=FOLDER, got 'oops'" in done.stderr
    done = python(*command, f"--root=gimp={tmp_path}")
    assert done.returncode == 1 and done.stderr.startswith("error: unknown package 'gimp'")
