"""Two networks computed at once, each on half of the threads."""

import threading

import pytest
import torch
from small_models import images, seeded, small_model

from rddm_fast.fast import FastSampler
from rddm_fast.fast.together import together


def test_two_networks_are_computed_at_once_on_half_of_the_threads_each() -> None:
    diffusion, x = small_model(), images(1, 3, 24, 16)
    sampler = FastSampler(diffusion)
    threads = torch.get_num_threads()
    seen: list[tuple[str, int, bool]] = []
    member = sampler.loop.member[:]
    for i in range(2):

        def watched(*arguments: object, i: int = i) -> object:
            seen.append((threading.current_thread().name, torch.get_num_threads(), torch.is_grad_enabled()))
            return member[i](*arguments)

        sampler.loop.member[i] = watched
    try:
        torch.set_num_threads(4)
        together = sampler(x, generator=seeded(0))
        assert all(name.startswith("rddm_fast") for name, _, _ in seen) and len(seen) == 2 * len(sampler.steps)
        assert {(count, grad) for _, count, grad in seen} == {(2, False)} and torch.get_num_threads() == 4
        seen.clear()
        torch.set_num_threads(1)  # nothing to share
        alone = sampler(x, generator=seeded(0))
        assert {(name, count) for name, count, _ in seen} == {("MainThread", 1)}
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_what_a_network_raises_at_once_with_another_is_raised() -> None:
    def fails() -> None:
        raise ValueError("of the second")

    with pytest.raises(ValueError, match="of the second"):
        together(lambda: None, fails)
    assert together(lambda: 1, lambda: 2) == (1, 2)
