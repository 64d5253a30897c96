"""Pictures: `read_image` of damaged and made-up files, and `write_image` of what it reads."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from rddm_fast.images.picture import WRITE_SUFFIXES, ImageError, Picture, read_image, write_image

from . import image_files, mutate
from .contract import Found, kept


def call(rng: random.Random, folder: Path) -> Found:
    """Read a file that is made in `folder`; write a picture that is read in any format, and read it again."""
    files = image_files.whole()
    name = rng.choice((*files, *["nothing"] * (len(files) // 4)))
    if name == "nothing":
        content = image_files.from_nothing(rng)
    else:
        content = mutate.of_bytes(rng, files[name], list(files.values()))
    if rng.random() < 0.7:
        content = image_files.with_right_checksums(content)
    path = folder / f"picture{rng.choice(sorted(WRITE_SUFFIXES))}"
    path.write_bytes(content)
    suffix = rng.choice((".png", *sorted(WRITE_SUFFIXES)))

    def read_and_write() -> None:
        picture = read_image(path)
        check(picture)
        if max(picture.pixels.shape[1:]) <= 256:  # larger ones are slow to write
            target = folder / f"written{suffix}"
            write_image(target, picture)
            check_same(picture, read_image(target))

    return kept(name.split(" ")[0], read_and_write, (ImageError,))


def check(picture: Picture) -> None:
    """Raise AssertionError unless a picture is as its class says."""
    pixels, alpha = picture.pixels, picture.alpha
    assert pixels.dtype == torch.float32 and pixels.shape[0] == 3 and pixels.numel() > 0, f"pixels of {pixels.shape}"
    assert alpha is None or alpha.shape == (1, *pixels.shape[1:]), "alpha of another size"
    for values in (pixels, alpha):
        assert values is None or bool(((values >= 0) & (values <= 1)).all()), "values outside of [0, 1]"


def check_same(picture: Picture, again: Picture) -> None:
    """Raise AssertionError unless a picture that was written and read is the same, where its format is without loss."""
    check(again)
    assert again.pixels.shape == picture.pixels.shape, "another size is read than was written"
    if again.path is not None and again.path.suffix in (".png", ".tif", ".tiff"):
        difference = float((again.pixels - picture.pixels).abs().max())
        assert difference < 1e-4, f"pixels are {difference} apart after writing and reading"
