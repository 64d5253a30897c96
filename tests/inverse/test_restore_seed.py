"""`restore(seed=)`: which draws a seed makes, and that the step in place overwrites nothing that a caller has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense_operator import DenseOperator, block_mean
from recorded_prior import DDPM, white_prior
from torch import Tensor

from rddm_fast.inverse.operators.pixelwise import Denoising
from rddm_fast.inverse.restore import METHODS, restore
from rddm_fast.inverse.solver_steps import solver_indices
from rddm_fast.inverse.travel import visited
from rddm_fast.ops import noise

IMAGE, SEED, STEPS = (3, 8, 12), 2**63 + 5, 4
OPERATOR = DenseOperator(IMAGE, torch.kron(block_mean(8, 2), block_mean(12, 4)))


def measured(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return OPERATOR.A(torch.rand(2, *IMAGE, generator=generator) * 2 - 1).to(dtype)


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize(("method", "travel"), [(m, (1, 1)) for m in METHODS] + [("ddnm", (2, 2)), ("ddnm+", (2, 2))])
def test_a_seed_is_its_draws(method: str, travel: tuple[int, int], official: bool) -> None:
    """Stream 0 is the start, an image; stream i + 1 is step i, in spectral coordinates where the method works there."""
    spectral = method in ("ddrm", "ddnm+")
    walk = visited(solver_indices(1000, STEPS), *travel)
    draws = [noise((2, *IMAGE), SEED, stream) for stream in range(len(walk))]
    draws[1:] = [OPERATOR.V(z.flatten(1)) if spectral else z for z in draws[1:]]
    # Exactly known values of y would hide the noise of the observed coordinates, so y has some.
    call: dict[str, Any] = dict(method=method, sigma_y=0.0 if method == "ddnm" else 0.2, steps=STEPS, travel=travel)
    call |= {"official": official, "indices": "exact"}
    by_seed = restore(measured(), OPERATOR, white_prior, **call, seed=SEED)
    by_draws = restore(measured(), OPERATOR, white_prior, **call, noise=draws)
    torch.testing.assert_close(by_seed, by_draws, rtol=0, atol=2e-5)
    assert (by_seed - restore(measured(), OPERATOR, white_prior, **call, seed=SEED - 1)).abs().max() > 0.01


def test_a_seed_gives_float64_images_too() -> None:
    narrow, wide = (
        restore(measured(dtype), OPERATOR, white_prior, "ddrm", 0.1, 5, seed=7)
        for dtype in (torch.float32, torch.float64)
    )
    assert wide.dtype == torch.float64
    torch.testing.assert_close(narrow.double(), wide, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["ddrm", "ddnm+"])
def test_a_step_in_place_writes_over_no_image_that_the_caller_has(method: str) -> None:
    """Denoising has V = I, so an image may be a view of the state, and the first state a view of the first draw."""
    operator, y = Denoising(IMAGE), torch.rand(1, *IMAGE)
    draws = [torch.randn(1, *IMAGE) for _ in range(1 + STEPS)]
    before = [z.clone() for z in draws]
    seen: list[tuple[Tensor, Tensor]] = []
    asked: list[tuple[Tensor, Tensor]] = []

    def predict(x: Tensor, t: int) -> Tensor:
        asked.append((x, x.clone()))
        return white_prior(x, t)

    call: dict[str, Any] = dict(noise=draws, schedule=DDPM, on_step=lambda i, step, x: seen.append((x, x.clone())))
    restore(y, operator, predict, method, 0.3, STEPS, **call)
    assert all(torch.equal(*pair) for pair in zip(draws, before, strict=True))
    assert len(seen) == len(asked) == STEPS
    assert all(torch.equal(*pair) for pair in [*seen, *asked])
    assert not torch.equal(seen[0][0], seen[1][0])


class Counting(DenseOperator):
    """Counts its transforms of spectral coordinates."""

    transforms = 0

    def V(self, z: Tensor) -> Tensor:
        self.transforms += 1
        return super().V(z)

    def Vt(self, x: Tensor) -> Tensor:
        self.transforms += 1
        return super().Vt(x)


@pytest.mark.parametrize(("method", "at_the_start"), [("ddrm", 3), ("ddnm+", 1)])
def test_two_transforms_a_step_and_one_for_a_given_draw(method: str, at_the_start: int) -> None:
    for source, per_step in (({"seed": 1}, 2), ({"generator": torch.Generator().manual_seed(1)}, 3)):
        operator = Counting(IMAGE, torch.kron(block_mean(8, 2), block_mean(12, 4)))
        y = operator.A(torch.zeros(1, *IMAGE))
        operator.transforms = 0
        restore(y, operator, white_prior, method, 0.1, 6, **source)
        assert operator.transforms == at_the_start + 6 * per_step


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        ({"seed": 1, "noise": []}, "noise and seed were all given: the draws come from one of noise, generator, seed"),
        ({"seed": 1, "generator": torch.Generator()}, "generator and seed were all given"),
        ({"seed": 2**64}, "seeds and streams are 64-bit integers"),
    ],
)
def test_one_source_of_noise(sources: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        restore(measured(), OPERATOR, white_prior, "ddrm", **sources)
