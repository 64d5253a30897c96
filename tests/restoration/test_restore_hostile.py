"""`rddm-fast restore` of a folder with 20 good pictures and 40 hostile ones, wherever stdout leads."""

import io
import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from small_models import small_model

from rddm_fast.models.folder import save_model

GOOD, HOSTILE = 20, 40


def encoded(format: str, size: tuple[int, int] = (24, 16), **options: object) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, format, **options)
    return file.getvalue()


def deep(suffix: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 65536, (64, 64, 3), dtype=np.uint16)
    return bytes(cv2.imencode(suffix, noise)[1])


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def with_resolution(numerator: int, denominator: int) -> bytes:
    """A TIFF of this resolution."""
    return encoded("TIFF", dpi=(300, 300)).replace(
        struct.pack("<II", 300, 1), struct.pack("<II", numerator, denominator)
    )


def good_pictures() -> dict[str, bytes]:
    """Odd, but their pixels are whole."""
    png, tiff = encoded("PNG"), encoded("TIFF")
    pictures = {
        "nan.tif": with_resolution(0, 0),
        "infinite.tif": with_resolution(1, 0),
        "nan.jpg": with_resolution(0, 0),
        "nan.png": with_resolution(0, 0),
        "infinite.bmp": with_resolution(1, 0),
        "most.png": with_resolution(2**32 - 1, 1),
        "most.bmp": with_resolution(2**32 - 1, 1),
        "exif.png": png[:33] + chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff") + png[33:],
        "exif2.png": png[:33] + chunk(b"eXIf", b"garbage") + png[33:],
        "exif.jpg": encoded("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xfe" * 20),
        "deep.png": deep(".png"),
        "deep.tif": deep(".tif"),
        "漢字é.png": png,
        "line\nbreak.png": png,
        "[red]bell\x07\x1b[2J.png": png,
        "e" * 250 + ".png": png,
        os.fsdecode(b"latin\xe9.png"): png,
        "plain.webp": encoded("WEBP"),
        "plain.gif": encoded("GIF"),
        "plain.tiff": tiff,
    }
    assert len(pictures) == GOOD
    return pictures


def hostile_pictures() -> dict[str, bytes]:
    """What cannot be restored, by content."""
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    pages = io.BytesIO()
    frames[0].save(pages, "TIFF", save_all=True, append_images=frames[1:])
    floats = io.BytesIO()
    Image.fromarray(np.ones((4, 4), np.float32)).save(floats, "TIFF")
    png = encoded("PNG", (64, 64))
    pictures = {
        "wide.webp": encoded("PNG", (16384, 1)),
        "wide.jpg": encoded("PNG", (65501, 1)),
        "pages.tif": pages.getvalue(),
        "floats.tif": floats.getvalue(),
        "text\nof two lines.png": b"no\npicture",
        os.fsdecode(b"text\xe9.png"): b"no picture",
        "漢字 text.png": b"no picture",
        "[bold]text.png": b"no picture",
        "zeros.png": bytes(4000),
        "bomb.png": png[:16] + struct.pack(">II", 60000, 60000) + png[24:],
        "header.png": png[:30],
    }
    for format, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("TIFF", "tif"), ("WEBP", "webp"), ("BMP", "bmp")):
        data = encoded(format, (64, 64))
        pictures[f"half.{suffix}"] = data[: len(data) // 2]
        pictures[f"empty.{suffix}"] = b""
        pictures[f"start.{suffix}"] = data[:8]
    for compression in ("tiff_deflate", "tiff_lzw"):  # libtiff prints what it makes of them
        data = encoded("TIFF", (64, 64), compression=compression)
        part = len(data) // 4
        pictures[f"damaged {compression}.tif"] = data[:part] + b"\xff" * part + data[2 * part :]
    for suffix in (".png", ".tif"):
        data = deep(suffix)
        pictures[f"half deep{suffix}"] = data[: len(data) // 2]
    return pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """in/ with the pictures, and the model."""
    root = tmp_path_factory.mktemp("hostile")
    save_model(root / "model", small_model("pred_res", dim=8, clip_res=2.0))
    (root / "in").mkdir()
    bad = hostile_pictures()
    for name, data in (good_pictures() | bad).items():
        (root / "in" / name).write_bytes(data)
    os.mkfifo(root / "in" / "pipe.png")
    (root / "in" / "nowhere.png").symlink_to("nothing")
    (root / "in" / "circle.png").symlink_to("circle.png")
    (root / "in" / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(root / "in")
        listener.bind("socket.png")
        os.chdir(here)
    (root / "out" / "taken.png").mkdir(parents=True)
    (root / "in" / "taken.png").write_bytes(encoded("PNG"))
    others = 6
    for i in range(HOSTILE - len(bad) - others):
        (root / "in" / f"more{i}.png").write_bytes(bytes([i]) * 99)
    assert len(os.listdir(root / "in")) == GOOD + HOSTILE
    return root


@pytest.mark.parametrize(("encoding", "printed"), [("ascii", "pipe"), ("latin-1", "/dev/full"), ("utf-8", "gone")])
def test_twenty_are_restored_and_forty_are_named(encoding: str, printed: str, folder: Path) -> None:
    command = [sys.executable, "-P", "-m", "rddm_fast.cli", "restore", "in", "-o", "out", "-m", "model", "--steps", "1"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"}
    stdout: int = subprocess.PIPE
    if printed == "/dev/full":
        stdout = os.open("/dev/full", os.O_WRONLY)
    elif printed == "gone":
        reader, stdout = os.pipe()
        os.close(reader)
    done = subprocess.run(
        [*command, "--overwrite"], stdout=stdout, stderr=subprocess.PIPE, cwd=folder, env=environment, timeout=120
    )
    lines = done.stderr.decode(encoding).splitlines()
    if printed == "/dev/full":
        assert lines.count("warning: nothing more can be printed (No space left on device); the work goes on") == 1
        lines = [line for line in lines if not line.startswith("warning")]
    assert done.returncode == 1
    assert [line for line in lines if not line.startswith("error: in/") and "out/" not in line] == []
    assert len(lines) == HOSTILE
    if printed == "pipe":
        assert f"{GOOD} restored, {HOSTILE} failed" in done.stdout.decode(encoding).splitlines()
        assert "error: in/text\\udce9.png is not a readable" in done.stderr.decode(encoding)
    results = {path.name for path in (folder / "out").iterdir() if path.is_file()}
    assert results == {name.replace(".gif", ".png") for name in good_pictures()}
    for name in results:
        (folder / "out" / name).unlink()
