"""Finding images in files and folders, and planning where the results go."""

from pathlib import Path

import pytest

from rddm_fast.images.find import find_images, images_of, output_path, plan_outputs
from rddm_fast.images.picture import ImageError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.PNG", "a.jpg", "sub/c.Tiff", "sub/d.gif", "notes.txt", ".hidden.png", ".cache/e.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "in"


def test_find_images_in_folders_and_files(folder):
    names = [path.relative_to(folder).as_posix() for path in find_images(folder)]
    assert names == ["a.jpg", "b.PNG", "sub/c.Tiff", "sub/d.gif"]
    assert find_images([folder / "b.PNG", str(folder)])[0] == folder / "b.PNG"
    assert len(find_images([folder / "b.PNG", folder])) == 4
    assert find_images(str(folder / "notes.txt")) == [folder / "notes.txt"]


def test_find_images_errors(tmp_path, folder):
    with pytest.raises(ImageError, match="missing does not exist"):
        find_images(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"empty holds no image \(\.bmp, \.gif"):
        find_images([folder, tmp_path / "empty"])
    with pytest.raises(ImageError, match="no image was given"):
        find_images([])


def test_output_path():
    assert output_path("in/sub/a.JPG", "in", "out") == Path("out/sub/a.JPG")
    assert output_path("in/a.b.gif", "in", "out") == Path("out/a.b.png")
    with pytest.raises(ValueError):
        output_path("elsewhere/a.png", "in", "out")


def test_plan_outputs(tmp_path, folder):
    out = tmp_path / "out"
    plan = plan_outputs([*images_of(folder), *images_of(folder / "sub" / "c.Tiff")], out)
    names = [target.relative_to(out).as_posix() for _, target in plan]
    assert names == ["a.jpg", "b.PNG", "sub/c.Tiff", "sub/d.png"]
    (folder / "sub" / "d.png").touch()
    with pytest.raises(ImageError, match=r"d\.gif and .*d\.png would both be written to .*out/sub/d\.png"):
        plan_outputs(images_of(folder), out)
    with pytest.raises(ImageError, match=r"would overwrite .*a\.jpg; choose another output folder"):
        plan_outputs(images_of(folder / "a.jpg"), folder)
