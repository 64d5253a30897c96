"""Reading and writing pictures: every format to the bit, and every error in one sentence."""

import importlib.util
import os
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rddm_fast.images.picture import ImageError, Picture, read_image, write_image

Image = pytest.importorskip("PIL.Image")
ImageCms = pytest.importorskip("PIL.ImageCms")

needs_cv2 = pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="OpenCV is not installed")
BITS = [8, pytest.param(16, marks=needs_cv2)]

RNG = np.random.default_rng(0)
SAMPLES8 = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
SAMPLES16 = RNG.integers(0, 65536, (5, 7, 4), dtype=np.uint16)


def png16(samples: np.ndarray) -> bytes:
    """A 16-bit PNG by the specification, independent of the libraries under test."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff16(samples: np.ndarray, orientation: int = 1) -> bytes:
    """An uncompressed little-endian 16-bit TIFF by the specification."""
    height, width, channels = samples.shape
    pixels = samples.astype("<u2").tobytes()
    bits_at = 8 + len(pixels)
    bits = struct.pack("<" + "H" * channels, *[16] * channels)
    entries = [
        *((256, 4, 1, width), (257, 4, 1, height)),
        (258, 3, channels, bits_at if channels > 2 else 16 | 16 << 16 * (channels - 1)),
        *((259, 3, 1, 1), (262, 3, 1, 2 if channels > 2 else 1), (273, 4, 1, 8), (274, 3, 1, orientation)),
        *((277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(pixels))),
        *([(338, 3, 1, 2)] if channels in (2, 4) else []),
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    offset = bits_at + len(bits)
    return struct.pack("<2sHI", b"II", 42, offset) + pixels + bits + directory + struct.pack("<I", 0)


def saved(path: Path, samples: np.ndarray | Image.Image, **options) -> Path:
    (samples if isinstance(samples, Image.Image) else Image.fromarray(samples)).save(path, **options)
    return path


def hwc(tensor: torch.Tensor, most: int) -> np.ndarray:
    return (tensor.permute(1, 2, 0).double().numpy() * most).round().astype(int)


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_reads_8_bit_colour_exactly(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", SAMPLES8[..., :3], **({"lossless": True} if suffix == "webp" else {}))
    picture = read_image(path)
    assert picture.pixels.dtype == torch.float32 and picture.pixels.shape == (3, 5, 7)
    assert np.array_equal(hwc(picture.pixels, 255), SAMPLES8[..., :3])
    assert (picture.alpha, picture.grey, picture.bits, picture.path) == (None, False, 8, path)


def test_reads_grey_as_three_equal_channels(tmp_path):
    picture = read_image(saved(tmp_path / "a.png", SAMPLES8[..., 0]))
    assert picture.grey and picture.pixels.shape == (3, 5, 7)
    assert all(np.array_equal(hwc(picture.pixels, 255)[..., c], SAMPLES8[..., 0]) for c in range(3))


def test_reads_alpha(tmp_path):
    colour = read_image(saved(tmp_path / "a.png", SAMPLES8))
    assert np.array_equal(hwc(colour.pixels, 255), SAMPLES8[..., :3])
    assert np.array_equal(hwc(colour.alpha, 255), SAMPLES8[..., 3:])
    grey = read_image(saved(tmp_path / "b.png", SAMPLES8[..., :2].copy()))
    assert grey.grey and np.array_equal(hwc(grey.alpha, 255), SAMPLES8[..., 1:2])
    assert np.array_equal(hwc(grey.pixels, 255)[..., 0], SAMPLES8[..., 0])


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_reads_palettes_with_and_without_transparency(tmp_path, suffix):
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([255, 0, 0, 0, 51, 255])
    indexed.putdata([0, 1])
    opaque = read_image(saved(tmp_path / f"a.{suffix}", indexed))
    assert hwc(opaque.pixels, 255).tolist() == [[[255, 0, 0], [0, 51, 255]]]
    assert opaque.alpha is None and not opaque.grey
    transparent = read_image(saved(tmp_path / f"b.{suffix}", indexed, transparency=1))
    assert hwc(transparent.alpha, 255).tolist() == [[[255], [0]]]


def test_reads_two_colour_png_and_cmyk_jpeg(tmp_path):
    bits = read_image(saved(tmp_path / "a.png", Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")))
    assert bits.grey and hwc(bits.pixels, 255)[..., 0].tolist() == [[0, 255]]
    cmyk = read_image(saved(tmp_path / "b.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=100))
    assert not cmyk.grey and np.abs(hwc(cmyk.pixels, 255)[8, 8] - [255, 0, 0]).max() <= 3


@needs_cv2
@pytest.mark.parametrize(
    ("encode", "channels"),
    [*((png16, channels) for channels in (1, 2, 3, 4)), *((tiff16, channels) for channels in (1, 3, 4))],
)
def test_reads_all_16_bits(tmp_path, encode, channels):
    path = tmp_path / ("a.png" if encode is png16 else "a.tif")
    path.write_bytes(encode(SAMPLES16[..., :channels]))
    picture = read_image(path)
    assert picture.bits == 16 and picture.grey == (channels <= 2)
    colours = 1 if channels <= 2 else 3
    assert np.array_equal(hwc(picture.pixels, 65535)[..., :colours], SAMPLES16[..., :colours])
    assert (picture.alpha is not None) == (channels in (2, 4))
    if picture.alpha is not None:
        assert np.array_equal(hwc(picture.alpha, 65535), SAMPLES16[..., colours:channels])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_applies_the_exif_orientation(tmp_path, orientation, suffix):
    # The camera stored the upright picture turned in such a way that this orientation turns it back.
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = Image.fromarray(np.kron(SAMPLES8[:2, :3, :3], np.ones((16, 16, 1), np.uint8)))
    stored = upright.transpose(back[orientation]) if orientation in back else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"a.{suffix}", stored, exif=exif, **({"quality": 100} if suffix == "jpg" else {}))
    picture = read_image(path)
    assert picture.pixels.shape == (3, 32, 48)
    middles = hwc(picture.pixels, 255)[8::16, 8::16]
    assert np.abs(middles - SAMPLES8[:2, :3, :3]).max() <= (12 if suffix == "jpg" else 0)
    # Written again, it stays upright.
    assert torch.equal(written(tmp_path / "again.png", picture).pixels, picture.pixels)


@needs_cv2
@pytest.mark.parametrize("orientation", range(1, 9))
def test_applies_the_orientation_of_16_bit_colour_tiff(tmp_path, orientation):
    stored = tmp_path / "16.tif"
    stored.write_bytes(tiff16(SAMPLES16[..., :3], orientation))
    exif = Image.Exif()
    exif[0x0112] = orientation
    eight = saved(tmp_path / "8.tif", (SAMPLES16[..., :3] >> 8).astype(np.uint8), exif=exif)
    assert np.array_equal(hwc(read_image(stored).pixels, 65535) >> 8, hwc(read_image(eight).pixels, 255))


def test_reads_the_first_picture_of_a_phone_jpeg(tmp_path):
    first, second = Image.new("RGB", (16, 16), "white"), Image.new("RGB", (16, 16), "black")
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert read_image(tmp_path / "a.jpg").pixels.min() > 0.99


@pytest.mark.parametrize("size", [(1, 1), (5000, 37)])
def test_extreme_sizes(tmp_path, size):
    samples = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = read_image(saved(tmp_path / "a.png", samples))
    write_image(tmp_path / "b.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), samples)


def test_reading_needs_no_suffix(tmp_path):
    path = saved(tmp_path / "picture", SAMPLES8[..., :3], format="PNG")
    assert np.array_equal(hwc(read_image(path).pixels, 255), SAMPLES8[..., :3])


# ---------------------------------------------------------------- files that cannot be read


def message(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


UNREADABLE = "FILE is not a readable JPEG, PNG, TIFF, BMP, WebP or GIF image"


def test_errors_name_the_file(tmp_path):
    assert message(tmp_path / "none.png") == "FILE does not exist"
    assert message(tmp_path) == "FILE is a folder, not an image"
    empty = tmp_path / "empty.png"
    empty.touch()
    assert message(empty) == "FILE is empty (0 bytes)"
    text = tmp_path / "text.png"
    text.write_text("not a picture\n")
    assert message(text) == UNREADABLE


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp", "gif"])
def test_truncated_files_are_errors(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "is damaged and cannot be read" in message(path) or "is not a readable" in message(path)


@needs_cv2
def test_libraries_print_nothing_of_damage(tmp_path, capfd):
    """libpng's and OpenCV's own words, which Python's stderr does not see."""
    whole = png16(RNG.integers(0, 65536, (16, 16, 3), dtype=np.uint16))
    for damaged in (whole[:-12], whole[:-8] + b"I\xc5\x7eD" + whole[-4:]):
        (tmp_path / "p.png").write_bytes(damaged)
        assert "is damaged and cannot be read: OpenCV cannot decode it" in message(tmp_path / "p.png")
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("encode", [png16, tiff16])
def test_truncated_16_bit_files_are_errors(tmp_path, encode):
    path = tmp_path / "a.img"
    path.write_bytes(encode(RNG.integers(0, 65536, (64, 64, 3), dtype=np.uint16))[:20_000])
    assert "is damaged" in message(path) or "is not a readable" in message(path)


def test_animations_and_pages_are_errors(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "white")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    for name in ("a.gif", "a.tif"):
        assert message(tmp_path / name) == "FILE holds 3 frames or pages; split it into single images first"


def test_unusual_tiffs_are_errors(tmp_path):
    path = saved(tmp_path / "a.tif", np.ones((4, 4), np.float32))
    assert message(path) == "FILE has 32-bit or floating-point samples; use 8 or 16 bits"
    path.write_bytes(tiff16(SAMPLES16[..., :2]))  # grey with alpha, which Pillow has no mode for
    assert message(path) == UNREADABLE
    cmyk = bytearray(tiff16(SAMPLES16))
    entry = cmyk.index(struct.pack("<HHII", 262, 3, 1, 2))
    cmyk[entry + 8] = 5
    no_alpha = cmyk.index(struct.pack("<HHII", 338, 3, 1, 2))
    cmyk[no_alpha : no_alpha + 12] = struct.pack("<HHII", 339, 3, 1, 1)
    path.write_bytes(cmyk)
    assert message(path) == "FILE is CMYK with 16-bit samples; convert it to RGB first"


def test_a_decompression_bomb_is_an_error(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", SAMPLES8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert message(path).startswith("FILE is too large to be trusted")


def test_a_missing_library_is_named_with_what_installs_it(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", SAMPLES8)
    deep = tmp_path / "deep.png"
    deep.write_bytes(png16(SAMPLES16[..., :3]))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"cv2 is not installed; pip install 'rddm_fast\[cli\]'"):
        read_image(deep)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"PIL is not installed; pip install 'rddm_fast\[cli\]'"):
        read_image(path)


# ---------------------------------------------------------------- writing


def picture(bits: int = 8, grey: bool = False, alpha: bool = False) -> Picture:
    most = 2**bits - 1
    samples = torch.from_numpy((SAMPLES16 >> (16 - bits)).astype(np.float32) / most).permute(2, 0, 1)
    pixels = samples[:1].repeat(3, 1, 1) if grey else samples[:3]
    return Picture(pixels, samples[3:] if alpha else None, grey, bits)


def written(path: Path, picture: Picture) -> Picture:
    """The picture, written to a file and read again."""
    write_image(path, picture)
    return read_image(path)


@pytest.mark.parametrize("suffix", ["png", "tif", "TIFF"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_png_and_tiff_keep_everything(tmp_path, suffix, bits, grey, alpha):
    before = picture(bits, grey, alpha)
    after = written(tmp_path / f"a.{suffix}", before)
    assert torch.equal(after.pixels, before.pixels) and after.bits == bits
    # There is no writer for 16-bit grey with alpha: it becomes colour.
    assert after.grey == (grey and not (bits == 16 and alpha))
    assert (after.alpha is None) == (not alpha)
    if alpha:
        assert torch.equal(after.alpha, before.alpha)


def test_webp_and_bmp_are_exact_too(tmp_path):
    before, opaque = picture(alpha=True), picture()
    after = written(tmp_path / "a.webp", before)
    visible = (before.alpha > 0).expand(3, -1, -1)
    assert torch.equal(after.pixels[visible], before.pixels[visible]) and torch.equal(after.alpha, before.alpha)
    assert torch.equal(written(tmp_path / "a.bmp", opaque).pixels, opaque.pixels)


def test_jpeg_is_laid_over_white_and_cut_to_8_bits(tmp_path):
    flat = Picture(torch.full((3, 16, 16), 0.2), torch.full((1, 16, 16), 0.5), bits=16)
    after = written(tmp_path / "a.JPG", flat)
    assert after.bits == 8 and after.alpha is None
    assert torch.allclose(after.pixels, torch.tensor(0.6), atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_grey_stays_grey(tmp_path, suffix):
    assert written(tmp_path / f"a.{suffix}", picture(grey=True)).grey


def test_values_are_clamped_and_rounded(tmp_path):
    pixels = torch.tensor([-0.5, 0.0, 0.4999 / 255, 0.5001 / 255, 254.6 / 255, 1.7]).reshape(1, 1, 6)
    write_image(tmp_path / "a.png", Picture(pixels.repeat(3, 1, 1)))
    assert np.asarray(Image.open(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize("bits", BITS)
def test_profile_and_resolution_are_kept(tmp_path, bits):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    before = replace(picture(bits), icc=profile, dpi=(300.0, 150.0))
    png, tiff = (written(tmp_path / name, before) for name in ("a.png", "a.tif"))
    assert png.dpi == pytest.approx((300, 150), rel=1e-3) and tiff.dpi == pytest.approx((300, 150), rel=1e-3)
    assert png.icc == profile and tiff.icc == (profile if bits == 8 else None)
    assert torch.equal(png.pixels, before.pixels)


def test_with_pixels_keeps_the_rest():
    before = picture(16, alpha=True)
    after = before.with_pixels(1 - before.pixels)
    assert after.bits == 16 and after.alpha is before.alpha and torch.equal(after.pixels, 1 - before.pixels)
    with pytest.raises(ValueError, match=r"shape \(3, 5, 7\), got \(3, 5, 6\)"):
        before.with_pixels(before.pixels[:, :, :6])


def test_writing_makes_folders_and_leaves_nothing_else(tmp_path):
    write_image(tmp_path / "x" / "y" / "a.png", picture())
    assert os.listdir(tmp_path / "x" / "y") == ["a.png"]


def test_nothing_is_half_written(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ImageError, match=r"a\.png cannot be written: No space left on device"):
        write_image(path, picture())
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.png"]


def test_what_cannot_be_written_is_an_error(tmp_path):
    good = picture()
    for name in ("a.gif", "a.xyz", "a"):
        with pytest.raises(ImageError, match=r"cannot be written: use one of \.bmp, \.jpeg"):
            write_image(tmp_path / name, good)
    with pytest.raises(ImageError, match="values that are not finite"):
        write_image(tmp_path / "a.png", good.with_pixels(good.pixels * torch.nan))
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="cannot be written"):
        write_image(tmp_path / "file" / "a.png", good)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match=r"folder\.png cannot be written"):
        write_image(tmp_path / "folder.png", good)


def test_the_input_is_not_overwritten_unless_asked(tmp_path):
    path = saved(tmp_path / "a.png", SAMPLES8[..., :3])
    before = read_image(path)
    link = tmp_path / "link.png"
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(ImageError, match="is the file that the picture was read from; choose another name"):
            write_image(name, before)
    assert np.array_equal(np.asarray(Image.open(path)), SAMPLES8[..., :3])
    write_image(path, before.with_pixels(1 - before.pixels), overwrite_input=True)
    assert np.array_equal(np.asarray(Image.open(path)), 255 - SAMPLES8[..., :3])
