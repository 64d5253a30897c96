"""Pairs found by name, data sets that repeat from their seed, and errors that name the culprit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rddm_fast.images.datasets import PairedImages, PhotoPatches
from rddm_fast.images.pairs import DataError, find_pairs
from rddm_fast.images.photographs import SOURCES, find_training_photographs, gather
from rddm_fast.images.picture import ImageError

Image = pytest.importorskip("PIL.Image")

PHOTOS = sorted((Path(__file__).parents[2] / "rddm_fast" / "restoration" / "photos").glob("*.png"))


def image(path: Path, size: tuple[int, int] = (12, 10), value: int | None = None) -> Path:
    """Write a picture of (width, height); its own pseudo-random content unless a value is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.name.encode()))
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels if value is None else np.full_like(pixels, value)).save(path)
    return path


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def matched(pairs) -> list[tuple[str, str]]:
    return [(pair.input.name, pair.target.name) for pair in pairs]


# ---------------------------------------------------------------- finding pairs


def test_folders_are_matched_by_name_not_by_order(tmp_path):
    rain = touch(tmp_path / "rain", "b.PNG", "a.jpg", "night/a.jpg", "notes.txt")
    clean = touch(tmp_path / "clean", "night/a.png", "a.png", "b.png")
    pairs = find_pairs(rain, clean)
    assert [(pair.name, pair.target.relative_to(clean).as_posix()) for pair in pairs] == [
        ("a", "a.png"),
        ("b", "b.png"),
        ("night/a", "night/a.png"),
    ]
    assert all(pair.mask is None for pair in pairs)


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        (["0_rain.png", "1_rain.png"], ["0_clean.png", "1_clean.png"]),
        (["rain-001.png", "rain-002.png"], ["norain-001.png", "norain-002.png"]),
        (["a_noisy.png", "b_noisy.png"], ["a.png", "b.png"]),
        (["x/a.png", "x/b.png"], ["y/a.png", "y/b.png"]),
    ],
)
def test_common_naming_habits_are_understood(tmp_path, inputs, targets):
    pairs = find_pairs(touch(tmp_path / "in", *inputs), touch(tmp_path / "out", *targets))
    assert matched(pairs) == [(Path(a).name, Path(b).name) for a, b in zip(inputs, targets, strict=True)]


def test_patterns_single_files_and_masks(tmp_path):
    touch(tmp_path, "a_rain.png", "b_rain.png", "a_clean.png", "b_clean.png", "a_mask.png", "b_mask.png")
    pairs = find_pairs(tmp_path / "*_rain.png", tmp_path / "*_clean.png", tmp_path / "*_mask.png")
    assert [(p.input.name, p.target.name, p.mask.name) for p in pairs] == [
        (f"{x}_rain.png", f"{x}_clean.png", f"{x}_mask.png") for x in "ab"
    ]
    one = find_pairs(tmp_path / "a_rain.png", tmp_path / "a_clean.png")
    assert matched(one) == [("a_rain.png", "a_clean.png")]


def test_restoration_needs_no_target(tmp_path):
    pairs = find_pairs(touch(tmp_path, "a.png", "b.png"))
    assert [(pair.name, pair.target, pair.mask) for pair in pairs] == [("a", None, None), ("b", None, None)]


def test_flists(tmp_path, monkeypatch):
    touch(tmp_path / "data", "rain/with blank 1.png", "rain/2.png", "clean/2.png", "clean/with blank 1.png")
    # Absolute, relative to the list, relative to the working folder; blank lines; in different order.
    rain = tmp_path / "data" / "rain.flist"
    rain.write_text(f"{tmp_path}/data/rain/with blank 1.png\r\n\r\nrain/2.png\r\n")
    (tmp_path / "lists").mkdir()
    clean = tmp_path / "lists" / "clean.flist"
    clean.write_text("data/clean/2.png\n\ndata/clean/with blank 1.png")
    monkeypatch.chdir(tmp_path)
    pairs = find_pairs(rain, clean)
    assert matched(pairs) == [("with blank 1.png",) * 2, ("2.png",) * 2]
    assert pairs[1].origin == f"{rain}, line 3; {clean}, line 1"


def test_csv(tmp_path):
    touch(tmp_path / "sets", "a/x.png", "b/other, name.png", "m/x.png")
    table = tmp_path / "sets" / "train.csv"
    table.write_bytes(b'\xef\xbb\xbfInput, target,mask,split\na/x.png,"b/other, name.png",m/x.png,train\n')
    (pair,) = find_pairs(table)
    assert [path.relative_to(tmp_path / "sets").as_posix() for path in (pair.input, pair.target, pair.mask)] == [
        *("a/x.png", "b/other, name.png", "m/x.png"),
    ]
    assert (pair.name, pair.origin) == ("x", f"{table}, line 2")
    table.write_text("input\na/x.png\n")
    assert find_pairs(table)[0].target is None


def error(*sources) -> str:
    with pytest.raises(DataError) as caught:
        find_pairs(*sources)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_without_a_partner_are_named(tmp_path):
    rain, clean = touch(tmp_path / "rain", "a.png", "b.png"), touch(tmp_path / "clean", "a.png", "c.png")
    assert error(rain, clean) == (
        f"inputs and targets are matched by name, but there is no target for {rain}/b.png, "
        f"and no input for {clean}/c.png"
    )
    many = touch(tmp_path / "many", *(f"{n}.png" for n in range(6)), "a.png", "c.png")
    assert "no input for " in error(clean, many) and error(clean, many).endswith("and 3 more")
    assert error(rain, rain, touch(tmp_path / "masks", "a.png")).startswith("inputs and masks are matched by name")


def test_ambiguous_names_are_not_guessed(tmp_path):
    # Without rain and low, both inputs would be "a".
    rain, clean = (
        touch(tmp_path / "rain", "a_rain.png", "a_low.png"),
        touch(tmp_path / "clean", "a.png", "b.png"),
    )
    assert "no target for" in error(rain, clean)
    twins = touch(tmp_path / "twins", "a.png", "a.jpg")
    assert error(twins, clean).endswith(f"{twins}/a.jpg, {twins}/a.png have the same name")


def test_lists_of_equal_length_are_not_paired_by_order(tmp_path):
    touch(tmp_path, "p.png", "q.png")
    (tmp_path / "in.flist").write_text("p.png\n")
    (tmp_path / "out.flist").write_text("q.png\n")
    message = error(tmp_path / "in.flist", tmp_path / "out.flist")
    assert f"no target for {tmp_path}/p.png ({tmp_path}/in.flist, line 1)" in message


def test_errors_name_file_and_line(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    table = tmp_path / "t.csv"
    listing = tmp_path / "t.flist"
    assert error(tmp_path / "gone") == f"{tmp_path}/gone does not exist"
    assert error(listing) == f"{listing} does not exist"
    assert error(table) == f"{table} does not exist"
    (tmp_path / "empty").mkdir()
    assert error(tmp_path / "empty") == f"{tmp_path}/empty holds no image"
    assert error(tmp_path / "z*.png") == f"{tmp_path}/z*.png holds no image"
    listing.write_text("\n\n")
    assert error(listing) == f"{listing} holds no image"
    listing.write_text("a.png\n\nc d.png\n")
    assert error(listing) == f"{listing}, line 3: c d.png does not exist"
    listing.write_bytes(b"a.png\n\xff\xfe.png\n")
    assert error(listing) == f"{listing}, line 2: not UTF-8 text"
    table.write_text("in;target\na.png;b.png\n")
    assert error(table) == f"{table} has no column named input; its columns are: in;target"
    table.write_text("")
    assert error(table) == f"{table} has no column named input; its columns are: none"
    table.write_text("input,target\n")
    assert error(table) == f"{table} names no image"
    table.write_text("input,target\na.png,b.png\na.png\n")
    assert error(table) == f"{table}, line 3: no target given"
    table.write_text("input,target\na.png,z.png\n")
    assert error(table) == f"{table}, line 2: z.png does not exist"
    table.write_text("input,target\na.png,b,c.png\n")
    assert error(table).startswith(f"{table}, line 2: more values than columns")
    assert "names whole pairs" in error(table, tmp_path)


# ---------------------------------------------------------------- PairedImages


@pytest.fixture
def paired(tmp_path):
    for name in ("a", "b", "c"):
        content = np.random.default_rng(ord(name)).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        for folder, pixels in (("rain", content), ("clean", content), ("mask", content)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
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


def test_scale(tmp_path):
    image(tmp_path / "in" / "a.png", (30, 21), value=51)
    item = PairedImages(find_pairs(tmp_path / "in"), scale=0.5)[0]
    assert item["input"].shape == (3, 10, 15) and torch.allclose(item["input"], torch.tensor(0.2))
    assert "target" not in item and "mask" not in item


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
    for wrong in ({"patch": 0}, {"flip": 1.5}, {"scale": 0.0}, {"length": -1}, {"seed": -1}):
        with pytest.raises(ValueError, match="got patch"):
            PairedImages(paired, **wrong)
    with pytest.raises(IndexError, match="index 3 is out of range for 3 items"):
        PairedImages(paired)[3]


# ---------------------------------------------------------------- PhotoPatches


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
        return PhotoPatches(PHOTOS[:3], patch=16, length=12, shrink=2, rotate=True, seed=seed)

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


def test_strength_reaches_the_degradation():
    heavy = {"coverage": (0.0, 0.0), "veil": 0.0}
    item = PhotoPatches(PHOTOS[:1], "rain", patch=16, length=1, strength=heavy)[0]
    assert torch.allclose(item["input"], item["target"], atol=1e-6)


def test_photo_patches_errors(tmp_path):
    small = image(tmp_path / "small.png", (70, 40))
    with pytest.raises(ValueError, match=r"small\.png is 70x40, smaller than a patch of 64"):
        PhotoPatches([small], length=1)
    with pytest.raises(ValueError, match="no photographs given"):
        PhotoPatches([], length=1)
    with pytest.raises(ValueError, match="unknown degradation 'fog'"):
        PhotoPatches(PHOTOS, "fog", length=1)
    with pytest.raises(ValueError, match=r"shrink at least 1, got patch 64, length 1, seed 0, shrink 0\.5"):
        PhotoPatches(PHOTOS, length=1, shrink=0.5)
    with pytest.raises(ImageError, match=r"gone\.png does not exist"):
        PhotoPatches([tmp_path / "gone.png"], length=1)
    with pytest.raises(IndexError, match="index 1 is out of range for 1 patches"):
        PhotoPatches(PHOTOS[:1], length=1)[1]


# ---------------------------------------------------------------- photographs to train on


def fake_package(root: Path, package: str, size: tuple[int, int] = (640, 400)) -> Path:
    for name in SOURCES[package].names:
        image(root / SOURCES[package].pattern.format(name), size)
    return root


def test_training_photographs_are_found_in_a_fixed_order(tmp_path):
    roots = {package: fake_package(tmp_path / package, package, (4, 4)) for package in SOURCES}
    found = find_training_photographs(roots)
    assert len(found) == len(set(found)) == sum(len(source.names) for source in SOURCES.values()) == 33
    assert found == find_training_photographs(dict(reversed(roots.items())))
    assert not {path.stem for path in found} & {path.stem for path in PHOTOS}  # the demo photographs


def test_no_training_photographs_says_what_to_install(tmp_path):
    nowhere = {package: tmp_path / package for package in SOURCES}
    with pytest.raises(FileNotFoundError, match=r"apt install mate-backgrounds; pip install scikit-image"):
        find_training_photographs(nowhere)
    with pytest.raises(ValueError, match="unknown package 'gimp' in roots; the packages are plasma"):
        find_training_photographs({"gimp": tmp_path})


def test_another_version_of_a_package_is_an_error(tmp_path):
    root = fake_package(tmp_path, "mate-backgrounds", (4, 4))
    (root / "nature" / "Dune.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"nature/Dune\.jpg is missing: another version of mate-backgrounds"):
        find_training_photographs({"mate-backgrounds": root})


def test_gather_scales_down_but_not_too_far(tmp_path):
    roots: dict[str, Path] = {package: tmp_path / "none" for package in SOURCES}
    roots["mate-backgrounds"] = fake_package(tmp_path / "mate", "mate-backgrounds", (1280, 1024))
    written = gather(tmp_path / "out", 2, roots=roots)
    assert sorted(path.name for path in written) == sorted(os.listdir(tmp_path / "out"))
    assert written[0].name == "mate-backgrounds-Aqua.png"
    assert Image.open(written[0]).size == (640, 512)
    assert Image.open(gather(tmp_path / "out", 4, roots=roots)[0]).size == (375, 300)
    with pytest.raises(ValueError, match="scale must be at least 1"):
        gather(tmp_path / "out", 0.5, roots=roots)


def test_gather_from_the_command_line(tmp_path):
    root = fake_package(tmp_path / "plasma", "plasma-workspace-wallpapers", (64, 40))
    roots = [f"--root=plasma-workspace-wallpapers={root}", f"--root=mate-backgrounds={tmp_path / 'none'}"]
    roots.append(f"--root=scikit-image={tmp_path / 'none'}")
    command = [sys.executable, "-m", "rddm_fast.images.photographs", str(tmp_path / "out")]
    run = subprocess.run([*command, *roots], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == f"11 photographs written to {tmp_path / 'out'}\n"
    run = subprocess.run([*command, "--root=oops"], capture_output=True, text=True)
    assert run.returncode == 2 and "--root takes PACKAGE=FOLDER, got 'oops'" in run.stderr
    run = subprocess.run([*command, f"--root=gimp={tmp_path}"], capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.startswith("error: unknown package 'gimp'")
