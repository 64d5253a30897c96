"""Calls of spectral_step_."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from oracle import DTYPES, F32, F64, LAYOUTS, Case
from torch import Tensor

from rddm_fast.ops import noise, spectral_step_

STEPS: dict[str, dict[str, Any]] = {
    "DDNM+": dict(a_t=0.3, a_s=0.6, sigma_y=0.4, eta=0.85),
    "DDRM": dict(a_t=0.3, a_s=0.6, sigma_y=0.4, eta=0.85, eta_b=0.7),
    "published DDRM": dict(a_t=0.3, a_s=0.6, sigma_y=0.4, eta=0.3, eta_b=0.7, strict=True),
    "without noise in y": dict(a_t=1e-4, a_s=0.01, sigma_y=0.0, eta=0.85),
    "last": dict(a_t=0.9, a_s=1.0, sigma_y=0.1, eta=0.85),
    "last, without noise in y": dict(a_t=0.9, a_s=1.0, sigma_y=0.0, eta=0.5),
    "nothing new": dict(a_t=0.3, a_s=0.6, sigma_y=0.4, eta=0.0),
    "nothing old": dict(a_t=0.3, a_s=0.6, sigma_y=0.4, eta=1.0),
}
SHAPES = {"interpreted": ((2, 231), (3, 1024)), "gpu": ((2, 105), (1, 12288), (3, 4096))}
ROWS = ("one", "number", "each", "numbers")
"""Of s: a row for all samples, one number for all, a row each, a number each."""


def singular_values(shape: Sequence[int], rows: str, generator: torch.Generator) -> Tensor:
    """A third of them 0, none so near to the thresholds of STEPS that rounding decides."""
    sizes = {"one": (1, shape[1]), "number": (1, 1), "each": tuple(shape), "numbers": (shape[0], 1)}
    s = torch.rand(sizes[rows], generator=generator, dtype=F64) + 0.02
    for step in STEPS.values():
        sigma = math.sqrt(1 - step["a_s"])
        threshold = math.sqrt(step["a_s"]) * step["sigma_y"] / sigma if sigma else 0.0
        s = torch.where((s - threshold).abs() < 1e-3, s + 0.01, s)
    return torch.where(torch.rand(s.shape, generator=generator) < 1 / 3, 0.0, s)


def arguments(
    shape: tuple[int, int],
    dtype: torch.dtype,
    rows: str = "one",
    y_rows: str = "each",
    seed: int = 0,
    layout: str = "contiguous",
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Tensors of one call; all but x, which is written, take the layout."""
    generator = torch.Generator().manual_seed(seed)
    lay = LAYOUTS[layout]

    def draw(rows: int) -> Tensor:
        return torch.randn(rows, shape[1], generator=generator).to(device, dtype)

    x, epsilon, z = draw(shape[0]), lay(draw(shape[0])), lay(draw(shape[0]))
    y_bar = lay(draw(1 if y_rows == "one" else shape[0]))
    s = lay(singular_values(shape, rows, generator).to(device, F64 if dtype == F64 else F32))
    return {"x": x, "epsilon": epsilon, "y_bar": y_bar, "s": s, "noise": z}


def by_the_papers(c: dict[str, Any]) -> list[Tensor]:
    """x_s and x_0 in float64: DDRM's three cases one after another, in its paper's scale, x / sqrt(a_s)."""
    x, epsilon, y, z = (c[name].double() for name in ("x", "epsilon", "y_bar", "noise"))
    s, sigma_y, eta, eta_b = c["s"].double().expand_as(x), c["sigma_y"], c["eta"], c.get("eta_b", 1.0)
    q, Sigma = math.sqrt(1 - eta**2), math.sqrt((1 - c["a_s"]) / c["a_s"])
    x_0 = (x - math.sqrt(1 - c["a_t"]) * epsilon) / math.sqrt(c["a_t"])
    y = torch.where(s > 0, y, 0.0).expand_as(x)

    x_bar = x_0 + q * Sigma * epsilon + eta * Sigma * z
    noisier = (s > 0) & (s * Sigma < sigma_y)
    if noisier.any():
        x_bar = torch.where(noisier, x_0 + q * Sigma * (y - x_0) * s / sigma_y + eta * Sigma * z, x_bar)
    cleaner = (s > 0) & (s * Sigma > sigma_y if c.get("strict") else s * Sigma >= sigma_y)
    variance = Sigma**2 - (eta_b * sigma_y / torch.where(cleaner, s, 1.0)) ** 2
    x_bar = torch.where(cleaner, (1 - eta_b) * x_0 + eta_b * y + variance.clamp(min=0).sqrt() * z, x_bar)
    return [math.sqrt(c["a_s"]) * x_bar, x_0]


def case(call: dict[str, Any], name: str = "", drawn: bool = False, cleaned: bool = True) -> Case:
    """A call, with its noise or with drawn noise, that also writes x_0 if `cleaned`."""
    wide, given = call, call
    if drawn:
        wide = {**call, "noise": noise(call["x"].shape, 11, 3, call["x"].device)}
        given = {**call, "noise": None, "seed": 11, "stream": 3}

    def run(impl: str | None) -> list[Tensor]:
        x = call["x"].clone()
        clean = torch.empty_like(x) if cleaned else None
        result = spectral_step_(**{**given, "x": x}, clean=clean, impl=impl)
        assert result is x
        return [x] if clean is None else [x, clean]

    return Case(name, run, lambda: by_the_papers(wide)[: 1 + cleaned], sums=drawn)


def few(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    """Three calls of every dtype with both noises, of each shape; the steps, rows and layouts in turn."""
    turns = zip(
        itertools.cycle(STEPS),
        itertools.cycle(ROWS),
        itertools.cycle(("each", "one", "each", "one", "one", "each")),
        itertools.cycle(("contiguous", "sliced", "transposed")),
        strict=False,
    )
    combinations = itertools.product(DTYPES, SHAPES[backend], (False, True), range(3))
    for (dtype, shape, drawn, _), (step, rows, y_rows, layout) in zip(combinations, turns, strict=False):
        call = {**arguments(shape, dtype, rows, y_rows, layout=layout, device=device), **STEPS[step]}
        yield case(call, f"{dtype} {shape} {drawn} {step} {rows} {y_rows} {layout}", drawn)
