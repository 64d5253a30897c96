"""Priors with known answers: those of the recorded cases, and white noise. And what a prior was asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rddm_fast.theory.schedule import Schedule

DDPM = Schedule.from_ddim()
Predict = Callable[[Tensor, int], Tensor]


def recorded_prior(case: dict[str, Any], tensors: dict[str, Tensor]) -> Predict:
    """The network of a recorded ddrm or ddnm case, as the README of the golden data defines it."""
    if case["net"] == "conv":
        weights = {name.removeprefix("net."): tensor for name, tensor in tensors.items() if name.startswith("net.")}

        def layer(name: str, x: Tensor) -> Tensor:
            return F.conv2d(x, weights[f"{name}.weight"].to(x), weights[f"{name}.bias"].to(x), padding=1)

        def conv(x: Tensor, t: int) -> Tensor:
            a = case["alphas_cumprod"][str(t)]
            time = F.linear(torch.tensor([t / 1000]).to(x), weights["time.weight"].to(x), weights["time.bias"].to(x))
            v = layer("conv3", F.silu(layer("conv2", F.silu(layer("conv1", x) + time[:, None, None]))))
            return (1 - a) ** 0.5 * x + a**0.5 * v

        return conv

    assert case["net"] == "gaussian", case["net"]
    values, vectors = torch.linalg.eigh(tensors["prior_K"].double())
    variance, mean = case["prior_var"] * torch.outer(values, values), tensors["prior_mean"].double()

    def gaussian(x: Tensor, t: int) -> Tensor:
        a = case["alphas_cumprod"][str(t)]
        rotated = vectors.T @ (x.double() - a**0.5 * mean) @ vectors
        return ((1 - a) ** 0.5 * vectors @ (rotated / (a * variance + 1 - a)) @ vectors.T).to(x.dtype)

    return gaussian


def white_prior(x: Tensor, t: int) -> Tensor:
    """The exact E[epsilon | x_t] for x_0 ~ N(0, 0.25 I)."""
    a = (1 - DDPM.alpha_bar_at(t)) ** 2
    return (1 - a) ** 0.5 / (0.25 * a + 1 - a) * x


class Asked:
    """A prior that remembers its inputs and its last answer."""

    answer: Tensor

    def __init__(self, predict: Predict) -> None:
        self.predict = predict
        self.inputs: list[Tensor] = []
        self.times: list[int] = []

    def __call__(self, x: Tensor, t: int) -> Tensor:
        self.inputs.append(x)
        self.times.append(t)
        self.answer = self.predict(x, t)
        return self.answer


def images_of(solver: Callable[..., Tensor], *arguments: Any, **options: Any) -> list[Tensor]:
    """The image after every step of a solver."""
    images: list[Tensor] = []
    result = solver(*arguments, **options, on_step=lambda i, step, x: images.append(x))
    assert torch.equal(images[-1], result)
    return images


def largest_difference(found: list[Tensor], recorded: list[Tensor]) -> float:
    """max |a - b| / max(1, max |b|) over all images, the golden data's measure."""
    assert [x.shape for x in found] == [x.shape for x in recorded]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in zip(found, recorded, strict=True))
