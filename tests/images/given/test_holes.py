"""Holes are filled with the smooth continuation of their surroundings."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_matrix, eye
from scipy.sparse.linalg import spsolve

from rddm_fast.images.given.holes import smooth_fill
from rddm_fast.restoration.demo import photographs


def hole(*boxes: tuple[slice, slice], shape: tuple[int, int] = (48, 64)) -> torch.Tensor:
    marked = torch.zeros(1, 1, *shape)
    for rows, columns in boxes:
        marked[..., rows, columns] = 1
    return marked


def harmonic(image: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """The solution of Laplace's equation in the hole by a sparse solver; the hole does not touch the border."""
    index = -np.ones(image.shape, int)
    places = np.argwhere(marked > 0)
    index[tuple(places.T)] = np.arange(len(places))
    rows, columns, right = [], [], np.zeros(len(places))
    for row, (y, x) in enumerate(places):
        for neighbour in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if index[neighbour] >= 0:
                rows.append(row)
                columns.append(index[neighbour])
            else:
                right[row] += image[neighbour] / 4
    walk = csr_matrix((np.full(len(rows), 0.25), (rows, columns)), shape=(len(places),) * 2)
    result = image.copy()
    result[tuple(places.T)] = spsolve((eye(len(places)) - walk).tocsc(), right)
    return result


def test_a_hole_is_filled_by_laplaces_equation() -> None:
    image = torch.rand(1, 1, 48, 64, generator=torch.Generator().manual_seed(0)) * 0.2
    image += torch.linspace(0, 0.8, 64)
    marked = hole((slice(10, 30), slice(20, 40)), (slice(35, 38), slice(5, 60)))
    filled = smooth_fill(image, marked)[0, 0].numpy()
    wanted = harmonic(image[0, 0].double().numpy(), marked[0, 0].numpy())
    assert np.abs(filled - wanted).max() < 0.05
    assert np.sqrt(np.mean((filled - wanted)[marked[0, 0].numpy() > 0] ** 2)) < 0.01


def test_known_pixels_stay_and_the_holes_content_has_no_influence() -> None:
    image = torch.rand(2, 3, 33, 47, generator=torch.Generator().manual_seed(0))
    marked = hole((slice(0, 9), slice(30, 47)), shape=(33, 47)).expand(2, 1, 33, 47)
    filled = smooth_fill(image, marked)
    assert torch.equal(filled[marked.expand_as(image) == 0], image[marked.expand_as(image) == 0])
    assert torch.equal(filled, smooth_fill(torch.where(marked > 0, float("nan"), image), marked))


def test_without_a_known_pixel_it_is_grey() -> None:
    image = torch.rand(2, 3, 5, 7)
    marked = torch.ones(2, 1, 5, 7)
    assert torch.equal(smooth_fill(image, marked), torch.full_like(image, 0.5))
    marked[1, :, 2, 3] = 0  # the other image of the batch
    filled = smooth_fill(image, marked)
    assert torch.allclose(filled[0], torch.full_like(image[0], 0.5))
    assert torch.allclose(filled[1], image[1, :, 2, 3][:, None, None].expand(3, 5, 7), atol=1e-6)


@pytest.mark.parametrize("path", photographs()[:3], ids=lambda path: path.stem)
def test_thin_scratches_are_filled_about_as_well_as_by_telea(path: object) -> None:
    photo = np.asarray(Image.open(str(path)).convert("RGB"))
    canvas = np.zeros(photo.shape[:2], np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(10):
        points = (rng.random((2, 2)) * photo.shape[1::-1]).astype(np.int32)
        cv2.polylines(canvas, [points], False, 255, 3)
    inside = canvas > 0
    truth = photo[inside] / 255.0
    telea = cv2.inpaint(photo, canvas, 3, cv2.INPAINT_TELEA)[inside] / 255.0
    image = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] / 255
    ours = smooth_fill(image, torch.from_numpy(inside)[None, None].float())[0].permute(1, 2, 0).numpy()[inside]
    decibels = [-10 * np.log10(np.mean((filled - truth) ** 2)) for filled in (ours, telea)]
    assert decibels[0] > decibels[1] - 0.5
