"""Read and write pictures for restoration, keeping the file's depth, alpha, colour profile and resolution.

A picture is float32 in [0, 1] whatever its file holds: 8 or 16 bits per sample, grey, colour, palette or CMYK,
with or without alpha. `Picture` remembers which, and `write_image` restores it as far as the output's format can.

Pillow reads and writes everything except 16-bit colour, which it silently cuts to 8 bits. OpenCV takes that.
"""

from __future__ import annotations

import io
import math
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..system.errors import one_line
from ..system.extras import require
from ..system.files import write_whole
from ..system.memory import out_of_memory
from ..system.silence import silent_stderr
from .formats import WRITE_SUFFIXES, formats, is_heic

_JPEG: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0}
_TIFF: dict[str, Any] = {"format": "TIFF", "compression": "tiff_deflate"}
_PILLOW_OPTIONS: dict[str, dict[str, Any]] = {
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".png": {"format": "PNG"},
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": {"format": "BMP"},
    ".webp": {"format": "WEBP", "lossless": True},
}

_GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"}

# How the files begin of whose damage a library prints by itself: libtiff of TIFF, OpenCV and its libpng of 16-bit PNG.
_PRINTED_OF = (b"II", b"MM", b"\x89PNG")

# The longest sides that a format holds, where pictures of that size can be restored.
_LONGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}


class ImageError(ValueError):
    """A picture cannot be read or written; the message is one sentence that names the file."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image and the properties of its file.

    Attributes:
        pixels: float32 (3, H, W) in [0, 1]; a grey picture has three equal channels.
        alpha: float32 (1, H, W) in [0, 1], or None.
        grey: whether the file had one colour channel.
        bits: 8 or 16 bits per sample.
        path: the file it was read from, or None.
        icc: its colour profile, or None.
        dpi: its resolution (x, y) in dots per inch, or None.
    """

    pixels: Tensor
    alpha: Tensor | None = None
    grey: bool = False
    bits: int = 8
    path: Path | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None

    def with_pixels(self, pixels: Tensor) -> Picture:
        """Return this picture with other pixels: a float tensor (3, H, W) of the same size.

        Raises:
            ValueError: pixels of another shape.
        """
        if pixels.shape != self.pixels.shape:
            shapes = tuple(self.pixels.shape), tuple(pixels.shape)
            raise ValueError(f"expected pixels of shape {shapes[0]}, got {shapes[1]}")
        return replace(self, pixels=pixels)


def sides(image: Tensor) -> str:
    """Return width and height of (C, H, W) as a text, such as 640x480."""
    return f"{image.shape[2]}x{image.shape[1]}"


def read_image(path: str | PathLike[str]) -> Picture:
    """Read a JPEG, PNG, TIFF, BMP, WebP, GIF or, with pillow-heif, HEIC file. Its content decides, not its suffix.

    The EXIF orientation is applied. Palettes become colours. CMYK becomes RGB by Pillow's plain formula, and the
    CMYK profile is dropped. 1, 2 and 4 bits per sample become 8.

    Raises:
        ImageError: the file is missing, a folder, empty, of another format, damaged, too large to be trusted,
            animated or of several pages, or does not have 1, 2, 4, 8 or 16 bits per sample.
        ImportError: Pillow, or OpenCV for 16-bit colour, is not installed.
    """
    path = Path(path)
    return decoded(_read_bytes(path), path)


def decoded(data: bytes, path: Path, *, most_pixels: int | None = None) -> Picture:
    """Return the picture that a file's bytes hold, as `read_image` does; nothing is read from the disk.

    Args:
        data: the file's bytes.
        path: what errors call the file, and the picture's `path`.
        most_pixels: refuse a larger picture, before it takes memory.

    Raises:
        ImageError, ImportError: as `read_image`.
    """
    if not data:
        raise ImageError(f"{path} is empty (0 bytes)")
    pil = require("PIL.Image", "cli")
    try:
        with _quiet(data), pil.open(io.BytesIO(data), formats=formats()) as image:
            if most_pixels is not None and image.width * image.height > most_pixels:
                limit = f"at most {most_pixels / 1e6:g} million pixels are taken"
                raise ImageError(f"{path} has {image.width}x{image.height} pixels, and {limit}: make it smaller")
            bits = _bits_per_sample(image, data)
            if bits not in (1, 2, 4, 8, 16):
                raise ImageError(f"{path} has {bits}-bit or floating-point samples; use 8 or 16 bits")
            if bits == 16 and image.mode in ("CMYK", "LAB"):
                raise ImageError(f"{path} is {image.mode} with 16-bit samples; convert it to RGB first")
            # A phone's JPEG (MPO) or HEIC may carry more pictures; the one shown is the photograph.
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format not in ("MPO", "HEIF"):
                raise ImageError(f"{path} holds {frames} frames or pages; split it into single images first")
            image.load()
            samples, grey = _samples(image, data, bits)
            orientation = _orientation(image)
            icc = image.info.get("icc_profile") if image.mode not in ("CMYK", "LAB") else None
            dpi = _resolution(image.info.get("dpi"))
    except (ImageError, ImportError, MemoryError):
        raise
    except pil.UnidentifiedImageError:
        if is_heic(data) and "HEIF" not in formats():
            raise ImageError(f"{path} is HEIC: pip install pillow-heif, and it is read") from None
        raise ImageError(f"{path} is not a readable JPEG, PNG, TIFF, BMP, WebP or GIF image") from None
    except pil.DecompressionBombError as error:
        raise ImageError(f"{path} is too large to be trusted: {error}") from error
    except Exception as error:  # A decoder raises anything on damaged data: OSError, SyntaxError, ...
        if out_of_memory(error):
            raise
        raise ImageError(f"{path} is damaged and cannot be read: {one_line(error)}") from error

    samples = _upright(samples, orientation)
    values = torch.from_numpy(np.ascontiguousarray(samples.transpose(2, 0, 1)).astype(np.float32))
    values /= 65535.0 if bits == 16 else 255.0
    colours = 1 if values.shape[0] <= 2 else 3
    return Picture(
        pixels=values[:colours].repeat(3 // colours, 1, 1),
        alpha=values[colours:].clone() if values.shape[0] > colours else None,
        grey=grey,
        bits=16 if bits == 16 else 8,
        path=path,
        icc=icc,
        dpi=dpi,
    )


def write_image(path: str | PathLike[str], picture: Picture, *, overwrite_input: bool = False) -> None:
    """Write a picture, whole or not at all, in the format of the suffix; create the folder if needed.

    Pixels and alpha are clamped to [0, 1] and rounded to nearest. These are kept where the format can hold them:
    16 bits (PNG, TIFF), one grey channel (all but WebP and 16-bit grey with alpha, which become colour), alpha
    (PNG, TIFF, WebP), the colour profile (all but BMP and 16-bit colour TIFF), the resolution. JPEG and BMP have
    no alpha: such a picture is laid over white. JPEG is written at quality 95 without chroma subsampling, the
    other formats without loss.

    Raises:
        ImageError: the suffix is not in `WRITE_SUFFIXES`, the pixels are not finite, the file cannot be written,
            or it is the file that the picture was read from and `overwrite_input` is false.
    """
    path = Path(path)
    _check_suffix(path)
    if not overwrite_input and picture.path is not None and path.exists() and path.samefile(picture.path):
        raise ImageError(f"{path} is the file that the picture was read from; choose another name")
    data = encoded(picture, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda unfinished: unfinished.write_bytes(data))
    except (OSError, ValueError) as error:  # ValueError: a name that the file system's encoding lacks
        raise ImageError(f"{path} cannot be written: {getattr(error, 'strerror', None) or one_line(error)}") from error


def encoded(picture: Picture, path: Path) -> bytes:
    """Return the bytes of the file that `write_image` writes; nothing is written.

    Args:
        picture: the picture.
        path: its suffix is the format, and errors call the file so.

    Raises:
        ImageError: the suffix is not in `WRITE_SUFFIXES`, the pixels are not finite, or the format cannot hold them.
    """
    _check_suffix(path)
    for values in (picture.pixels, picture.alpha):
        if values is not None and not torch.isfinite(values).all():
            raise ImageError(f"{path} was not written: the picture has values that are not finite")
    suffix, longest = path.suffix.lower(), max(picture.pixels.shape[1:])
    if longest > _LONGEST_SIDE.get(suffix, longest):
        limit = f"at most {_LONGEST_SIDE[suffix]} pixels along a side"
        raise ImageError(f"{path} cannot be written: {suffix} holds {limit}, not {longest}; give it the suffix .png")
    try:
        return _encode(suffix, picture)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # An encoder raises anything, too.
        if out_of_memory(error):
            raise
        raise ImageError(f"{path} cannot be written as {suffix}: {one_line(error)}") from error


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in WRITE_SUFFIXES:
        raise ImageError(f"{path} cannot be written: use one of {', '.join(sorted(WRITE_SUFFIXES))}")


def _read_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise ImageError(f"{path} is a folder, not an image")
    try:
        # A pipe or a device may wait for ever, or never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(f"{path} is a pipe, a socket or a device, not a file; save the picture in a file first")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist") from None
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error
    return data


@contextmanager
def _quiet(data: bytes) -> Iterator[None]:
    """Silence Pillow's warnings of damaged metadata, of which the orientation alone is used, and libraries' prints."""
    with warnings.catch_warnings(), silent_stderr() if data.startswith(_PRINTED_OF) else nullcontext():
        warnings.simplefilter("ignore")
        yield


def _bits_per_sample(image: Any, data: bytes) -> int:
    """Return the bits per sample of the file, 32 for floating point. Pillow's mode hides 16-bit colour."""
    if image.format == "PNG":
        return data[24]  # where the header chunk, which comes first, holds the bit depth
    if image.format == "TIFF":
        bits = max(image.tag_v2.get(258, (1,)))
        return 32 if image.mode == "F" else bits
    return 8


def _orientation(image: Any) -> int:
    """Return the EXIF orientation, 1 (upright) where the EXIF data is damaged: the pixels may be whole."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:
        return 1


def _resolution(dpi: Any) -> tuple[float, float] | None:
    """Return a resolution as two floats, None where it is none: damaged, 0, or more than every format holds."""
    try:
        x, y = float(dpi[0]), float(dpi[1])
    except (TypeError, ValueError, ArithmeticError, LookupError):
        return None
    return (x, y) if all(math.isfinite(value) and 0 < value <= 65535 for value in (x, y)) else None


def _samples(image: Any, data: bytes, bits: int) -> tuple[npt.NDArray[Any], bool]:
    """Return the stored samples, and whether they are grey.

    They are (H, W, C) with C = 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha.
    """
    # Pillow opens a 16-bit grey PNG with alpha as colour; the header's colour type 4 tells.
    grey = image.mode in _GREY_MODES or (image.format == "PNG" and data[25] == 4)
    if bits == 16 and not image.mode.startswith("I"):
        cv2 = require("cv2", "cli")
        samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if samples is None or samples.dtype != np.uint16:
            raise ValueError("OpenCV cannot decode it with 16 bits")
        if grey:
            return samples[..., [0, 3]], True
        return samples[..., [2, 1, 0, 3] if image.mode == "RGBA" else [2, 1, 0]], False
    if bits == 16:
        return np.asarray(image)[..., None], True
    opaque, transparent = ("L", "LA") if grey else ("RGB", "RGBA")
    samples = np.asarray(image.convert(transparent if image.has_transparency_data else opaque))
    return samples.reshape(*samples.shape[:2], -1), grey


def _upright(samples: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Apply an EXIF orientation, 1 to 8, to (H, W, C)."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples


def _encode(suffix: str, picture: Picture) -> bytes:
    pil = require("PIL.Image", "cli")
    bits = picture.bits if suffix in (".png", ".tif", ".tiff") else 8
    colour = picture.pixels.detach().float().cpu().clamp(0, 1)
    alpha = None if picture.alpha is None else picture.alpha.detach().float().cpu().clamp(0, 1)
    if suffix in (".jpg", ".jpeg", ".bmp") and alpha is not None:
        colour, alpha = colour * alpha + (1 - alpha), None
    # The three channels of a restored grey picture are three estimates of one value.
    channels = colour.mean(0, keepdim=True) if picture.grey else colour
    icc = picture.icc
    if picture.grey and (suffix == ".webp" or (bits == 16 and alpha is not None)):
        channels, icc = channels.repeat(3, 1, 1), None  # a grey profile does not fit colour
    if alpha is not None:
        channels = torch.cat([channels, alpha])

    scaled = (channels * (65535 if bits == 16 else 255)).round().permute(1, 2, 0).numpy()
    samples: npt.NDArray[Any] = scaled.astype(np.uint16 if bits == 16 else np.uint8)
    if bits == 16 and samples.shape[2] > 1:
        return _encode_colour16(suffix, samples, icc, picture.dpi)

    image = pil.fromarray(samples.squeeze(2) if samples.shape[2] == 1 else samples)
    options = dict(_PILLOW_OPTIONS[suffix])
    if icc is not None:
        options["icc_profile"] = icc
    if picture.dpi is not None:
        options["dpi"] = picture.dpi
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def _encode_colour16(
    suffix: str, samples: npt.NDArray[Any], icc: bytes | None, dpi: tuple[float, float] | None
) -> bytes:
    cv2 = require("cv2", "cli")
    order = [2, 1, 0, 3][: samples.shape[2]]
    options = []
    if dpi is not None and suffix != ".png":
        x, y = (round(value) for value in dpi)
        inch = 2
        options = [cv2.IMWRITE_TIFF_RESUNIT, inch, cv2.IMWRITE_TIFF_XDPI, x, cv2.IMWRITE_TIFF_YDPI, y]
    _, encoded = cv2.imencode(suffix, np.ascontiguousarray(samples[..., order]), options)
    data: bytes = encoded.tobytes()
    if suffix != ".png":
        return data
    # OpenCV writes neither profile nor resolution. Insert their chunks after the signature and the header chunk.
    extra = b""
    if icc is not None:
        extra += _png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc))
    if dpi is not None:
        dots_per_metre = [round(value / 0.0254) for value in dpi]
        extra += _png_chunk(b"pHYs", struct.pack(">IIB", *dots_per_metre, 1))
    header_end = 8 + 25
    return data[:header_end] + extra + data[header_end:]


def _png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
