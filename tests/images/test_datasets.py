"""Data sets repeat from their seed, and their errors name the file at fault."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rddm_fast.images.datasets import PairedImages, PhotoPatches
from rddm_fast.images.pairs import DataError, find_pairs
from rddm_fast.images.picture import ImageError
from rddm_fast.restoration.demo import photographs

Image = pytest.importorskip("PIL.Image")

PHOTOS = photographs()


def image(path: Path, size: tuple[int, int] = (12, 10)) -> Path:
    """Write a picture of (width, height) whose pseudo-random content depends on its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.name.encode()))
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def paired(tmp_path):
    for name in ("a", "b", "c"):
        for folder in ("rain", "clean", "mask"):  # the same picture in each
            image(tmp_path / folder / f"{name}.png", (30, 20))
    return find_pairs(tmp_path / "rain", tmp_path / "clean", tmp_path / "mask")


def test_whole_images(paired):
    dataset = PairedImages(paired)
    assert len(dataset) == 3 and [item["name"] for item in dataset] == ["a", "b", "c"]
    item = dataset[1]
    assert item["input"].shape == item["target"].shape == (3, 20, 30) and item["mask"].shape == (1, 20, 30)
    assert item["input"].dtype == torch.float32 and item["input"].min() >= 0 and item["input"].max() <= 1
    expected = np.asarray(Image.open(paired[1].input)).transpose(2, 0, 1) / np.float32(255)
    assert np.array_equal(item["input"].numpy(), expected)  # never mirrored
    assert PairedImages(paired, grey=True)[0]["target"].shape == (1, 20, 30)


def test_patches_are_the_same_place_in_all_images_and_vary(paired):
    dataset = PairedImages(paired, patch=8, length=200)
    whole = {item["name"]: item["input"] for item in PairedImages(paired)}
    mirrored, places = 0, set()
    for item in dataset:
        patch = item["input"]
        assert patch.shape == (3, 8, 8) and patch.is_contiguous()
        assert torch.equal(patch, item["target"])
        assert torch.allclose(patch.mean(0, keepdim=True), item["mask"], atol=1e-6)
        windows = whole[item["name"]].unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4)
        straight = (windows == patch).flatten(2).all(2).nonzero()
        turned = (windows == patch.flip(2)).flatten(2).all(2).nonzero()
        assert len(straight) + len(turned) == 1
        mirrored += len(turned)
        places.add(tuple((straight if len(straight) else turned)[0].tolist()))
    assert 70 < mirrored < 130  # half of them: the published code mirrors all
    assert len(places) > 120  # of 13 * 23
    assert {0, 12} <= {y for y, _ in places} and {0, 22} <= {x for _, x in places}  # the borders included


def test_small_images_are_extended_by_reflection(tmp_path):
    image(tmp_path / "in" / "a.png", (3, 2))
    item = PairedImages(find_pairs(tmp_path / "in"), patch=8, flip=0)[0]
    small = np.asarray(Image.open(tmp_path / "in" / "a.png")).transpose(2, 0, 1) / np.float32(255)
    assert np.array_equal(item["input"].numpy(), small[:, [0, 1] * 4][:, :, [0, 1, 2, 1, 0, 1, 2, 1]])


def test_a_pair_without_target_and_mask_has_neither(tmp_path):
    image(tmp_path / "in" / "a.png", (30, 21))
    item = PairedImages(find_pairs(tmp_path / "in"))[0]
    assert item["input"].shape == (3, 21, 30) and "target" not in item and "mask" not in item


def test_a_stream_passes_over_all_pairs_in_changing_order_and_can_be_resumed(paired):
    names = [item["name"] for item in PairedImages(paired, length=60)]
    passes = [names[start : start + 3] for start in range(0, 60, 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in passes)
    assert len({tuple(one) for one in passes}) == 6
    first, again = (PairedImages(paired, patch=8, length=60, seed=5) for _ in range(2))
    assert all(torch.equal(first[i]["input"], again[i]["input"]) for i in reversed(range(60)))
    other = PairedImages(paired, patch=8, length=60, seed=6)
    assert not all(torch.equal(first[i]["input"], other[i]["input"]) for i in range(60))


def test_sizes_of_a_pair_are_compared(tmp_path):
    image(tmp_path / "in" / "a.png", (12, 10))
    image(tmp_path / "out" / "a.png", (12, 11))
    with pytest.raises(DataError, match=r"in/a\.png is 12x10 but its target .*out/a\.png is 12x11"):
        PairedImages(find_pairs(tmp_path / "in", tmp_path / "out"))[0]


def test_unpaired_images_may_differ_in_size(tmp_path):
    image(tmp_path / "in" / "a.png", (12, 10))
    image(tmp_path / "out" / "a.png", (9, 11))
    item = PairedImages(find_pairs(tmp_path / "in", tmp_path / "out"), one_size=False, flip=1.0)[0]
    assert item["input"].shape == (3, 10, 12) and item["target"].shape == (3, 11, 9)
    straight = np.asarray(Image.open(tmp_path / "out" / "a.png")).transpose(2, 0, 1) / np.float32(255)
    assert np.array_equal(item["target"].numpy(), straight[:, :, ::-1])  # both are mirrored


def test_an_unreadable_image_is_named_with_its_line(tmp_path):
    image(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    (tmp_path / "list.flist").write_text("a.png\nb.png\n")
    dataset = PairedImages(find_pairs(tmp_path / "list.flist"))
    assert dataset[0]["input"].shape == (3, 10, 12)
    with pytest.raises(ImageError, match=r"b\.png is not a readable.* \(named in .*list\.flist, line 2\)"):
        dataset[1]


def test_paired_images_arguments(paired):
    with pytest.raises(ValueError, match="no pairs given"):
        PairedImages([])
    for wrong in ({"patch": 0}, {"flip": 1.5}, {"length": -1}, {"seed": -1}):
        with pytest.raises(ValueError, match="got patch"):
            PairedImages(paired, **wrong)
    with pytest.raises(IndexError, match="index 3 is out of range for 3 items"):
        PairedImages(paired)[3]


def test_photo_patches():
    dataset = PhotoPatches(PHOTOS, "rain", patch=32, length=50, seed=1)
    assert len(dataset) == 50
    for item in dataset:
        assert item["input"].shape == item["target"].shape == (3, 32, 32)
        assert item["input"].dtype == item["target"].dtype == torch.float32
        assert item["input"].min() >= 0 and item["input"].max() <= 1
        veil = 0.2 * 0.16  # takes at most this much from white; streaks only add light
        assert (item["input"] - item["target"]).min() > -0.2 * veil - 1e-6
        assert (item["input"] - item["target"]).max() > 0.02
        assert "mask" not in item
    assert len({item["name"] for item in dataset}) >= 6
    assert PhotoPatches(PHOTOS, "mask", patch=32, length=1)[0]["mask"].shape == (1, 32, 32)


def test_photo_patches_repeat_whatever_the_order_or_the_workers():
    def make(seed: int = 0) -> PhotoPatches:
        return PhotoPatches(PHOTOS[:3], patch=16, length=12, shrink=2, seed=seed)

    straight = list(make())
    backwards = [make()[i] for i in reversed(range(12))][::-1]
    loaded = list(DataLoader(make(), batch_size=None, num_workers=2))
    for one, two, three in zip(straight, backwards, loaded, strict=True):
        assert torch.equal(one["input"], two["input"]) and torch.equal(one["input"], three["input"])
    assert not torch.equal(straight[0]["input"], make(seed=1)[0]["input"])


def test_photo_patches_are_cut_from_the_photographs():
    photograph = np.asarray(Image.open(PHOTOS[0]).convert("RGB"))
    whole = {tuple(pixel) for pixel in photograph.reshape(-1, 3)}
    for item in PhotoPatches(PHOTOS[:1], "noise", patch=16, length=5):
        pixels = (item["target"].permute(1, 2, 0).reshape(-1, 3) * 255).round().int().tolist()
        assert {tuple(pixel) for pixel in pixels} <= whole


def test_photo_patches_errors(tmp_path):
    small = image(tmp_path / "small.png", (70, 40))
    for paths, options, error, sentence in [
        ([small], {}, ValueError, r"small\.png is 70x40, smaller than a patch of 64"),
        ([], {}, ValueError, "no photographs given"),
        (PHOTOS, {"kind": "fog"}, ValueError, "unknown degradation 'fog'"),
        (PHOTOS, {"shrink": 0.5}, ValueError, r"shrink at least 1, got patch 64, length 1, seed 0, shrink 0\.5"),
        ([tmp_path / "gone.png"], {}, ImageError, r"gone\.png does not exist"),
    ]:
        with pytest.raises(error, match=sentence):
            PhotoPatches(paths, length=1, **options)
    with pytest.raises(IndexError, match="index 1 is out of range for 1 patches"):
        PhotoPatches(PHOTOS[:1], length=1)[1]
