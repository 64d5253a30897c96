"""Small models for tests: random weights, real structure; or networks of known answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rddm_fast import compat
from rddm_fast.diffusion import ResidualDiffusion, to_signed
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.fast import FastSampler
from rddm_fast.theory.objective import Objective
from rddm_fast.theory.schedule import Schedule


def small_model(
    objective: str = "pred_res_noise",
    *,
    networks: str | None = None,
    condition: bool = True,
    input_condition: bool = False,
    self_condition: bool = False,
    img_to_img_translation: bool = False,
    padding_factor: int | None = None,
    seed: int = 0,
    dim: int = 16,
    **options: Any,
) -> ResidualDiffusion:
    """A model of `dim` channels and two stages for any objective, seeded."""
    torch.manual_seed(seed)
    networks = networks or ("two" if Objective[objective].outputs == 2 else "one")
    sees = {
        "condition": condition,
        "input_condition": input_condition,
        "img_to_img_translation": img_to_img_translation,
    }
    more: dict[str, Any] = {} if padding_factor is None else {"padding_factor": padding_factor}
    unets = ResidualUnets(dim, networks=networks, dim_mults=[1, 2], self_condition=self_condition, **sees, **more)
    settings = {"sampling_timesteps": 3, "image_size": 16, **options}
    schedule = settings.pop("schedule", Schedule.triangular(1000, 0.01 if condition else 1.0))
    return ResidualDiffusion(unets, schedule, objective=objective, **sees, **settings).eval()


def perturbed_unets(networks: str = "two", dim_mults: Sequence[int] = (1, 2), **options: Any) -> ResidualUnets:
    """Networks that see the degraded image; gains of 1 and biases of 0, which hide a swapped one, are changed."""
    torch.manual_seed(0)
    unets = ResidualUnets(16, networks=networks, dim_mults=dim_mults, condition=True, **options)
    with torch.no_grad():
        for parameter in unets.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return unets


def published_model(network: dict[str, Any] | None = None, **options: Any) -> compat.ResidualDiffusion:
    """A model of the published class, seeded: two networks unless `network`, UnetRes's arguments, says otherwise."""
    torch.manual_seed(0)
    settings = {"image_size": 16, "sampling_timesteps": 2, "condition": True, **options}
    sees = {name: settings[name] for name in ("condition", "input_condition") if name in settings}
    unets = compat.UnetRes(16, dim_mults=(1, 2), **sees, **({"share_encoder": 0} if network is None else network))
    return compat.ResidualDiffusion(unets, **settings)


class Known(nn.Module):
    """A network that answers what `answer(x)` says, one image per output, and notes what it was asked."""

    channels = 3

    def __init__(self, answer: Callable[[Tensor], Sequence[Tensor]], self_condition: bool = False) -> None:
        super().__init__()
        self.answer, self.self_condition = answer, self_condition
        self.asked: list[tuple[Tensor, Any, Tensor | None]] = []

    def forward(self, x: Tensor, time: Any, x_self_cond: Tensor | None = None) -> list[Tensor]:
        self.asked.append((x, time, x_self_cond))
        return list(self.answer(x))


SCHEDULE = Schedule.triangular(1000, 0.01)


def known_model(*outputs: Tensor, self_condition: bool = False, **options: Any) -> ResidualDiffusion:
    """A model whose network answers `outputs`; it restores in two steps along `SCHEDULE` unless told otherwise."""
    settings: dict[str, Any] = {"condition": True, "sampling_timesteps": 2, "image_size": 8, **options}
    schedule = settings.pop("schedule", SCHEDULE)
    return ResidualDiffusion(Known(lambda _x: outputs, self_condition), schedule, **settings)


def seeded(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def images(*shape: int, seed: int = 1) -> Tensor:
    """Images in [0, 1] of a shape, seeded."""
    return torch.rand(*shape, generator=seeded(seed))


def signed(seed: int, batch: int = 2) -> Tensor:
    """Images in [-1, 1], 8 x 8, seeded."""
    return to_signed(images(batch, 3, 8, 8, seed=seed))


def assert_same_bits(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Two state dicts hold the same tensors, to the bit."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def assert_same_images(ours: ResidualDiffusion, theirs: ResidualDiffusion) -> None:
    """Two restoring models make the same images of one seed, to the bit."""
    x = images(1, 3, 16, 16)
    results = [model.sample(x, sampling_timesteps=2, generator=seeded(0)) for model in (ours, theirs)]
    torch.testing.assert_close(*results, rtol=0, atol=0)


def assert_fast_is_eager(diffusion: ResidualDiffusion, *inputs: Tensor, atol: float = 1e-5, **options: Any) -> Tensor:
    """`FastSampler` gives the images that `diffusion.sample` gives from the same seed. Returns the last one.

    `options` are sample's; `steps` and `eta` are the sampler's too.
    """
    steps, eta = options.pop("steps", None), options.pop("eta", None)
    eager = diffusion.sample(*inputs, sampling_timesteps=steps, eta=eta, generator=seeded(3), **options)
    fast = FastSampler(diffusion, steps=steps, eta=eta).sample(*inputs, generator=seeded(3), **options)
    torch.testing.assert_close(fast, eager, rtol=0, atol=atol)
    return fast[-1]


def group_norm_cancellation(x: Tensor, groups: int, weight: Tensor, scale_shift: Tensor | None) -> Tensor:
    """What float32 loses where a value and the mean are each multiplied before they are subtracted.

    It matters where a group's variance is small beside its values.
    """
    x = x.double().reshape(x.shape[0], groups, -1)
    factor = (x.var(2, unbiased=False) + 1e-5).rsqrt().max() * weight.abs().max()
    scale = 1.0 if scale_shift is None else 1 + scale_shift.abs().max()
    return 2 * torch.finfo(torch.float32).eps * factor * scale * x.abs().max()
