"""The captured loop of `FastSampler`, on recorded graphs."""

from typing import Any

import pytest
import torch
from small_models import images, small_model

from rddm_fast.fast import FastSampler


@pytest.mark.parametrize("kind", [{}, {"networks": "shared"}, {"eta": 1.0, "self_condition": True}], ids=str)
def test_a_replay_is_the_loop_on_other_images(kind: dict[str, Any], recorded: None) -> None:
    diffusion = small_model(**kind)
    plain, captured = FastSampler(diffusion), FastSampler(diffusion)
    captured.graphs, captured.loop.parallel = True, False  # set here, because FastSampler refuses graphs=True on a CPU
    kept = []
    for i, shape in enumerate([(1, 3, 40, 24), (2, 3, 16, 16), (1, 3, 40, 24), (2, 3, 16, 16)]):
        x, draws = images(*shape, seed=i), [torch.randn(shape) for _ in range(4)]
        expected, ours = (sampler.sample(x, draws=draws)[-1] for sampler in (plain, captured))
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
        kept.append((ours, ours.clone()))
    assert len(captured._graphs) == 2
    assert all(torch.equal(image, copy) for image, copy in kept)  # no replay wrote into what a caller has


def test_at_most_so_many_are_kept(recorded: None) -> None:
    sampler = FastSampler(small_model(), max_graphs=2)
    sampler.graphs, sampler.loop.parallel = True, False
    for side in (16, 24, 32, 16):
        sampler(images(1, 3, side, side))
    assert [key[0][-1] for key in sampler._graphs] == [32, 16]
    sampler.reset()
    assert not sampler._graphs
