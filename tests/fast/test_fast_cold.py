"""`FastColdRestorer` is a `ColdRestorer` on folded networks: the same estimates, and the same restored images."""

import pytest
import torch
from small_models import assert_same_bits

from rddm_fast.diffusion.cold_restorer import ColdRestorer
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.fast import FastColdRestorer
from rddm_fast.inverse import cold

T = 5
RECIPE = cold.Recipe.parsed(f"cold:blur:{T}")


@pytest.fixture
def restorer() -> ColdRestorer:
    return ColdRestorer(ResidualUnets(16, networks="one", dim_mults=[1, 2]), RECIPE.values()).eval()


@pytest.mark.parametrize("size", [(16, 16), (12, 20), (7, 5)])
def test_the_same_estimate_at_every_level(size: tuple[int, int], restorer: ColdRestorer) -> None:
    x, fast = torch.rand(2, 3, *size) * 2 - 1, FastColdRestorer(restorer)
    with torch.no_grad():
        expected = {s: restorer(x, s) for s in range(1, T + 1)}
    assert (expected[1] - expected[T]).abs().max() > 1e-3  # the level matters
    for s, x_0 in expected.items():
        assert (fast(x, s) - x_0).abs().max() < 1e-5


@pytest.mark.parametrize("algorithm", ["tacos", "naive"])
def test_the_same_restored_images(algorithm: str, restorer: ColdRestorer) -> None:
    before = {name: value.clone() for name, value in restorer.state_dict().items()}
    degradation = RECIPE.made((12, 20))
    x_T = degradation.start(torch.rand(2, 3, 12, 20) * 2 - 1)
    ours, expected = (cold.sample(R, degradation, x_T, algorithm) for R in (FastColdRestorer(restorer), restorer))
    assert (ours - expected).abs().max() < 1e-5
    assert_same_bits(restorer.state_dict(), before)


def test_levels_and_dtypes(restorer: ColdRestorer) -> None:
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64) * 2 - 1
    fast, exact = FastColdRestorer(restorer, dtype=torch.bfloat16), FastColdRestorer(restorer)
    assert fast(x, 2).dtype == torch.float64 and 0 < (fast(x, 2) - exact(x, 2)).abs().max() < 0.1
    for s in (0, T + 1):
        with pytest.raises(ValueError, match=f"s is {s}: this restorer was trained on the levels 1 to {T}"):
            fast(x, s)
    with pytest.raises(ValueError, match=r"dtype is torch\.float64: choose torch\.float32"):
        FastColdRestorer(restorer, dtype=torch.float64)
    # The published samplers tell a network s - 1, which ours were not trained on.
    with pytest.raises(ValueError, match="s is 0"):
        cold.sample(fast, RECIPE.made((16, 16)), x, official=True)
