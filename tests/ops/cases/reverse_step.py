"""Calls of reverse_step and of reverse_step_."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from oracle import LAYOUTS, PAIRS, Case
from torch import Tensor

from rddm_fast.ops import StepTable, noise, reverse_step, reverse_step_
from rddm_fast.theory.objective import Objective

STEPS: dict[str, dict[str, float]] = {
    "generalised": dict(k_t=1.0, k_res=-0.1, k_noise=-0.3, k_0=0.0, sigma=0.2),
    "deterministic": dict(k_t=1.0, k_res=-0.1, k_noise=-0.3, k_0=0.0, sigma=0.0),
    "last": dict(k_t=0.0, k_res=0.0, k_noise=0.0, k_0=1.0, sigma=0.0),
    "last in [0, 1]": dict(k_t=0.0, k_res=0.0, k_noise=0.0, k_0=0.5, sigma=0.0, offset=0.5),
    "ancestral": dict(k_t=0.7, k_res=0.2, k_noise=0.0, k_0=0.3, sigma=0.1),
    "DiffUIR": dict(k_t=1.0, k_res=-0.1, k_noise=0.0, k_0=0.0, k_in=0.05, sigma=0.0),
    "all terms": dict(k_t=1.0, k_res=-0.1, k_noise=-0.2, k_0=0.1, k_in=-0.3, sigma=0.2),
}
SHAPES = {"interpreted": [(2, 3, 7, 11)], "gpu": [(2, 3, 5, 7), (1, 3, 64, 64)]}
DRAWN = functools.cache(noise)  # The reference's noise costs as much as a step.
NONE_LEFT = dict(k_t=0.0, k_res=0.0, k_noise=0.0, k_0=0.0, sigma=0.0)


def arguments(
    objective: Objective,
    image: torch.dtype,
    output: torch.dtype,
    shape: Sequence[int],
    layouts: Sequence[str] = ("contiguous",),
    seed: int = 0,
    device: torch.device | str = "cpu",
    **step: float,
) -> dict[str, Any]:
    """Tensors and coefficients of one call; the tensors take the layouts in turn."""
    generator = torch.Generator().manual_seed(seed)
    lay = itertools.cycle(LAYOUTS[name] for name in layouts)
    dtypes = {"I_t": image, "out0": output, "out1": output, "I_in": image, "noise": image}
    call: dict[str, Any] = {
        name: next(lay)(torch.randn(shape, generator=generator).to(device, dtype)) for name, dtype in dtypes.items()
    }
    if objective.outputs == 1:
        call["out1"] = None
    return {**call, "objective": objective, "alpha_bar": 0.6, "beta_bar": 0.3, **(step or STEPS["generalised"])}


def in_float64(call: dict[str, Any]) -> dict[str, Any]:
    return {name: x.double() if isinstance(x, Tensor) else x for name, x in call.items()}


def case(call: dict[str, Any], name: str = "", drawn: bool = False) -> Case:
    """A call, with its noise or with drawn noise."""
    wide = in_float64(call)
    if drawn:
        wide["noise"] = DRAWN(call["I_t"].shape, 7, 2, call["I_t"].device).double()
        call = {**call, "noise": None, "seed": 7, "stream": 2}
    return Case(
        name,
        lambda impl: [reverse_step(**call, impl=impl)],
        lambda: [reverse_step(**wide, impl="reference")],
        sums=drawn,
    )


def few(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    """Every objective with every pair of dtypes, the shapes in turn; each layout with one step or both noises."""
    forms = {
        "interpreted": [
            ("generalised", ["contiguous"], False),
            ("last", ["channels_last"], False),
            ("ancestral", ["sliced"], False),
            ("DiffUIR", ["contiguous"], False),
        ],
        "gpu": [
            ("all terms", [layout, "contiguous", "contiguous", layout, layout], drawn)
            for layout, drawn in itertools.product(("contiguous", "channels_last"), (False, True))
        ],
    }
    for step, layouts, drawn in forms[backend]:
        combinations = itertools.product(PAIRS, Objective)
        for (pair, objective), shape in zip(combinations, itertools.cycle(SHAPES[backend]), strict=False):
            call = arguments(objective, *pair, shape, layouts, device=device, **STEPS[step])
            yield case(call, f"{objective.name} {pair} {shape} {step} {layouts} {drawn}", drawn)


def recorded_diffuir(impl: str | None) -> float:
    """The greatest difference of a step from the image that DiffUIR's own code recorded, over all recorded cases.

    Each step starts from the recorded image before it, so that one wrong step is not hidden by the next.
    """
    # Only here: the GPU's machine runs the other cases without the packages that these need.
    from golden import golden_cases

    from rddm_fast.compat import diffuir

    worst = 0.0
    for parameter in golden_cases("diffuir", "experiments"):
        (golden,) = parameter.values
        network = diffuir.UnetRes(**golden.case["unet"])
        network.load_state_dict({name: x.float() for name, x in golden.weights.items()})
        model = diffuir.ResidualDiffusion(network, **golden.case["diffusion"])
        I_in, recorded = golden.tensors["x_input"] * 2 - 1, [image * 2 - 1 for image in golden.numbered("image")]
        for step, I_t, following in zip(model.steps(), recorded[:-1], recorded[1:], strict=True):
            with torch.no_grad():
                (out0,) = model.outputs(I_t, torch.tensor([step.t]), I_in)
            ours = reverse_step(I_t, out0, objective=model.objective, **step.numbers, I_in=I_in, impl=impl)
            worst = max(worst, float((ours - following).abs().max()))
    return worst


TABLE = [STEPS["generalised"], STEPS["last"], STEPS["ancestral"], {**STEPS["all terms"], "k_0": 0.5}]


def few_in_place(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    """Every pair of dtypes in both layouts: with four steps, both noises and two sizes, or with every objective."""
    layouts = ("contiguous", "channels_last")
    if backend == "interpreted":
        objectives = (Objective.pred_res_noise, Objective.pred_noise, Objective.pred_x0_noise, Objective.pred_res)
        for pair, layout, drawn, side in itertools.product(PAIRS, layouts, (False, True), (7, 32)):
            for number, objective in enumerate(objectives):
                yield _in_place(objective, pair, (2, 4, side, side), layout, number, drawn, device)
    else:
        combinations = itertools.product(layouts, PAIRS, Objective)
        for (layout, pair, objective), shape in zip(combinations, itertools.cycle(SHAPES[backend]), strict=False):
            yield _in_place(objective, pair, shape, layout, 3, True, device)


def _in_place(
    objective: Objective,
    pair: tuple[torch.dtype, torch.dtype],
    shape: tuple[int, ...],
    layout: str,
    number: int,
    drawn: bool,
    device: torch.device | str,
) -> Case:
    """Step `number` of TABLE, with everything that it can write: the image, the next input and the clean image."""
    call = arguments(objective, *pair, shape, [layout, "contiguous", "contiguous", layout, layout], device=device)
    images = {name: call[name] for name in ("I_t", "out0", "out1", "I_in", "objective")}
    table = StepTable.of([{"alpha_bar": 0.6, "beta_bar": 0.3, **step} for step in TABLE], device=device)
    index, seed = torch.tensor([number], device=device), torch.tensor([9], device=device)
    given = {"seed": seed, "stream": 5} if drawn else {"noise": call["noise"]}
    b, c, h, w = shape

    def run(impl: str | None) -> list[Tensor]:
        buffer = LAYOUTS[layout](torch.full((b, 2 * c, h, w), 5.0, dtype=pair[1], device=device))
        state, clean = images["I_t"].clone(), torch.empty_like(images["out0"])
        written = {"next_input": buffer[:, :c], "clean": clean}
        result = reverse_step_(**{**images, "I_t": state}, **given, **written, table=table, step=index, impl=impl)
        assert result is state and (buffer[:, c:] == 5).all()
        return [state, buffer[:, :c], clean]

    def exact() -> list[Tensor]:
        drawn_here = DRAWN(shape, 9, 5 + number, device) if drawn else call["noise"]
        wide = in_float64({**call, "noise": drawn_here, **TABLE[number]})
        after = reverse_step(**wide, impl="reference")
        return [after, after, reverse_step(**{**wide, **NONE_LEFT, "k_0": 1.0}, impl="reference")]

    return Case(f"{objective.name} {pair} {shape} {layout} {number} {drawn}", run, exact)


def with_nan_and_infinity(objective: Objective) -> Iterator[dict[str, Any]]:
    """NaN and infinity in every tensor, for each step, with and without an end at beta_bar = 0 and with no clamps."""
    x = torch.tensor([0.5, math.nan, math.inf, -math.inf]).repeat(9)
    tensors = dict(I_t=x, out0=x.roll(1), out1=x.roll(2), I_in=x.roll(3), noise=x.roll(5))
    if objective.outputs == 1:
        tensors["out1"] = None
    for step, beta_bar, limit in itertools.product(STEPS.values(), (0.3, 0.0), (1.0, math.inf)):
        numbers = dict(alpha_bar=0.6, beta_bar=beta_bar, clip_res=limit, clip_0=limit)
        yield {**tensors, "objective": objective, **numbers, **step}


# Shapes of channels-last images whose noise GPUs draw by fours of pixels, but for the first two: images that end within
# a program's or block's elements, many that lie within them, and more channels than these have.
BY_FOURS = ((2, 3, 5, 7), (1, 200, 5, 5), (1, 3, 32, 33), (3, 3, 40, 8), (2, 5, 4, 6), (70, 3, 2, 2), (1, 200, 4, 4))


def noise_alone(like: Tensor, seed: int, stream: int, impl: str | None = None) -> Tensor:
    """An op's noise: a reverse step in which no other term is left."""
    zero = torch.zeros_like(like)
    call = dict(objective=Objective.pred_res_noise, alpha_bar=0.5, beta_bar=0.5, **{**NONE_LEFT, "sigma": 1.0})
    return reverse_step(zero, zero, zero, seed=seed, stream=stream, impl=impl, **call)
