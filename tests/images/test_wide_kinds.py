"""The wide kinds: from nothing to strong, and as large outside a patch as inside it."""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rddm_fast.images.datasets import CONTEXT, OF_WHOLE, PhotoPatches
from rddm_fast.images.degradations.degraded import to_tensor
from rddm_fast.images.degradations.shadow import grown
from rddm_fast.images.degrade import KINDS, WITH_MASK, degrade
from rddm_fast.images.given.given import given
from rddm_fast.images.given.learnt import FIRST_GUESS_OF, MASK_MARKS_OF, as_learnt
from rddm_fast.restoration.demo import photographs

WIDE = [kind for kind in KINDS if kind.startswith("wide-")]
WHOLE = np.asarray(Image.open(photographs()[0]).convert("RGB"), np.float32) / np.float32(255)
PHOTO = WHOLE[:64, :64]


def changes(kind: str, count: int = 60) -> np.ndarray:
    """The root mean square of what each of `count` draws does to a photograph."""
    seed = zlib.crc32(kind.encode())
    rngs = [np.random.default_rng((seed, n)) for n in range(count)]
    images = [degrade(PHOTO, kind, rng).image for rng in rngs]
    return np.array([np.sqrt(np.mean((image - PHOTO) ** 2)) for image in images])


@pytest.mark.parametrize(
    ("kind", "strong"),
    [
        ("wide-rain", 0.18),
        ("wide-noise", 0.15),
        ("wide-lowlight", 0.4),
        ("wide-blur", 0.05),
        ("wide-jpeg", 0.03),
        ("wide-shadow", 0.15),
    ],
)
def test_strength_goes_from_zero_to_strong(kind: str, strong: float) -> None:
    found = changes(kind)
    assert 0.03 <= np.mean(found == 0) <= 0.35  # 12 % are clean; a shadow may miss the picture
    weak = found[found > 0].min()
    assert weak < 0.04 and found.max() > strong


def test_every_wide_kind_has_a_test_of_its_strength_or_fills_holes() -> None:
    assert set(WIDE) == {f"wide-{n}" for n in ("rain", "noise", "lowlight", "blur", "jpeg", "shadow", "mask")}


def test_what_a_hole_of_wide_mask_holds_is_not_learnt_from() -> None:
    held = set()
    for seed in range(8):
        result = degrade(PHOTO, "wide-mask", np.random.default_rng(seed))
        hole = result.mask == 1
        assert 0 < hole.mean() < 0.9
        assert np.array_equal(result.image[~hole], PHOTO[~hole])
        held.add(float(result.image[hole].mean()))
        other = replace(result, image=np.where(hole[..., None], 1 - result.image, result.image))
        first, second = (as_learnt(one, "wide-mask", np.random.default_rng(0)).image for one in (result, other))
        assert np.array_equal(first, second) and np.array_equal(first[~hole], PHOTO[~hole])
    assert len(held) > 3 and {0.0, 1.0} & held


@pytest.mark.parametrize("kind", ["wide-mask", "wide-lowlight", "wide-noise"])
def test_a_network_learns_from_what_it_is_given_in_use(kind: str) -> None:
    differs = False
    for seed in range(4):
        degraded = degrade(WHOLE, kind, np.random.default_rng(seed))
        mask = None if degraded.mask is None else torch.from_numpy(degraded.mask).expand(1, 3, -1, -1)
        wanted = given(to_tensor(degraded.image)[None], mask, MASK_MARKS_OF.get(kind), FIRST_GUESS_OF.get(kind)).image
        learnt = as_learnt(degraded, kind, np.random.default_rng(0))
        assert torch.equal(to_tensor(learnt.image)[None], wanted) and learnt.mask is degraded.mask
        differs |= not torch.equal(wanted, to_tensor(degraded.image)[None])
    assert differs


def test_a_network_learns_the_edge_of_a_shadow_whose_darkness_is_known() -> None:
    for seed in (2, 4, 7):
        degraded = degrade(WHOLE, "wide-shadow", np.random.default_rng(seed))
        learnt = as_learnt(degraded, "wide-shadow", np.random.default_rng(0))
        assert degraded.taken is not None and degraded.mask is not None and learnt.mask is degraded.mask
        inner = grown(degraded.mask, -30) == 1
        left = np.abs(learnt.image - WHOLE)[inner].mean() / np.abs(degraded.image - WHOLE)[inner].mean()
        assert inner.mean() > 0.05 and left < 0.1  # 0.06, 0.02 and 0.01
        assert np.array_equal(learnt.image[degraded.mask == 0], degraded.image[degraded.mask == 0])


def test_what_is_not_prepared_is_learnt_from_as_it_is() -> None:
    degraded = degrade(PHOTO, "wide-rain", np.random.default_rng(5))
    assert as_learnt(degraded, "wide-rain", np.random.default_rng(0)) is degraded


def test_the_mask_of_a_shadow_covers_what_was_changed_or_almost() -> None:
    white = np.ones((96, 96, 3), np.float32)
    for seed in range(6):
        wide = degrade(white, "wide-shadow", np.random.default_rng(seed))
        missed = (wide.image.min(2) < 0.99) & (wide.mask == 0)
        assert missed.mean() < 0.12  # a hand's mask may be up to 3 pixels short


@pytest.mark.parametrize("kind", WIDE)
def test_a_patch_is_cut_from_a_larger_picture_that_was_degraded(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (150, 170, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    patches = PhotoPatches([tmp_path / "a.png"], kind, patch=48, length=6, shrink=2.0, seed=3)
    assert patches.context == (170 if kind in OF_WHOLE else CONTEXT)
    for item in patches:
        assert item["input"].shape == item["target"].shape == (3, 48, 48)
        assert item["input"].min() >= 0 and item["input"].max() <= 1
        assert ("mask" in item) == (kind in WITH_MASK)
        if "mask" in item and kind == "wide-mask":
            known = (item["mask"] == 0).expand(3, -1, -1)
            assert (item["input"] == item["target"])[known].all()  # one place of input, target and mask


def test_the_other_kinds_patches_are_those_of_before() -> None:
    items = PhotoPatches(photographs(), "rain", patch=32, length=3, shrink=2.0)
    sums = [float(item["input"].double().sum()) for item in items]
    assert sums == pytest.approx(SUMS, rel=1e-9)


SUMS = [1292.2392564415932, 792.8435208797455, 2199.580758035183]
"""Of the code before photographs were degraded with what surrounds a patch."""
