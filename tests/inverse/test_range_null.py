"""The walk in pixels, one op a step: the images of the walks in spectral coordinates and by A and A+ alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from recorded_prior import white_prior
from torch import Tensor

from rddm_fast.inverse import operators as ops
from rddm_fast.inverse.operator import SpectralOperator
from rddm_fast.inverse.range_null import range_null_steps
from rddm_fast.inverse.restore import restore, walk_of
from rddm_fast.ops.noise import noise as drawn
from rddm_fast.theory.schedule import Schedule

IMAGE = (3, 8, 12)


def mask(*shape: int) -> Tensor:
    return (torch.rand(*shape, 8, 12, generator=torch.Generator().manual_seed(1)) < 0.6).float()


OPERATORS: dict[str, Callable[[], SpectralOperator]] = {
    "denoising": lambda: ops.Denoising(IMAGE),
    "inpaint": lambda: ops.Inpainting(IMAGE, mask()),
    "a mask for each image": lambda: ops.Inpainting(IMAGE, mask(2)),
    "sr:4": lambda: ops.SuperResolution(IMAGE, 4),
    "color": lambda: ops.Colourisation(IMAGE),
    "old:2": lambda: ops.OldPhotograph(IMAGE, 2, mask(2)),
}


def prior(x: Tensor, t: int) -> Tensor:
    """A prior that mixes neighbours and channels, so that a wrong pixel spreads."""
    return white_prior(x, t) + 0.1 * torch.tanh(x.roll((1, 1), (1, 3)))


@pytest.mark.parametrize("options", [{}, {"official": True}, {"travel": (2, 2)}, {"eta": 0.3, "eta_b": 0.6}], ids=str)
@pytest.mark.parametrize("sigma_y", [0.0, 0.3])
@pytest.mark.parametrize("method", ["ddrm", "ddnm", "ddnm+", "ddnm+eq19"])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_images_are_those_of_the_other_walks(
    name: str, method: str, sigma_y: float, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "ddrm" and "travel" in options:
        pytest.skip("DDRM has no time travel")
    torch.manual_seed(0)
    operator = OPERATORS[name]()
    y = operator.A(torch.rand(2, *IMAGE, dtype=torch.float64) * 2 - 1)
    noise = [torch.randn(2, *IMAGE, dtype=torch.float64) for _ in range(40)]
    count = 1 + len(walk_of(Schedule.from_ddim(), method, steps=8, **_of_walk(options)))

    def images() -> list[Tensor]:
        seen: list[Tensor] = []
        given = {"noise": noise[:count], "on_step": lambda i, step, x: seen.append(x.clone())}
        restore(y, operator, prior, method, sigma_y, 8, **given, **options)
        return seen

    in_pixels = images()
    monkeypatch.setattr(type(operator), "rank_one_blocks", lambda self, like: None)
    elsewhere = images()
    assert len(in_pixels) == len(elsewhere) == count - 1
    for ours, theirs in zip(in_pixels, elsewhere, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10 * max(1.0, float(theirs.abs().max())))


def _of_walk(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in ("travel", "official")}


def test_one_op_a_step_and_no_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two evaluations of the prior nothing runs but the op; A+ is computed once."""
    calls: list[str] = []
    monkeypatch.setattr(ops.SuperResolution, "A", lambda *_: calls.append("A"))
    monkeypatch.setattr(ops.SuperResolution, "Vt", lambda *_: calls.append("Vt"))
    pinv = ops.SuperResolution.pinv
    monkeypatch.setattr(ops.SuperResolution, "pinv", lambda self, y: (calls.append("pinv"), pinv(self, y))[1])
    for method in ("ddnm", "ddnm+"):
        restore(torch.rand(2, 3, 2, 3), ops.SuperResolution(IMAGE, 4), prior, method, 0.2, 8)
    assert calls == ["pinv", "pinv"]


@pytest.mark.parametrize("method", ["ddrm", "ddnm", "ddnm+"])
def test_a_seed_draws_what_ops_noise_draws(method: str) -> None:
    operator = OPERATORS["sr:4"]()
    y = torch.rand(2, 3, 2, 3) * 2 - 1
    noise = [drawn((2, *IMAGE), 9, stream, torch.device("cpu")) for stream in range(9)]
    by_seed = restore(y, operator, prior, method, 0.1, 8, seed=9)
    torch.testing.assert_close(by_seed, restore(y, operator, prior, method, 0.1, 8, noise=noise), rtol=0, atol=1e-5)
    assert not torch.equal(by_seed, restore(y, operator, prior, method, 0.1, 8, seed=10))


def test_the_numbers_of_the_reference() -> None:
    """Section 4's table at one step, by hand: a_s = 0.64, sigma_y = 0.3, eta = 0.6, s = 0.5 and s = 1."""
    (step,) = [s for s in walk_of(Schedule.from_ddim(), "ddnm", steps=1)]
    step = type(step)(step.t, 7, step.a_t, 0.64)  # sqrt(b) = 0.8, sigma = 0.6, q = 0.8, thr = 0.24 / s
    common = {"sigma_y": 0.3, "eta": 0.6}
    null = (0.8, 0.48, 0.36)

    def numbers(method: str, s: float, **options: Any) -> tuple[float, ...]:
        (made,) = range_null_steps(method, [step], s, **common, **options)
        return (made.n_0, made.n_e, made.n_z, made.r_0, made.r_e, made.r_z, made.k_y)

    assert numbers("ddnm+", 1.0) == pytest.approx((*null, 0.0, 0.0, (0.36 - 0.0576) ** 0.5, 0.8))
    lam = 0.2 * 0.6 * 0.8 / 0.24  # s = 0.2: sigma 0.6 is below 0.24 / 0.2 = 1.2
    assert numbers("ddnm+", 0.2) == pytest.approx((*null, 0.8 * (1 - lam), 0.0, 0.36, 0.8 * lam))
    cleaner = (0.8 * 0.3, 0.0, (0.36 - (0.7 * 0.24) ** 2) ** 0.5, 0.8 * 0.7)
    assert numbers("ddrm", 1.0, eta_b=0.7) == pytest.approx((*null, *cleaner))
    assert numbers("ddrm", 0.4, official=True) == pytest.approx((*null, *null, 0.0))  # equal: 0.4 · 0.6 = 0.24
    assert numbers("ddrm", 0.4) == pytest.approx((*null, 0.0, 0.0, 0.0, 0.8))
