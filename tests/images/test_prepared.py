"""Items as a training wants them: resized, equalised, renamed, and otherwise left alone."""

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from rddm_fast.images.prepared import Prepared, equalized, face, resized, without_centre


class Items(Dataset[dict[str, Any]]):
    """Two items, each with an image of its own size, a mask and a name."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        image = torch.rand(3, 12 + index, 20, generator=generator) / 2
        return {"input": image, "mask": image[:1].round(), "name": str(index)}


def test_nothing_asked_nothing_changed() -> None:
    for made, given in zip((Prepared(Items())[i] for i in range(2)), (Items()[i] for i in range(2)), strict=True):
        assert made.keys() == given.keys() and made["name"] == given["name"]
        assert torch.equal(made["input"], given["input"]) and torch.equal(made["mask"], given["mask"])
    assert len(Prepared(Items())) == 2


def test_every_image_of_an_item_is_resized() -> None:
    made, given = Prepared(Items(), size=8)[1], Items()[1]
    assert made["name"] == "1"
    assert torch.equal(made["input"], resized(given["input"], 8)) and made["input"].shape == (3, 8, 8)
    assert torch.equal(made["mask"], resized(given["mask"], 8))


def test_the_input_alone_is_equalised_and_before_it_is_resized() -> None:
    pytest.importorskip("cv2")
    made, given = Prepared(Items(), size=8, equalize_input=True)[0], Items()[0]
    assert torch.equal(made["input"], resized(equalized(given["input"]), 8))
    assert torch.equal(made["mask"], resized(given["mask"], 8))


def test_images_alone_become_targets() -> None:
    made = Prepared(Items(), input_is_target=True)[0]
    assert "input" not in made and torch.equal(made["target"], Items()[0]["input"])


def test_a_face_is_128_pixels_about_the_point_89_121_of_an_aligned_image() -> None:
    aligned = torch.arange(218 * 178.0).reshape(1, 218, 178)
    found = face(aligned)
    assert found.shape == (1, 128, 128)
    assert float(found[0, 64, 64]) == 121 * 178 + 89
    assert torch.equal(found, aligned[:, 57:185, 25:153])
    other = torch.zeros(3, 178, 218)
    assert face(other) is other


@pytest.mark.parametrize(("height", "width"), [(8, 12), (9, 7)])
def test_the_middle_half_of_each_side_becomes_grey(height: int, width: int) -> None:
    image = torch.ones(3, height, width)
    holed = without_centre(image)
    assert int((holed == 0.5).sum()) == 3 * (height // 2) * (width // 2)
    rows, columns = ((holed[0] == 0.5).any(axis).nonzero().flatten() for axis in (1, 0))
    assert rows.tolist() == list(range(height // 4, height // 4 + height // 2))
    assert columns.tolist() == list(range(width // 4, width // 4 + width // 2))
    assert image.min() == 1  # The given image stays as it was.


def test_the_hole_is_cut_after_resizing_and_the_target_is_whole() -> None:
    made = Prepared(Items(), size=8, input_is_target=True, centre_hole=True)[1]
    assert torch.equal(made["target"], resized(Items()[1]["input"], 8))
    assert torch.equal(made["input"], without_centre(made["target"])) and made["input"].shape == (3, 8, 8)


def test_faces_are_cropped_before_they_are_resized() -> None:
    class Faces(Items):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"input": torch.rand(3, 218, 178, generator=torch.Generator().manual_seed(index)), "name": "a"}

    made = Prepared(Faces(), size=8, crop_faces=True)[0]
    assert made["name"] == "a" and torch.equal(made["input"], resized(face(Faces()[0]["input"]), 8))


def test_resizing_is_bicubic_clamped_and_free_at_the_same_size() -> None:
    image = Items()[0]["input"]
    assert resized(image, (12, 20)) is image
    assert resized(image, (5, 7)).shape == (3, 5, 7) and resized(image, 6).shape == (3, 6, 6)
    flat = torch.full((3, 9, 9), 0.3)
    torch.testing.assert_close(resized(flat, (4, 17)), torch.full((3, 4, 17), 0.3), rtol=0, atol=1e-6)
    edge = torch.zeros(1, 8, 8)
    edge[..., 4:] = 1  # a cubic overshoots at an edge
    larger = resized(edge, 32)
    assert larger.min() == 0 and larger.max() == 1
