"""`FastSolver`: the images of `inverse.restore`; and, on recorded graphs, the captured walk."""

from typing import Any

import pytest
import torch
from small_priors import small_prior
from torch import Tensor

from rddm_fast.fast import FastPrior, FastSolver
from rddm_fast.inverse import operators as ops
from rddm_fast.inverse.operator import Operator
from rddm_fast.inverse.restore import restore

IMAGE = (3, 16, 32)
OPERATORS: dict[str, Operator] = {
    "sr:4": ops.SuperResolution(IMAGE, 4),
    "inpaint": ops.Inpainting(IMAGE, ops.random_mask(IMAGE)),
    "blur:gauss": ops.GaussianBlur(IMAGE),
    "cs:0.25": ops.WalshHadamard(IMAGE, 0.25),
    "old:2": ops.OldPhotograph(IMAGE, 2, ops.random_mask(IMAGE, 0.2)),
}
PRIOR = FastPrior(small_prior())


def draws(count: int, batch: int) -> list[Tensor]:
    return [torch.randn(batch, *IMAGE) for _ in range(count)]


@pytest.mark.parametrize("options", [{}, {"sigma_y": 0.2}, {"travel": (2, 2)}, {"official": True}], ids=str)
@pytest.mark.parametrize("method", ["ddnm", "ddrm"])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_replay_is_restore_on_another_measurement(
    name: str,
    method: str,
    options: dict[str, Any],
    recorded: None,
) -> None:
    if method == "ddrm" and "travel" in options:
        pytest.skip("DDRM has no time travel")
    torch.manual_seed(0)
    operator = OPERATORS[name]
    solver = FastSolver(PRIOR, operator, method, steps=4, **options)
    solver.graphs = True  # set here, because FastSolver refuses graphs=True on a CPU
    kept = []
    for batch in (1, 2, 1, 2):
        y, noise = operator.A(torch.rand(batch, *IMAGE) * 2 - 1), draws(solver.draws, batch)
        expected = restore(y, operator, PRIOR, method, steps=4, noise=noise, **options)
        ours = solver(y, noise=noise)
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * scale)
        kept.append((ours, ours.clone()))
    assert len(solver._graphs.kept) == 2
    assert all(torch.equal(image, copy) for image, copy in kept)  # no replay wrote into what a caller has


def test_without_graphs_it_is_restore() -> None:
    operator = OPERATORS["sr:4"]
    solver = FastSolver(PRIOR, operator, steps=4)
    y = operator.A(torch.rand(1, *IMAGE))
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    expected = restore(y, operator, PRIOR, steps=4, generator=generators[0])
    assert torch.equal(solver(y, generator=generators[1]), expected)


def test_at_most_so_many_are_kept(recorded: None) -> None:
    operator = OPERATORS["sr:4"]
    solver = FastSolver(PRIOR, operator, steps=2, max_graphs=2)
    solver.graphs = True
    for batch in (1, 2, 3, 1):
        solver(operator.A(torch.rand(batch, *IMAGE)))
    assert [key[0][0][0] for key in solver._graphs.kept] == [3, 1]
    solver.reset()
    assert not solver._graphs.kept


def test_what_is_refused() -> None:
    operator = OPERATORS["sr:4"]
    with pytest.raises(ValueError, match="there are no CUDA graphs on cpu: leave graphs out"):
        FastSolver(PRIOR, operator, graphs=True)
    with pytest.raises(ValueError, match="max_graphs is 0: at least one graph has to be kept"):
        FastSolver(PRIOR, operator, max_graphs=0)
    with pytest.raises(ValueError, match="sigma_y must be a standard deviation of 0 or more, not -1"):
        FastSolver(PRIOR, operator, sigma_y=-1.0)
    with pytest.raises(ValueError, match="noise holds 2 draws, and this walk takes 5"):
        FastSolver(PRIOR, operator, steps=4)(operator.A(torch.rand(1, *IMAGE)), noise=draws(2, 1))


def test_a_captured_walk_refuses_draws_of_another_shape(recorded: None) -> None:
    """Copied into the graph's own memory, one image would stand for the whole batch."""
    operator = OPERATORS["sr:4"]
    solver = FastSolver(PRIOR, operator, steps=2)
    solver.graphs = True
    y = operator.A(torch.rand(2, *IMAGE))
    solver(y)
    with pytest.raises(ValueError, match=r"draw 0 of noise has shape \(1, 3, 16, 32\): each must be an image of \(2, "):
        solver(y, noise=draws(3, 1))
