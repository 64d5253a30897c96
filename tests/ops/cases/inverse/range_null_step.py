"""Calls of range_null_step and of range_null_step_."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from oracle import LAYOUTS, PAIRS, Case
from torch import Tensor

from cases.reverse_step import DRAWN
from rddm_fast.ops import range_null_step, range_null_step_

NOT_A_GREY = (0.3333, 0.3334, 0.3333, 0.5, -0.2)
BLOCKS: dict[str, dict[str, Any]] = {
    "denoising": {},
    "inpainting": {"masked": True},
    "super-resolution": {"factor": 4},
    "colour": {"weighted": True},
    "old photograph": {"factor": 2, "weighted": True, "masked": True},
    "masked mean": {"factor": 3, "masked": True},
    "grey mean": {"factor": 3, "weighted": True},
}
"""Each kind of P; with `masked` and `weighted` a mask and weights are made for the image."""

AT = {"root_a_t": 0.6, "sigma_t": 0.8}
STEPS: dict[str, dict[str, float]] = {
    "DDNM": dict(n_0=0.9, n_e=0.2, n_z=0.3, r_0=0.0, r_e=0.2, r_z=0.3, k_y=0.9),
    "y noisier": dict(n_0=0.9, n_e=0.2, n_z=0.3, r_0=0.6, r_e=0.0, r_z=0.3, k_y=0.3),
    "y cleaner": dict(n_0=0.9, n_e=0.2, n_z=0.3, r_0=0.0, r_e=0.0, r_z=0.25, k_y=0.9),
    "DDRM": dict(n_0=0.9, n_e=0.2, n_z=0.3, r_0=0.4, r_e=0.0, r_z=0.35, k_y=0.5),
    "last": dict(n_0=1.0, n_e=0.0, n_z=0.0, r_0=0.0, r_e=0.0, r_z=0.0, k_y=1.0),
    "noise alone": dict(n_0=0.0, n_e=0.0, n_z=1.0, r_0=0.0, r_e=0.0, r_z=1.0, k_y=0.0),
}
SIDES = {"interpreted": [(2, 2, 12, 12)], "gpu": [(2, 3, 12, 36), (1, 3, 48, 48)]}


def blocks_of(kind: str, shape: Sequence[int], device: torch.device | str = "cpu", seed: int = 0) -> dict[str, Any]:
    """factor, weights and mask of an image; the masks differ from image to image, and leave whole blocks out."""
    made = BLOCKS[kind]
    b, c, h, w = shape
    blocks: dict[str, Any] = {"factor": made.get("factor", 1)}
    if made.get("weighted"):
        blocks["weights"] = NOT_A_GREY[:c]
    if made.get("masked"):
        mask = torch.rand(b, h, w, generator=torch.Generator().manual_seed(seed)) < 0.6
        mask[:, : blocks["factor"], : 2 * blocks["factor"]] = False
        blocks["mask"] = mask.to(device)
    return blocks


def arguments(
    kind: str,
    image: torch.dtype,
    output: torch.dtype,
    shape: Sequence[int],
    layouts: Sequence[str] = ("contiguous",),
    seed: int = 0,
    device: torch.device | str = "cpu",
    **step: float,
) -> dict[str, Any]:
    """Tensors, blocks and coefficients of one call; the tensors take the layouts in turn."""
    generator = torch.Generator().manual_seed(seed)
    lay = itertools.cycle(LAYOUTS[name] for name in layouts)
    dtypes = {"x_t": image, "epsilon": output, "pinv_y": image, "noise": image}
    call: dict[str, Any] = {
        name: next(lay)(torch.randn(shape, generator=generator).to(device, dtype)) for name, dtype in dtypes.items()
    }
    return {**call, **blocks_of(kind, shape, device, seed), **AT, **(step or STEPS["DDNM"])}


def in_float64(call: dict[str, Any]) -> dict[str, Any]:
    return {k: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for k, x in call.items()}


def case(call: dict[str, Any], name: str = "", drawn: bool = False) -> Case:
    """A call, with its noise or with drawn noise."""
    wide = in_float64(call)
    if drawn:
        wide["noise"] = DRAWN(call["x_t"].shape, 7, 2, call["x_t"].device).double()
        call = {**call, "noise": None, "seed": 7, "stream": 2}
    return Case(
        name,
        lambda impl: [range_null_step(**call, impl=impl)],
        lambda: [range_null_step(**wide, impl="reference")],
        like=call["x_t"],
        sums=True,
    )


def in_place(call: dict[str, Any], name: str = "", drawn: bool = False) -> Case:
    """The same call in place, its seed in a tensor."""
    functional = case(call, name, drawn)
    if drawn:
        seed = torch.tensor([7], device=call["x_t"].device)
        call = {**call, "noise": None, "seed": seed, "stream": 2}

    def run(impl: str | None) -> list[Tensor]:
        state = call["x_t"].clone(memory_format=torch.preserve_format)
        result = range_null_step_(**{**call, "x_t": state}, impl=impl)
        assert result is state
        return [state]

    return Case(name, run, functional.exact, sums=True)


def few(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    """Every kind of P with every pair of dtypes; the noises, layouts, shapes and steps in turn."""
    for call, name, drawn in _few(backend, device, ("contiguous", "channels_last", "sliced", "unaligned")):
        yield case(call, name, drawn)


def few_in_place(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    """The same in place."""
    for call, name, drawn in _few(backend, device, ("contiguous", "channels_last")):
        yield in_place(call, name, drawn)


def _few(
    backend: str, device: torch.device | str, layouts: Sequence[str]
) -> Iterator[tuple[dict[str, Any], str, bool]]:
    turns = itertools.cycle(layouts), itertools.cycle(SIDES[backend]), itertools.cycle(list(STEPS)[:-1])
    noises = [(False,), (True,)] if backend == "interpreted" else [(False, True)]  # in turn, or both
    combinations = zip(itertools.product(PAIRS, BLOCKS), itertools.cycle(noises), strict=False)
    each = ((pair, kind, drawn) for (pair, kind), both in combinations for drawn in both)
    for (pair, kind, drawn), layout, shape, step in zip(each, *turns, strict=False):
        call = arguments(kind, *pair, shape, [layout, "contiguous"], device=device, **STEPS[step])
        yield call, f"{kind} {pair} {shape} {layout} {step} {drawn}", drawn


def with_nan_and_infinity(kind: str) -> Iterator[dict[str, Any]]:
    """NaN or infinity in one pixel of one tensor, kept and missing ones, for each step."""
    names = ("x_t", "epsilon", "pinv_y", "noise")
    for name, step, bad in itertools.product(names, STEPS.values(), (float("nan"), float("inf"))):
        call = arguments(kind, torch.float32, torch.float32, (1, 3, 12, 24), **step)
        for y, x in ((0, 0), (5, 9), (11, 23)):
            call[name][0, 1, y, x] = bad
        yield call


def noise_alone(like: Tensor, seed: int, stream: int, kind: str, impl: str | None = None) -> Tensor:
    """The op's noise: a step in which no other term is left, and P makes no difference."""
    zero = torch.zeros_like(like)
    call = {**blocks_of(kind, like.shape), **AT, **STEPS["noise alone"]}
    return range_null_step(zero, zero, **call, seed=seed, stream=stream, impl=impl)
