"""A shadow is lit by what it took."""

import numpy as np
import pytest
import torch
from PIL import Image

from rddm_fast.images.given.given import given
from rddm_fast.images.given.shadow import beside_edge, relit
from rddm_fast.restoration.demo import photographs


def shaded(gains: torch.Tensor, soft: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A photograph, the same with a box of shadow whose edge is so many pixels soft to either side, and the mask."""
    truth = torch.from_numpy(np.array(Image.open(photographs()[3]).convert("RGB"))).permute(2, 0, 1)[
        None, :, :160, :200
    ]
    truth = 0.1 + 0.8 * truth.float() / 255
    y, x = torch.arange(160)[:, None], torch.arange(200)[None, :]
    depth = torch.minimum(torch.minimum(y - 40, 120 - y), torch.minimum(x - 50, 160 - x))
    amount = ((depth + soft) / (2 * soft)).clamp(0, 1)
    return truth, truth * (1 - amount * (1 - gains[None, :, None, None])), (depth >= -soft).float()[None, None]


def test_a_shadow_is_lit_by_what_it_took_from_each_channel() -> None:
    taken = torch.tensor([0.3, 0.4, 0.5])
    truth, dark, mask = shaded(taken, soft=4)
    lit = relit(dark, mask)
    assert torch.equal(lit[mask.expand_as(lit) == 0], dark[mask.expand_as(lit) == 0])
    inside = (slice(None), slice(None), slice(52, 109), slice(62, 149))
    before, after = ((image - truth)[inside].square().mean().sqrt() for image in (dark, lit))
    assert after < before / 3
    # What fits already stays almost as it is.
    assert (relit(lit, mask) - lit).abs().mean() < 0.02


def test_a_shadow_that_nothing_surrounds_stays_and_a_thin_one_is_lit() -> None:
    image = torch.full((2, 3, 40, 40), 0.5)
    assert torch.equal(relit(image, torch.ones(2, 1, 40, 40)), image)
    line = torch.zeros(2, 1, 40, 40)
    line[0, :, 20:22] = 1
    lit = relit(torch.where(line > 0, image * 0.4, image), line)
    assert (lit - image).abs().max() < 0.02
    assert torch.equal(relit(image, torch.zeros_like(line)), image)


@pytest.mark.parametrize("soft", [0.5, 3, 7])
def test_the_edge_of_a_shadow_is_lit_as_softly_as_it_is(soft: float) -> None:
    gains = torch.tensor([0.35, 0.4, 0.45])
    truth, dark, mask = shaded(gains, soft=soft)
    lit = relit(dark, mask)
    edge = (mask > 0) & (1 - torch.nn.functional.max_pool2d(1 - mask, 17, 1, 8) == 0)
    edge = edge.expand_as(truth)
    before, after = ((image - truth)[edge].square().mean().sqrt() for image in (dark, lit))
    assert after < 0.25 * before


def test_a_mask_may_reach_further_than_the_shadow() -> None:
    truth, dark, mask = shaded(torch.tensor([0.35, 0.4, 0.45]), soft=4)
    wide = torch.nn.functional.max_pool2d(mask, 21, 1, 10)
    lit = relit(dark, wide)
    edge = ((wide > 0) & (1 - torch.nn.functional.max_pool2d(1 - wide, 41, 1, 20) == 0)).expand_as(truth)
    before, after = ((image - truth)[edge].square().mean().sqrt() for image in (dark, lit))
    assert after < 0.4 * before  # 0.30; 0.96 where the edge is looked for in 8 pixels to either side


def test_a_network_mends_the_edge_alone() -> None:
    _, dark, mask = shaded(torch.tensor([0.35, 0.4, 0.45]), soft=4)
    prepared = given(dark, mask.expand_as(dark), "shadow")
    restored = torch.rand(dark.shape, generator=torch.Generator().manual_seed(0))
    found = prepared.finished(restored)
    distance = beside_edge(mask).expand_as(dark)
    deep, edge = (distance == 0) & (mask > 0), (distance == 1) & (mask > 0)
    assert deep.float().mean() > 0.01 and edge.float().mean() > 0.05
    assert torch.equal(found[deep], relit(dark, mask)[deep]) and torch.equal(found[edge], restored[edge])
    assert torch.equal(found[mask.expand_as(dark) == 0], dark[mask.expand_as(dark) == 0])


def test_a_shadow_of_known_darkness_is_lit_by_as_much() -> None:
    gains = torch.tensor([0.35, 0.4, 0.45])
    truth, dark, mask = shaded(gains, soft=4)
    deep = (beside_edge(mask) == 0).expand_as(dark) & (mask > 0)
    assert torch.allclose(relit(dark, mask, 1 / gains[None])[deep], truth[deep], atol=1e-6)


def test_the_pictures_of_a_batch_are_lit_one_by_one() -> None:
    pairs = [shaded(torch.full((3,), gain), soft=4) for gain in (0.3, 0.6)]
    dark, mask = (torch.cat([pair[place] for pair in pairs]) for place in (1, 2))
    together = relit(dark, mask)
    for one in range(2):
        assert torch.equal(together[one : one + 1], relit(dark[one : one + 1], mask[one : one + 1]))
