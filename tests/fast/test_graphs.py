"""The captured loop of `FastSampler`, on recorded graphs."""

from concurrent.futures import ThreadPoolExecutor
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
    assert len(captured._graphs.kept) == 2
    assert all(torch.equal(image, copy) for image, copy in kept)  # no replay wrote into what a caller has


def test_at_most_so_many_are_kept(recorded: None) -> None:
    sampler = FastSampler(small_model(), max_graphs=2)
    sampler.graphs, sampler.loop.parallel = True, False
    for side in (16, 24, 32, 16):
        sampler(images(1, 3, side, side))
    assert [key[0][0][-1] for key in sampler._graphs.kept] == [32, 16]
    sampler.reset()
    assert not sampler._graphs.kept


def test_a_graph_made_in_inference_mode_serves_outside_of_it(recorded: None) -> None:
    sampler, x, draws = FastSampler(small_model()), images(1, 3, 16, 16), [torch.randn(1, 3, 16, 16) for _ in range(4)]
    sampler.graphs, sampler.loop.parallel = True, False
    with torch.inference_mode():
        first = sampler(x, draws=draws)
    torch.testing.assert_close(sampler(x, draws=draws), first.clone(), rtol=0, atol=0)


def test_another_precision_of_products_is_another_graph(recorded: None) -> None:
    sampler, x = FastSampler(small_model()), images(1, 3, 16, 16)
    sampler.graphs, sampler.loop.parallel = True, False
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    try:
        for precision in ("ieee", "tf32", "ieee"):
            products.fp32_precision = precision
            sampler(x)
    finally:
        products.fp32_precision = before
    assert len(sampler._graphs.kept) == 2


def test_threads_take_turns(recorded: None) -> None:
    """Every thread gets the image of its own input, although all graphs' calls share memory."""
    plain, sampler = FastSampler(small_model()), FastSampler(small_model())
    sampler.graphs, sampler.loop.parallel, plain.loop.parallel = True, False, False
    inputs = [images(1, 3, 16, 16, seed=seed) for seed in range(8)]
    draws = [torch.randn(1, 3, 16, 16) for _ in range(4)]
    expected = [plain(x, draws=draws) for x in inputs]
    sampler(inputs[0], draws=draws)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda x: sampler(x, draws=draws), inputs))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
