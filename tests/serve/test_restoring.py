"""From a picture's bytes to those of its result: progress, what is kept, and what is cut small."""

import numpy as np
import pytest
import torch
from client import file_of

from rddm_fast.images.picture import Picture
from rddm_fast.serve import restoring
from rddm_fast.serve.restoring import Restoring, Upload, smaller


def test_progress_is_by_tiles_and_models_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, told = [], []
    load = restoring.load_model
    monkeypatch.setattr(restoring, "load_model", lambda name: loaded.append(name) or load(name))
    wide = Upload(file_of(np.zeros((16, 260, 3), np.uint8)), "wide.png")
    ours = Restoring(torch.device("cpu"))
    for _ in range(2):
        result = ours.restored(wide, ".png", "derain", 1, lambda done, of: told.append((done, of)))
    assert told == [(1, 2), (2, 2)] * 2 and loaded == ["derain"]
    assert result.suffix == ".png" and result.seconds > 0


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.JPG", ".jpg"), ("a.tiff", ".tiff"), ("a.heic", ".png"), ("a", ".png"), ("a.png.exe", ".png")],
)
def test_the_files_own_format(name: str, suffix: str) -> None:
    assert Upload(b"", name).suffix() == suffix


def test_a_small_copy_keeps_shape_and_transparency() -> None:
    picture = Picture(pixels=torch.rand(3, 100, 400), alpha=torch.ones(1, 100, 400), bits=16)
    small = smaller(picture, 256)
    assert small.pixels.shape == (3, 64, 256) and small.bits == 8
    assert small.alpha is not None and small.alpha.shape == (1, 64, 256)
    assert smaller(picture, 1).pixels.shape == (3, 1, 1)
    assert torch.equal(smaller(picture, 400).pixels, picture.pixels)
