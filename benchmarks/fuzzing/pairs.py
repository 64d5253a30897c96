"""Training data: `find_pairs` of folders, patterns, lists and CSV files, whole or damaged, and the pairs' items."""

from __future__ import annotations

import os
import random
from pathlib import Path

from rddm_fast.images.datasets import PairedImages
from rddm_fast.images.find import find_images
from rddm_fast.images.pairs import DataError, find_pairs
from rddm_fast.images.picture import ImageError

from . import image_files, mutate
from .contract import Found, kept

STEMS = ("1", "2", "3", "1_rain", "1_clean", "rain-2", "norain-2", "a.b", ".hidden", "é", "a b", "a,b", '"q"', "[1]")
SUFFIXES = (".png", ".PNG", ".jpg", ".gif", ".txt", "")
ENTRIES = (
    "",
    "x" * 300,
    "a/" * 200,
    "..",
    ".",
    "/",
    "~",
    "nul\0",
    "#",
    ",",
    ",,,,",
    '"',
    '"open',
    "\ufeff",
    "é\u2028",
    "\x85",
)
HEADERS = ("input,target", "input,target,mask", " Input , TARGET", "input", "target", "input,input", "", "input;target")


def call(rng: random.Random, folder: Path) -> Found:
    """Find pairs in `folder`, where sources are made, and read the first items."""
    for name in ("input", "target", "mask"):
        _fill(rng, folder / name)
    sources = {name: _source(rng, folder, name) for name in ("input", "target", "mask")}
    if rng.random() < 0.2:
        sources["input"] = _csv(rng, folder)
    kind = Path(sources["input"]).suffix or "folder"
    given = {name: source for name, source in sources.items() if name == "input" or rng.random() < 0.4}
    patch = rng.choice((None, None, 4, 16))

    def find_and_read() -> None:
        if rng.random() < 0.1:
            find_images(given["input"])
        pairs = find_pairs(**given)
        assert pairs, "no pair and no error"
        items = PairedImages(pairs, patch=patch, one_size=rng.random() < 0.5)
        for index in range(min(2, len(items))):
            items[index]

    return kept(kind, find_and_read, (DataError, ImageError))


def _fill(rng: random.Random, folder: Path) -> None:
    """Make files that are named like images, and what else folders hold."""
    folder.mkdir()
    whole = image_files.whole()
    for _ in range(rng.choice((0, 1, 2, 2, 3, 5))):
        path = folder / (rng.choice(("", "", "", "below/")) + rng.choice(STEMS) + rng.choice(SUFFIXES))
        path.parent.mkdir(exist_ok=True)
        how = rng.randrange(12)
        if path.exists() or path.is_symlink():
            continue
        if how == 0:
            path.mkdir()
        elif how == 1:
            path.symlink_to(rng.choice(("nowhere", path.name, "..", "/dev/null")))
        elif how == 2:
            os.mkfifo(path)
        elif how == 3:
            path.write_bytes(mutate.of_bytes(rng, rng.choice(list(whole.values()))))
        else:
            path.write_bytes(whole[rng.choice(("PNG RGB", "PNG L", "JPEG RGB", "GIF P", "PNG RGB tags"))])


def _source(rng: random.Random, folder: Path, name: str) -> str:
    """Return what a user may pass for a source: a folder, a list of it, a pattern, a file, or something odd."""
    how = rng.randrange(8)
    if how <= 2:
        return str(folder / name)
    if how == 3:
        return f"{folder / name}/{rng.choice(('*', '**', '*.png', '**/*.png', '[', '[!1]*', '?'))}"
    if how == 4:
        return str(rng.choice([*sorted((folder / name).iterdir()), folder / name / "missing.png"]))
    if how == 5:
        return rng.choice(("/dev/null", "missing", "x" * 300, str(folder / name / "list.txt"), "~"))
    path = folder / f"{name}{rng.choice(('.flist', '.txt'))}"
    path.write_bytes(_text(rng, [str(p.relative_to(folder)) for p in _images(folder / name)]))
    return str(path)


def _csv(rng: random.Random, folder: Path) -> str:
    """Return a CSV file's name."""
    path = folder / "pairs.csv"
    header = rng.choice(HEADERS)
    columns = [_images(folder / name) for name in ("input", "target", "mask")[: header.count(",") + 1]]
    rows = [",".join(str(p.relative_to(folder)) for p in row) for row in zip(*columns, strict=False)]
    path.write_bytes(_text(rng, [header, *rows]))
    return str(path)


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".gif"))


def _text(rng: random.Random, lines: list[str]) -> bytes:
    if rng.random() < 0.3:
        lines = [*lines, *rng.sample(ENTRIES, 2)]
    content = rng.choice(("\n", "\n", "\r\n", "\r")).join(lines).encode(rng.choice(("utf-8", "utf-8-sig", "utf-16")))
    return (
        mutate.of_bytes(rng, content, [b"\0" * 20, b"x" * 200_000, b'"' + b"y\n" * 99])
        if rng.random() < 0.5
        else content
    )
