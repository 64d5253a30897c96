"""Small picture files of every format that is read: whole ones, of pixels, and ones from nothing, of bytes."""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib
from typing import Any

import numpy as np

from rddm_fast.system.extras import require

from .mutate import NUMBERS

SIGNATURE = b"\x89PNG\r\n\x1a\n"


@functools.cache
def whole() -> dict[str, bytes]:
    """Name to content: each format in the modes, depths and compressions that it knows."""
    pil, sequence = require("PIL.Image", "cli"), np.random.default_rng(0)
    colour = pil.fromarray(sequence.integers(0, 256, (9, 7, 3), np.uint8))
    alpha = pil.fromarray(sequence.integers(0, 256, (9, 7, 4), np.uint8))
    deep = pil.fromarray(sequence.integers(0, 65536, (9, 7), np.uint16))
    as_mode = {mode: (alpha if "A" in mode else colour).convert(mode) for mode in ("1", "L", "LA", "P", "CMYK", "LAB")}
    as_mode |= {"RGB": colour, "RGBA": alpha, "I;16": deep, "F": colour.convert("F")}
    exif = pil.Exif()
    exif[0x0112] = 6
    tags = {"exif": exif.tobytes(), "dpi": (300, 300), "icc_profile": bytes(range(200))}

    files: dict[str, bytes] = {}

    def add(form: str, mode: str, name: str = "", **options: Any) -> None:
        buffer = io.BytesIO()
        as_mode[mode].save(buffer, form, **options)
        files[f"{form} {mode} {name}".strip()] = buffer.getvalue()

    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        add("PNG", mode)
    add("PNG", "P", "transparent", transparency=3)
    add("PNG", "RGB", "tags", **tags)
    for mode in ("L", "RGB", "CMYK"):
        add("JPEG", mode)
    add("JPEG", "RGB", "progressive", progressive=True, restart_marker_blocks=1)
    add("JPEG", "RGB", "tags", **tags)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "F"):
        add("TIFF", mode)
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "tiff_adobe_deflate"):
        add("TIFF", "RGB", compression, compression=compression)
    add("TIFF", "1", "group4", compression="group4")
    add("TIFF", "RGB", "tags", **tags)
    add("TIFF", "RGB", "pages", save_all=True, append_images=[colour])
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        add("BMP", mode)
    add("WEBP", "RGB")
    add("WEBP", "RGBA", "lossless", lossless=True)
    add("WEBP", "RGB", "tags", **tags)
    add("WEBP", "RGB", "animated", save_all=True, append_images=[colour.rotate(90)])
    add("GIF", "P")
    add("GIF", "L", "transparent", transparency=3)
    add("GIF", "P", "animated", save_all=True, append_images=[as_mode["P"].rotate(90)])

    # Pillow writes no 16-bit colour.
    cv2 = require("cv2", "cli")
    for suffix in (".png", ".tif"):
        for channels in (3, 4):
            samples = sequence.integers(0, 65536, (9, 7, channels)).astype(np.uint16)
            files[f"{suffix[1:].upper()} 16-bit {channels}"] = cv2.imencode(suffix, samples)[1].tobytes()
    rows = b"".join(b"\0" + sequence.bytes(4 * 7) for _ in range(9))
    files["PNG 16-bit LA"] = SIGNATURE + _chunks((b"IHDR", _header(7, 9, 16, 4, 0)), (b"IDAT", zlib.compress(rows)))
    return files


def _header(width: int, height: int, bits: int, colour: int, interlaced: int) -> bytes:
    return struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)


def _chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def with_right_checksums(data: bytes) -> bytes:
    """Return a PNG whose chunks have the checksums of what they hold, so that a change comes past them."""
    if not data.startswith(SIGNATURE):
        return data
    at, chunks = len(SIGNATURE), []
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if length > len(data) - at - 12:
            break
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return SIGNATURE + _chunks(*chunks) + data[at:]


# -- from nothing ---------------------------------------------------------------------------------------------


def from_nothing(rng: random.Random) -> bytes:
    """Return bytes that begin as a picture's do, and go on at random in that format's structure."""
    return rng.choice(_MADE)(rng)


def _small(rng: random.Random) -> int:
    return rng.choice((*NUMBERS, 5, 9)) if rng.random() < 0.3 else rng.randint(1, 12)


def _png(rng: random.Random) -> bytes:
    names = (b"IDAT", b"IDAT", b"PLTE", b"tRNS", b"pHYs", b"iCCP", b"eXIf", b"gAMA", b"acTL", b"fcTL", b"tEXt", b"zTXt")
    header = _header(
        _small(rng), _small(rng), rng.choice((1, 2, 4, 8, 16, 3)), rng.choice((0, 2, 3, 4, 6, 1)), rng.randrange(3)
    )
    chunks = [(b"IHDR", header)]
    for _ in range(rng.randrange(6)):
        data = rng.randbytes(rng.choice((0, 1, 6, 9, 48, 300)))
        name = rng.choice(names)
        chunks.append((name, zlib.compress(data) if name == b"IDAT" or rng.random() < 0.2 else data))
    return SIGNATURE + _chunks(*chunks, (b"IEND", b""))


def _jpeg(rng: random.Random) -> bytes:
    segments = [b"\xff\xd8"]
    for _ in range(rng.randrange(8)):
        marker = rng.choice((0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE))
        data = rng.randbytes(rng.choice((0, 2, 14, 64)))
        if marker in (0xC0, 0xC2):
            parts = rng.choice((1, 3, 4))
            data = struct.pack(">BHHB", 8, _small(rng) & 0xFFFF, _small(rng) & 0xFFFF, parts)
            data += b"".join(bytes((i + 1, 0x11, 0)) for i in range(parts))
        elif marker == 0xE1:
            data = b"Exif\0\0" + _tiff(rng)[:200]
        segments.append(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data)
    return b"".join(segments) + rng.randbytes(rng.randrange(40)) + b"\xff\xd9"


def _tiff(rng: random.Random) -> bytes:
    order = rng.choice("<>")
    known = (256, 257, 258, 259, 262, 273, 277, 278, 279, 282, 283, 284, 296, 274, 317, 320, 322, 323, 324, 338, 339)
    entries = []
    for tag in sorted(rng.sample(known, rng.randint(4, len(known)))):
        kind = rng.choice((3, 4)) if rng.random() < 0.8 else rng.randrange(14)
        count = 1 if rng.random() < 0.8 else rng.choice((0, 2, 3, 4, 0xFFFFFFFF))
        usual = {256: 5, 257: 5, 258: 8, 259: rng.choice((1, 5, 7, 8, 32773)), 262: rng.choice((0, 1, 2, 3, 6)), 273: 8}
        number = usual.get(tag, 1) if rng.random() < 0.7 else rng.choice(NUMBERS)
        value = struct.pack(order + "HH", number & 0xFFFF, 0) if kind == 3 else struct.pack(order + "I", number)
        entries.append(struct.pack(order + "HHI", tag, kind, count) + value)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + struct.pack(order + "I", 0)
    return magic + struct.pack(order + "I", 8) + directory + rng.randbytes(rng.choice((0, 25, 300)))


def _bmp(rng: random.Random) -> bytes:
    size = rng.choice((12, 40, 52, 56, 64, 108, 124, 3))
    bits, compression = rng.choice((1, 2, 4, 8, 16, 24, 32, 7)), rng.choice((0, 0, 1, 2, 3, 4, 6))
    width, height = _small(rng), rng.choice((_small(rng), 0xFFFFFFFB))
    header = struct.pack("<IIIHHIIIIII", size, width, height, 1, bits, compression, 0, 0, 0, rng.choice(NUMBERS), 0)
    header = (header + rng.randbytes(90))[: max(size, 40)]
    offset = rng.choice((14 + size, 54, 0, *NUMBERS))
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, offset) + header + rng.randbytes(rng.choice((0, 60, 900)))


def _webp(rng: random.Random) -> bytes:
    chunks = b""
    for _ in range(rng.randrange(1, 5)):
        data = rng.randbytes(rng.choice((0, 10, 16, 50)))
        name = rng.choice((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"ICCP"))
        data = (b"\x2f" if name == b"VP8L" else b"\x30\x01\x00\x9d\x01\x2a" if name == b"VP8 " else b"") + data
        chunks += name + struct.pack("<I", rng.choice((len(data), *NUMBERS))) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def _gif(rng: random.Random) -> bytes:
    flags = rng.choice((0x80, 0x81, 0x87, 0, rng.randrange(256)))
    content = b"GIF89a" + struct.pack("<HHBBB", _small(rng) & 0xFFFF, _small(rng) & 0xFFFF, flags, 0, 0)
    content += rng.randbytes(3 << ((flags & 7) + 1)) if flags & 0x80 else b""
    for _ in range(rng.randrange(5)):
        data = rng.randbytes(rng.choice((1, 4, 30)))
        if rng.random() < 0.5:
            content += b"!" + rng.choice((b"\xf9", b"\xfe", b"\xff", b"\x01")) + bytes((len(data),)) + data + b"\0"
        else:
            place = (rng.randrange(3), 0, _small(rng) & 0xFFFF, _small(rng) & 0xFFFF, rng.choice((0, 0x80, 0x40)))
            content += b"," + struct.pack("<HHHHB", *place) + bytes((rng.choice((2, 8, 12)), len(data))) + data + b"\0"
    return content + b";"


def _noise(rng: random.Random) -> bytes:
    start = rng.choice((b"", SIGNATURE, b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM", b"GIF89a", b"RIFF\0\0\0\0WEBP"))
    return start + rng.randbytes(rng.choice((0, 1, 30, 1000)))


_MADE = (_png, _jpeg, _tiff, _bmp, _webp, _gif, _noise)
