"""`restore` of one file into one file, and the files of a folder that it leaves out."""

import importlib.util
from pathlib import Path

import pytest
from commands import error_of, run, succeeded
from PIL import Image
from small_models import small_model
from typer.testing import Result

from rddm_fast.images.formats import left_out_lines
from rddm_fast.images.picture import read_image
from rddm_fast.restoration.demo import PHOTOS
from rddm_fast.restoration.restore import Restorer, restore_files

HEIC = b"\x00\x00\x00\x1cftypheic" + bytes(32)
"""How a HEIC file begins."""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    with Image.open(PHOTOS / "coffee.png") as image:
        image.resize((24, 20)).save(tmp_path / "in" / "a.png")
    return tmp_path / "in" / "a.png"


@pytest.fixture
def without_pillow_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pillow_heif" else found(name))


def restore(model: Path, output: Path, *arguments: object) -> Result:
    return run("restore", *arguments, "--model", model, "--output", output)


def test_one_result_has_the_name_that_was_given(model: Path, photo: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "restored.jpg"
    succeeded(restore(model, target, photo))
    with Image.open(target) as image:
        assert image.format == "JPEG" and image.size == (24, 20)
    written = target.stat().st_mtime_ns
    assert f"0 restored, 1 already there as {target}" in succeeded(restore(model, target, photo)).stdout
    assert target.stat().st_mtime_ns == written
    assert "1 restored" in succeeded(restore(model, target, photo, "--overwrite")).stdout


def test_several_results_need_a_folder(model: Path, photo: Path, tmp_path: Path) -> None:
    target = tmp_path / "restored.png"
    for given, named in (((photo, photo), "2 inputs"), ((photo.parent,), f"the folder {photo.parent}")):
        line = error_of(restore(model, target, *given))
        ending = f"the name of one result and not of a folder for those of {named}: name a folder"
        assert line == f"error: --output is {target}, {ending}"
    assert "restored.gif, which cannot be written: use one of .bmp" in error_of(
        restore(model, target.with_suffix(".gif"), photo)
    )
    line = error_of(restore(model, photo, photo))
    assert line == f"error: --output is {photo}, the image that it would be the result of: choose another name"
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    target.mkdir()  # a folder that is named like a picture is a folder
    succeeded(restore(model, target, photo))
    assert [path.name for path in target.iterdir()] == ["a.png"]


@pytest.mark.usefixtures("without_pillow_heif")
def test_files_that_are_left_out_are_named(model: Path, photo: Path, tmp_path: Path) -> None:
    for name in ("IMG_1.HEIC", "notes.txt", "raw.CR2", ".hidden", *(f"page{i}.pdf" for i in range(5))):
        (photo.parent / name).write_bytes(b"something")
    told = succeeded(restore(model, tmp_path / "out", photo.parent))
    assert told.stderr.replace(f"{photo.parent}/", "").splitlines() == [
        "left out: IMG_1.HEIC: HEIC: pip install pillow-heif, and it is read",
        "left out: raw.CR2: a camera's raw file: export it as TIFF or PNG",
        "left out: notes.txt, page0.pdf, page1.pdf and 3 more: no image by its suffix",
    ]
    assert "1 restored, 8 left out" in told.stdout


@pytest.mark.usefixtures("without_pillow_heif")
def test_heic_says_which_package_reads_it(model: Path, tmp_path: Path) -> None:
    (tmp_path / "phone").mkdir()
    for path in (tmp_path / "phone" / "a.heic", tmp_path / "phone" / "b.HEIC"):
        path.write_bytes(HEIC)
    line = error_of(restore(model, tmp_path / "out", tmp_path / "phone" / "a.heic"))
    assert line.endswith("a.heic is HEIC: pip install pillow-heif, and it is read")
    line = error_of(restore(model, tmp_path / "out", tmp_path / "phone"))
    (tmp_path / "film.heic").write_bytes(HEIC.replace(b"heic", b"isom"))
    assert "film.heic is not a readable JPEG" in error_of(restore(model, tmp_path / "out", tmp_path / "film.heic"))
    assert "phone holds no image (.bmp" in line and "b.HEIC: HEIC: pip install pillow-heif, and it is read" in line


def test_heic_is_read_where_pillow_heif_is_installed(model: Path, tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    with Image.open(PHOTOS / "coffee.png") as image:
        small = image.convert("RGB").resize((48, 40))
    (tmp_path / "phone").mkdir()
    small.save(tmp_path / "phone" / "IMG_1.HEIC", "HEIF", quality=95)
    small.save(tmp_path / "truth.png")
    difference = read_image(tmp_path / "phone" / "IMG_1.HEIC").pixels - read_image(tmp_path / "truth.png").pixels
    assert difference.abs().mean() < 0.03
    told = succeeded(restore(model, tmp_path / "out", tmp_path / "phone"))
    assert "1 restored" in told.stdout and told.stderr == ""
    assert read_image(tmp_path / "out" / "IMG_1.png").pixels.shape == (3, 40, 48)


def test_python_is_told_too_and_sums_up(photo: Path, tmp_path: Path) -> None:
    (photo.parent / "notes.txt").touch()
    told: list[list[Path]] = []
    restorer = Restorer(small_model("pred_res", clip_res=2.0), steps=1)
    list(restore_files(restorer, [photo.parent], tmp_path / "out", on_left_out=lambda paths: told.append(list(paths))))
    assert told == [[photo.parent / "notes.txt"]]
    assert left_out_lines(map(Path, "abcd"), names=2) == ["a, b and 2 more: no image by its suffix"]
