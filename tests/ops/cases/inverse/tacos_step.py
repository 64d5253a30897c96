"""Calls of tacos_step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from oracle import DTYPES, F32, F64, LAYOUTS, Case
from torch import Tensor

from rddm_fast.ops import tacos_step

FORMS: dict[str, dict[str, Any]] = {
    "fade to mid-grey": dict(kind="mix", numbers=(-1.0, 1.0), layers=("s", "to")),
    "fade to a colour": dict(kind="mix", numbers=(-1.0, 1.0), layers=("s", "to"), x_end="colour"),
    "fade to one number": dict(kind="mix", numbers=(-1.0, 1.0), layers=("s", "to"), x_end="number"),
    "animorphosis": dict(kind="mix", numbers=(0.1, -0.3), x_end="image"),
    "one animal for all": dict(kind="mix", numbers=(0.1, -0.3), x_end="plane"),
    "far end by rows": dict(kind="mix", numbers=(0.1, -0.3), x_end="rows"),
    "decolour": dict(kind="grey", numbers=(-0.2, 0.2)),
    "decolour by pixel": dict(kind="grey", numbers=(-1.0, 1.0), layers=("s", "to")),
    "snow": dict(kind="snow", numbers=(1.0, 1.0), layers=("s", "to")),
    "bright snow": dict(kind="snow", numbers=(0.55, 0.7), layers=("s", "to")),
    "the last snow": dict(kind="snow", numbers=(0.95, 1.0), layers=("s",)),
    "the first snow": dict(kind="snow", numbers=(1.0, 0.95), layers=("to",)),
}
SHAPES = {"interpreted": ((2, 3, 7, 11), (1, 2, 32, 32)), "gpu": ((2, 3, 5, 7), (2, 3, 64, 64))}


def arguments(
    shape: Sequence[int],
    dtype: torch.dtype,
    form: str,
    layout: str = "contiguous",
    other_layout: str = "contiguous",
    layers: str = "each",
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """One call: images from -1.2 to 1.2, and layers for each sample or one for all."""
    generator = torch.Generator().manual_seed(seed)
    batch, channels, height, width = shape

    def draw(*size: int) -> Tensor:
        return torch.rand(size, generator=generator)

    call: dict[str, Any] = {"kind": FORMS[form]["kind"], "numbers": FORMS[form]["numbers"]}
    for name, lay in (("x_s", LAYOUTS[layout]), ("x_0", LAYOUTS[other_layout])):
        call[name] = lay((2.4 * draw(*shape) - 1.2).to(device, dtype))
    ends = {
        "image": shape,
        "plane": (1, 1, height, width),
        "colour": (1, channels, 1, 1),
        "number": (batch, 1, 1, 1),
        "rows": (1, channels, height, 1),
    }
    if "x_end" in FORMS[form]:
        call["x_end"] = LAYOUTS[other_layout](draw(*ends[FORMS[form]["x_end"]]).to(device, dtype))
    for name in FORMS[form].get("layers", ()):
        rows = batch if layers == "each" else 1
        layer = 0.6 * draw(rows, 1, height, width)
        call[f"layer_{name}"] = LAYOUTS[other_layout](layer.to(device, F64 if dtype == F64 else F32))
    return call


def by_the_paper(c: dict[str, Any]) -> Tensor:
    """x_s - D(x_0, s) + D(x_0, to) in float64; the two forms with differences as weights from any D(x_0, s)."""
    x, clean = c["x_s"].double(), c["x_0"].double()
    before, after = (c[name].double() if name in c else None for name in ("layer_s", "layer_to"))
    first, second = c["numbers"]
    if c["kind"] == "snow":
        rgb = torch.tensor([0.299, 0.587, 0.114]).double() if x.shape[1] == 3 else torch.ones(x.shape[1]).double()
        weights = (rgb / rgb.sum()).to(x.device)

        def D(brightness: float, layer: Tensor | None) -> Tensor:
            if layer is None:
                return clean
            u = (clean + 1) / 2
            grey = torch.einsum("bchw,c->bhw", u, weights)[:, None]
            winter = torch.maximum(u, 1.5 * grey + 0.5)
            return 2 * (brightness * u + (1 - brightness) * winter + layer).clamp(0, 1) - 1

        return x - D(first, before) + D(second, after)
    far = (
        clean.sum(1, keepdim=True) / clean.shape[1] if c["kind"] == "grey" else c.get("x_end", torch.zeros(1)).double()
    )
    weight = 1.0 if before is None or after is None else after - before
    return x + weight * (first * clean + second * far.to(x.device))


def case(call: dict[str, Any], name: str = "") -> Case:
    return Case(name, lambda impl: [tacos_step(**call, impl=impl)], lambda: [by_the_paper(call)], call["x_s"], True)


def few(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    """Every form with every dtype and shape, the layouts and kinds of layers in turn."""
    turns = zip(
        itertools.cycle(("contiguous", "channels_last", "contiguous", "sliced", "unaligned")),
        itertools.cycle(("contiguous", "contiguous", "channels_last", "sliced")),
        itertools.cycle(("each", "one")),
        strict=False,
    )
    combinations = itertools.product(FORMS, DTYPES, SHAPES[backend])
    for (form, dtype, shape), (layout, other, layers) in zip(combinations, turns, strict=False):
        call = arguments(shape, dtype, form, layout, other, layers, device=device)
        yield case(call, f"{form} {dtype} {shape} {layout} {other} {layers}")
