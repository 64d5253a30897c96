"""Items as a training wants them: resized, equalised, renamed, and otherwise left alone."""

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from rddm_fast.images.prepared import Prepared, equalized, resized


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
