"""`rddm-fast restore --method`: the options of DDRM and DDNM, and the solver that they name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common.models import model_named

if TYPE_CHECKING:
    import torch

    from ...restoration.solve import Solver


def _option(*names: str, help: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Restore from a formula of the degradation")


Method = Annotated[str | None, _option(help="ddnm, ddrm, ddnm+ or ddnm+eq19: restore with a model of the noise alone.")]
OperatorName = Annotated[
    str | None, _option("--operator", help="The degradation, such as sr:4; rddm-fast operators lists them.")
]
SigmaY = Annotated[
    float | None,
    _option(
        help="The noise of the input, a standard deviation in the scale of pictures in 0 to 1, as in the published "
        "commands; the solver, in -1 to 1, doubles it; default: 0."
    ),
]
Prior = Annotated[
    str | None, _option(help="A model of the noise: built-in, a folder, or a published .pt; default: prior-photos.")
]
Eta = Annotated[float | None, _option(help="The share of new noise in a step, 0 to 1; default: 0.85.")]
EtaB = Annotated[
    float | None, _option(help="Of ddrm: the weight of the input where it is cleaner, 0 to 1; default: 1.")
]
Travel = Annotated[
    str | None, _option(help="Of ddnm: time travel L,R: back L steps, so that each is walked R times; default: 1,1.")
]
Official = Annotated[
    bool, _option("--official", help="As the published code does, its defects included and x_0 not clamped.")
]
Degrade = Annotated[
    bool, _option("--degrade", help="Take the images as clean: degrade, restore and measure them (PSNR, SSIM).")
]


def travel_of(text: str | None) -> tuple[int, int]:
    """Read --travel, two numbers such as 10,3."""
    if text is None:
        return 1, 1
    match = re.fullmatch(r"([1-9]\d{0,8}),([1-9]\d{0,8})", text)
    if match is None:
        raise ValueError(f"--travel is {text!r}: write two numbers from 1, how far back and how often, such as 10,3")
    return int(match[1]), int(match[2])


def solver_of(
    device: torch.device,
    published: dict[str, Any],
    *,
    method: str,
    operator: str,
    sigma_y: float | None,
    prior: str | None,
    eta: float | None,
    eta_b: float | None,
    travel: str | None,
    tile: int | None,
    **settings: Any,
) -> Solver:
    """Make the solver that the options name.

    Args:
        device: where to compute.
        published: the options of a published .pt.
        tile: 0 for none; None for the default of the operator.
        settings: what `Solver` takes as it is.
    """
    from ...restoration.solve import Solver, default_tile

    if eta_b is not None and method != "ddrm":
        raise ValueError(f"--eta-b is for --method ddrm: leave it out of {method}")
    if travel is not None and method == "ddrm":
        raise ValueError("--travel is for --method ddnm and its variants: leave it out of ddrm")
    if tile is None:
        tile = default_tile(operator)
    diffusion = model_named(prior or "prior-photos", **published).to(device)
    return Solver(
        diffusion,
        operator,
        method,
        sigma_y=0.0 if sigma_y is None else sigma_y,
        eta=0.85 if eta is None else eta,
        eta_b=1.0 if eta_b is None else eta_b,
        travel=travel_of(travel),
        tile=tile or None,
        **settings,
    )
