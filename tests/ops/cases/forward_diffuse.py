"""Calls of forward_diffuse."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from oracle import DTYPES, LAYOUTS, Case
from torch import Tensor

from rddm_fast.ops import forward_diffuse, noise
from rddm_fast.theory.schedule import Schedule

BUFFERS = Schedule.triangular(1000, 0.01).buffers()
TABLES = BUFFERS["alphas_cumsum"], BUFFERS["betas_cumsum"]
SHAPES = {"interpreted": ((2, 3, 7, 11), (3, 2, 16, 32)), "gpu": ((2, 3, 5, 7), (1, 3, 64, 64))}


def arguments(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    I_0, I_in, epsilon = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    t = torch.randint(0, 1000, shape[:1], generator=generator)
    return {"I_0": I_0, "I_in": I_in, "t": t, "alpha_bar": TABLES[0], "beta_bar": TABLES[1], "noise": epsilon}


def by_equation_7(c: dict[str, Any]) -> Tensor:
    """I_0 + alpha_bar (I_in - I_0) + beta_bar epsilon, sample by sample, in float64."""
    per_sample = (-1, *(1,) * (c["I_0"].dim() - 1))
    a, b = (c[name].double()[c["t"]].reshape(per_sample) for name in ("alpha_bar", "beta_bar"))
    I_in = 0.0 if c["I_in"] is None else c["I_in"].double()
    return c["I_0"].double() + a * (I_in - c["I_0"].double()) + b * c["noise"].double()


def case(c: dict[str, Any], name: str = "", drawn: bool = False) -> Case:
    """A call, with its noise or with drawn noise."""
    wide = {**c, "noise": noise(c["I_0"].shape, 77, 0, c["I_0"].device)} if drawn else c
    given = {**c, "noise": None, "seed": 77} if drawn else c
    return Case(
        name, lambda impl: [forward_diffuse(**given, impl=impl)], lambda: [by_equation_7(wide)], c["I_0"], drawn
    )


def few(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    """Every dtype in three layouts, with both noises, of two shapes."""
    for dtype, layout, shape, drawn in itertools.product(
        DTYPES, ("contiguous", "channels_last", "sliced"), SHAPES[backend], (False, True)
    ):
        c = {name: x.to(device) for name, x in arguments(shape, dtype).items()}
        for name in ("I_0", "I_in", "noise"):
            c[name] = LAYOUTS[layout](c[name])
        yield case(c, f"{dtype} {layout} {shape} {drawn}", drawn)
