"""Calls of walsh_hadamard."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from oracle import ALL_DTYPES, LAYOUTS, Case
from torch import Tensor

from rddm_fast.ops import walsh_hadamard


def sylvester(size: int) -> Tensor:
    """H of that size in float64, not normalised: a Kronecker product of (1 1; 1 -1) with itself."""
    H, pair = torch.ones(1, 1, dtype=torch.float64), torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    while len(H) < size:
        H = torch.kron(pair, H)
    return H


def by_matrices(x: Tensor) -> Tensor:
    """H_H x H_W / sqrt(H W) in float64."""
    height, width = x.shape[-2:]
    H_H, H_W = sylvester(height).to(x.device), sylvester(width).to(x.device)
    return H_H @ x.double() @ H_W / (height * width) ** 0.5


def image(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str = "contiguous", seed: int = 0, device: str = "cpu"
) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return LAYOUTS[layout](x.to(device, dtype))


def case_of(x: Tensor, name: str = "") -> Case:
    return Case(name, lambda impl: [walsh_hadamard(x, impl=impl)], lambda: [by_matrices(x)], sums=True)


def few(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    """Images of less than a tile, of one, and of two and three passes."""
    shapes = {
        "interpreted": ((1, 1), (3, 2, 1), (2, 3, 4, 8), (5, 1, 64), (2, 2, 16, 16), (3, 64, 64)),
        "gpu": ((1, 1), (2, 3, 4, 8), (16, 3, 64, 64)),
    }[backend]
    larger = {"interpreted": ((64, 128), (2, 128, 128), (2, 128, 256)), "gpu": ((3, 256, 256), (1024, 2048))}[backend]
    layouts = itertools.cycle(LAYOUTS)
    for dtype, shape in itertools.product(ALL_DTYPES, (*shapes, *larger)):
        layout = next(layouts) if len(shape) == 4 else "sliced"
        yield case_of(image(shape, dtype, layout, device=str(device)), f"{dtype} {layout} {shape}")
