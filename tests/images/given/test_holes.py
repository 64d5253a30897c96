"""Holes are filled by what surrounds them, along its edges."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from rddm_fast.images.given import holes
from rddm_fast.images.given.holes import filled
from rddm_fast.restoration.demo import photographs


def hole(*boxes: tuple[slice, slice], shape: tuple[int, int] = (48, 64)) -> torch.Tensor:
    marked = torch.zeros(1, 1, *shape)
    for rows, columns in boxes:
        marked[..., rows, columns] = 1
    return marked


def inside(result: torch.Tensor, truth: torch.Tensor, marked: torch.Tensor) -> float:
    """The root mean square of the error in the holes."""
    return float((result - truth)[marked.expand_as(truth) > 0].square().mean().sqrt())


@pytest.mark.parametrize("degrees", [0, 20, 45, 90, 130])
def test_an_edge_is_continued_through_a_hole(degrees: float, monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = torch.meshgrid(torch.arange(64.0) - 31.3, torch.arange(64.0) - 31.3, indexing="ij")
    angle = np.deg2rad(degrees)
    truth = (0.2 + 0.6 * torch.sigmoid(2 * (x * np.cos(angle) + y * np.sin(angle)))).expand(1, 3, 64, 64)
    marked = hole((slice(26, 38), slice(26, 38)), shape=(64, 64))
    along_edges = inside(filled(truth, marked), truth, marked)
    monkeypatch.setattr(holes, "CONTRAST", 1e6)  # diffusion is alike in all directions: Laplace's equation
    assert along_edges < 0.06 and along_edges < 0.6 * inside(filled(truth, marked), truth, marked)


def test_a_slope_is_continued() -> None:
    truth = torch.linspace(0.1, 0.9, 64).expand(1, 3, 48, 64)
    marked = hole((slice(10, 30), slice(20, 40)), (slice(35, 38), slice(5, 60)))
    assert inside(filled(truth, marked), truth, marked) < 0.01


def test_known_pixels_stay_and_the_holes_content_has_no_influence() -> None:
    image = torch.rand(2, 3, 33, 47, generator=torch.Generator().manual_seed(0))
    marked = hole((slice(0, 9), slice(30, 47)), shape=(33, 47)).expand(2, 1, 33, 47)
    result = filled(image, marked)
    assert torch.equal(result[marked.expand_as(image) == 0], image[marked.expand_as(image) == 0])
    assert torch.equal(result, filled(torch.where(marked > 0, float("nan"), image), marked))
    assert result.min() >= 0 and result.max() <= 1


def test_the_images_of_a_batch_do_not_touch_each_other() -> None:
    image = torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    marked = torch.cat(
        [hole((slice(5, 15), slice(30, 40)), shape=(24, 40)), hole((slice(0, 3), slice(0, 40)), shape=(24, 40))]
    )
    together = filled(image, marked)
    for one in range(2):
        assert torch.allclose(together[one], filled(image[one : one + 1], marked[one : one + 1])[0], atol=1e-6)


def test_without_a_known_pixel_it_is_grey() -> None:
    image = torch.rand(2, 3, 5, 7)
    marked = torch.ones(2, 1, 5, 7)
    assert torch.equal(filled(image, marked), torch.full_like(image, 0.5))
    marked[1, :, 2, 3] = 0  # the other image of the batch
    result = filled(image, marked)
    assert torch.allclose(result[1], image[1, :, 2, 3][:, None, None].expand(3, 5, 7), atol=1e-6)


def scratched(path: object) -> float:
    """By how many dB scratches over a photograph are filled better than by Telea's method."""
    photo = np.asarray(Image.open(str(path)).convert("RGB"))
    canvas = np.zeros(photo.shape[:2], np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(10):
        points = (rng.random((2, 2)) * photo.shape[1::-1]).astype(np.int32)
        cv2.polylines(canvas, [points], False, 255, 3)
    marked = canvas > 0
    truth = photo[marked] / 255.0
    telea = cv2.inpaint(photo, canvas, 3, cv2.INPAINT_TELEA)[marked] / 255.0
    image = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] / 255
    ours = filled(image, torch.from_numpy(marked)[None, None].float())[0].permute(1, 2, 0).numpy()[marked]
    return float(10 * np.log10(np.mean((telea - truth) ** 2) / np.mean((ours - truth) ** 2)))


def test_thin_scratches_are_filled_better_than_by_telea() -> None:
    better = [scratched(path) for path in photographs()]
    assert min(better) > 0.2 and np.mean(better) > 1.5
