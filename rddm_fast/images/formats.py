"""Which files are pictures: those that are read, and those that are not, with what to do about them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

READ_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif"})
WRITE_SUFFIXES = READ_SUFFIXES - {".gif"}
HEIC_SUFFIXES = frozenset({".heic", ".heif"})
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_RAW = "a camera's raw file: export it as TIFF or PNG"
_UNREAD = {
    **dict.fromkeys(HEIC_SUFFIXES, "HEIC: pip install pillow-heif, and it is read"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"), _RAW),
    **dict.fromkeys((".avif", ".jxl", ".jp2", ".psd", ".svg", ".exr", ".hdr"), "export it as PNG or JPEG"),
}
"""The suffixes of pictures that are not read -> why, or what to do."""


def formats() -> tuple[str, ...]:
    """Return the formats that are read, by Pillow's names: HEIF among them where pillow-heif is installed."""
    return ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", *(("HEIF",) if _heic_is_read() else ()))


def read_suffixes() -> frozenset[str]:
    """Return the suffixes of the pictures that are read, in lower case: HEIC's where pillow-heif is installed."""
    return READ_SUFFIXES | HEIC_SUFFIXES if importlib.util.find_spec("pillow_heif") else READ_SUFFIXES


def is_picture(path: str | PathLike[str]) -> bool:
    """Return whether a file's suffix is that of a picture, read or not."""
    return suffix_of(path) in READ_SUFFIXES or suffix_of(path) in _UNREAD


def is_heic(data: bytes) -> bool:
    """Return whether a file begins as HEIC does."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS


def why_not_read(path: str | PathLike[str]) -> str:
    """Say in a few words why a file with this suffix is left out of its folder."""
    return _UNREAD.get(suffix_of(path), "no image by its suffix")


def suffix_of(path: str | PathLike[str]) -> str:
    """Return a file's suffix in lower case; the file's name may be an address such as s3://bucket/photo.jpg."""
    return Path(path).suffix.lower()


def left_out_lines(paths: Iterable[str | PathLike[str]], *, names: int = 3) -> list[str]:
    """Sum up the files that are left out: a line for each reason, with the first `names` files and how many there are.

    Pictures that could be read come first, files that are no images last.
    """
    reasons: dict[str, list[str | PathLike[str]]] = {}
    for path in paths:
        reasons.setdefault(why_not_read(path), []).append(path)
    lines = []
    for reason, files in sorted(reasons.items(), key=lambda item: not is_picture(item[1][0])):
        named = ", ".join(str(path) for path in files[:names])
        rest = f" and {len(files) - names} more" if len(files) > names else ""
        lines.append(f"{named}{rest}: {reason}")
    return lines


def _heic_is_read() -> bool:
    """Teach Pillow to read HEIC where pillow-heif is installed; return whether it is."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    importlib.import_module("pillow_heif").register_heif_opener()
    return True
