"""The images that the published trainers read: by list and by folder, whole, cropped, holed, equalised, unpaired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from published_scripts import animals, celeba, low_light, photograph, raindrops, whole_images_of_the_source, write
from torch import Tensor

from rddm_fast.compat.trainers.sources import Sources
from rddm_fast.images.pairs import DataError
from rddm_fast.images.picture import read_image
from rddm_fast.images.prepared import equalized, resized
from rddm_fast.theory.experiments import Experiment

PATH_INDEPENDENT, RESTORATION, INPAINTING, TRANSLATION, GENERATION = (
    Experiment.parse(number) for number in (0, 2, 4, 5, 6)
)
SOURCE = Path("src", "residual_denoising_diffusion_pytorch.py")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sources(folder: Any, experiment: Experiment | None = None, **options: Any) -> Sources:
    settings: dict[str, Any] = {
        "condition": experiment is None or experiment.condition,
        "image_size": 16,
        "flip": False,
        "grey": False,
        "crop_patch": False,
        "equalize": False,
        "faces": False,
        "seed": 0,
    }
    return Sources(folder, experiment, **{**settings, **options})


def of_file(path: str | Path) -> Tensor:
    return read_image(path).pixels


def by_name(dataset: Any) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in (dataset[i] for i in range(len(dataset)))}


def test_restoring_resizes_to_the_network_s_size(tmp_path: Path) -> None:
    found = sources(raindrops(tmp_path), RESTORATION)
    items = by_name(found.training(4))
    assert sorted(items) == [f"{i}_input" for i in range(4)]
    for i in range(4):
        item = items[f"{i}_input"]
        assert torch.equal(item["input"], resized(of_file(f"train/input/{i}_input.png"), 16))
        assert torch.equal(item["target"], resized(of_file(f"train/gt/{i}_gt.png"), 16))
    testing = found.testing()
    assert testing is not None and [path.name for path in found.test_files] == ["0_input.png", "1_input.png"]
    assert torch.equal(testing[1]["target"], resized(of_file("test/gt/1_gt.png"), 16))


def test_patches_are_trained_and_whole_images_tested(tmp_path: Path) -> None:
    found = sources(raindrops(tmp_path), RESTORATION, crop_patch=True)
    item, testing = found.training(4)[0], found.testing()
    assert item["input"].shape == (3, 16, 16) and testing is not None
    windows = of_file(f"train/input/{item['name']}.png").unfold(1, 16, 1).unfold(2, 16, 1).permute(1, 2, 0, 3, 4)
    assert int((windows == item["input"]).flatten(2).all(2).sum()) == 1
    assert torch.equal(testing[1]["input"], of_file("test/input/1_input.png"))


def test_the_histogram_of_the_input_alone_is_equalised_to_train_and_to_test(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    found = sources(low_light(tmp_path), RESTORATION, equalize=True)
    testing = found.testing()
    assert testing is not None
    for item, part in ((found.training(4)[0], "train"), (testing[0], "test")):
        number = item["name"].split("_")[0]
        assert torch.equal(item["input"], resized(equalized(of_file(f"{part}/low/{number}_low.png")), 16))
        assert torch.equal(item["target"], resized(of_file(f"{part}/high/{number}_high.png"), 16))


@pytest.mark.parametrize("experiment", [PATH_INDEPENDENT, GENERATION])
def test_faces_are_cropped_before_they_are_resized(experiment: Experiment, tmp_path: Path) -> None:
    """128 x 128 about the point (89, 121) of an aligned image of 178 x 218, as published."""
    folder = celeba(tmp_path)
    item = sources(folder, experiment, faces=True).training(1)[0]
    whole = of_file(f"{folder}/{item['name']}.jpg")
    assert whole.shape == (3, 218, 178) and "input" not in item
    assert torch.equal(item["target"], resized(whole[:, 121 - 64 : 121 + 64, 89 - 64 : 89 + 64], 16))
    squeezed = sources(folder, experiment).training(1)[0]
    assert torch.equal(squeezed["target"], resized(whole, 16))


def test_images_of_another_size_are_not_cropped(tmp_path: Path) -> None:
    write(tmp_path / "faces" / "a.png", photograph(0, 100, 100))
    item = sources("faces", GENERATION, faces=True).training(1)[0]
    assert torch.equal(item["target"], resized(of_file("faces/a.png"), 16))


def test_a_training_image_is_mirrored_half_of_the_time(tmp_path: Path) -> None:
    folder = celeba(tmp_path)
    plain = by_name(sources(folder, GENERATION).training(4))
    mirrored = 0
    for item in sources(folder, GENERATION, flip=True).training(100):  # type: ignore[attr-defined]
        straight = plain[item["name"]]["target"]
        turned = torch.allclose(item["target"], straight.flip(2), atol=1e-6)
        assert turned or torch.equal(item["target"], straight)
        mirrored += turned
    assert 35 <= mirrored <= 65  # the published code mirrors all of folder 2's, and half of its faces


@pytest.mark.parametrize("published", [True, False])
def test_inpainting_cuts_the_middle_out_of_two_folders(published: bool, tmp_path: Path) -> None:
    """As published, the folders stand in the script's own source; `folder` may name them instead."""
    folder = whole_images_of_the_source(tmp_path)
    found = sources(folder if published else ["celeba_hq/train", "celeba_hq/val"], INPAINTING, flip=True, faces=True)
    testing = found.testing()
    assert testing is not None and [path.name for path in found.test_files] == [f"{i:05d}.png" for i in range(3)]
    for part, dataset in (("train", found.training(8)), ("val", testing)):
        for i in range(len(dataset)):  # type: ignore[arg-type]
            item = dataset[i]
            whole = resized(of_file(f"celeba_hq/{part}/{item['name']}.png"), 16)
            assert torch.equal(item["target"], whole)  # never mirrored
            outside = torch.ones(16, 16, dtype=torch.bool)
            outside[4:12, 4:12] = False
            assert torch.equal(item["input"][:, outside], whole[:, outside])
            assert torch.equal(item["input"][:, ~outside], torch.full((3, 64), 0.5))


def test_the_source_s_folders_are_taken_in_its_order(tmp_path: Path) -> None:
    """The published source names the test folder first, whatever the nesting of its lines."""
    whole_images_of_the_source(tmp_path)
    calls = [f"x = dataset('celeba_hq/{part}', 1)" for part in ("val", "train")]
    for deep in (0, 1):
        lines = [
            f"if {number}:\n" + ("    if 1:\n    " if number == deep else "") + f"    {calls[number]}\n"
            for number in (0, 1)
        ]
        SOURCE.write_text("".join(lines))
        assert [path.parent.name for path in sources([], INPAINTING).test_files] == ["val"] * 3


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            None,
            r"folder is empty, and there is no src/residual_.*py here to read .*: pass folder=\[IMAGES, TEST_IMAGES\]",
        ),
        ("x = dataset('val', 64)\n", r"names 1 folders of images instead of 2: pass folder=\[IMAGES, TEST_IMAGES\]"),
        ("x = dataset(folder[0], 64)\n", "names 0 folders of images instead of 2"),
        ("x = dataset(\n", "cannot be read as Python"),
        ("x = dataset('val', 64); y = dataset('train', 64)", "train does not exist"),
    ],
)
def test_inpainting_without_folders_says_what_to_pass(source: str | None, sentence: str) -> None:
    if source is not None:
        SOURCE.parent.mkdir()
        SOURCE.write_text(source)
    with pytest.raises(ValueError, match=sentence) as raised:
        sources([], INPAINTING)
    assert "\n" not in str(raised.value)


def test_an_empty_folder_is_inpainting_s_alone() -> None:
    for experiment in (RESTORATION, TRANSLATION, None):
        with pytest.raises(ValueError, match="to restore, folder is a list of 3"):
            sources([], experiment, condition=True)


def test_dogs_and_cats_are_paired_by_index_and_more_cats_are_not_used(tmp_path: Path) -> None:
    found = sources(animals(tmp_path), TRANSLATION, faces=True)
    items = by_name(found.training(14))
    assert sorted(items) == [f"dog_{i:03d}" for i in range(7)]
    for i in range(7):
        item = items[f"dog_{i:03d}"]
        assert torch.equal(item["input"], resized(of_file(f"dog/dog_{i:03d}.jpg"), 16))
        assert torch.equal(item["target"], resized(of_file(f"cat/cat_{i:03d}.jpg"), 16))
    assert of_file("dog/dog_001.jpg").shape != of_file("dog/dog_002.jpg").shape
    testing = found.testing()
    assert testing is not None and len(testing) == 2 and "target" not in testing[0]  # type: ignore[arg-type]


def test_unpaired_folders_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    animals(tmp_path)
    found = sources(["cat", "dog", "dog_test"], TRANSLATION)
    pairs = [(pair.input.name, pair.target.name) for pair in found.train_pairs if pair.target is not None]
    assert pairs == [(f"dog_{i:03d}.jpg", f"cat_{i:03d}.jpg") for i in range(7)]


@pytest.mark.parametrize(
    ("experiment", "cats", "sentence"),
    [
        (TRANSLATION, 6, r"dog\.flist names 7 images and cat\.flist 6: each input needs a truth of its place"),
        (RESTORATION, 9, r"dog\.flist names 7 images and cat\.flist 9: lines are paired by order"),
        (None, 6, r"dog\.flist names 7 images and cat\.flist 6: lines are paired by order"),
    ],
)
def test_lists_that_cannot_be_paired_are_named(
    experiment: Experiment | None, cats: int, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=sentence):
        sources(animals(tmp_path, cats=cats), experiment)


def test_other_experiments_compare_the_sizes_of_a_pair(tmp_path: Path) -> None:
    lists = animals(tmp_path, dogs=7, cats=7)
    with pytest.raises(DataError, match=r"dog_00\d\.jpg is .* but its target .*cat_00\d\.jpg is "):
        for item in sources(lists, RESTORATION, crop_patch=True).training(7):  # type: ignore[attr-defined]
            assert item["input"].shape == item["target"].shape
