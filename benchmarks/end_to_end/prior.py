"""A whole DDNM run: the prior's network as it is, by torch.compile, and folded.

    rddm-fast bench prior [--model prior-photos | --dim 64] [--size 64] [--steps 100] [--compile] [--json FILE]

Super-resolution by 4 with a model, or with random weights where --dim gives the network's width. Every provider starts
from the same draws, and is checked against the unfolded network before it is timed: in float32 to 1e-4, in bfloat16 by
its PSNR, both of the image scaled to [-1, 1], because the values of random weights' images are far outside. The row
"no network" is the arithmetic alone.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rddm_fast.compat import UnetRes
from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.fast import FastPrior, FastSolver
from rddm_fast.inverse import operators, predictor, restore
from rddm_fast.models.folder import load_model
from rddm_fast.system.files import write_text_whole
from rddm_fast.theory.schedule import Schedule

from ..timing import conditions, side_by_side
from .sampler import TOLERANCE, is_right, matrix_rate


def random_model(dim: int) -> ResidualDiffusion:
    """A model of the noise with random weights."""
    torch.manual_seed(0)
    unets = UnetRes(dim, share_encoder=-1, condition=False)
    return ResidualDiffusion(unets, Schedule.from_ddim(), objective="pred_noise").eval()


@torch.no_grad()
def measure(
    diffusion: ResidualDiffusion,
    size: int = 64,
    batch: int = 1,
    steps: int = 100,
    *,
    compiled: bool = False,
    repeats: int = 5,
    device: str = "cpu",
) -> dict[str, Any]:
    """Check all providers against the unfolded network, then time them.

    Raises AssertionError if the images differ by more than the tolerance.
    """
    diffusion = diffusion.to(device)
    operator = operators.named("sr:4", (3, size, size))
    y = operator.A(2 * torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(2)) - 1).to(device)
    generator = torch.Generator().manual_seed(1)
    noise = [torch.randn(batch, 3, size, size, generator=generator).to(device) for _ in range(steps + 1)]

    def of(prior: Callable[[Tensor, int], Tensor]) -> Callable[[], Tensor]:
        return lambda: restore(y, operator, prior, steps=steps, schedule=diffusion.schedule, noise=noise)

    priors: dict[str, Callable[[Tensor, int], Tensor]] = {"eager": predictor(diffusion)}
    if compiled:
        network = torch.compile(diffusion.model, dynamic=False)
        priors["torch.compile"] = lambda x, t: network(x, torch.full((len(x),), t, device=device))[0]
    for dtype in (torch.float32, torch.bfloat16):
        name = "folded" + ", bfloat16" * (dtype == torch.bfloat16)
        priors[name] = FastPrior(diffusion, dtype=dtype, compile=False)
        if compiled:
            priors[f"{name}, compiled"] = FastPrior(diffusion, dtype=dtype, compile=True)
    calls = {name: of(prior) for name, prior in priors.items()}
    if device == "cuda":
        for name, prior in list(priors.items()):
            if isinstance(prior, FastPrior):
                solver = FastSolver(prior, operator, steps=steps)
                calls[f"{name}, graph"] = partial(solver, y, noise=noise)

    with FlopCounterMode(display=False) as counter:
        expected = calls["eager"]()
    differences = {}
    for name, call in calls.items():
        difference = (call() - expected).abs() / expected.abs().max()
        differences[name] = float(difference.max())
        square = float((difference / 2).square().mean())  # of images in [0, 1]
        psnr = -10 * math.log10(square) if square else math.inf
        computed = "bfloat16" if "bfloat16" in name else "float32"
        right = is_right(differences[name], psnr, computed, device, TOLERANCE)
        assert right, f"{name} differs by up to {differences[name]:.1e} ({psnr:.1f} dB)"
    times = side_by_side({**calls, "no network": of(lambda x, t: torch.zeros_like(x))}, device, repeats)
    return {
        **conditions(device),
        "parameters": sum(p.numel() for p in diffusion.parameters()),
        "shape": [batch, 3, size, size],
        "steps": steps,
        "difference": differences,
        "ms": {name: vars(timing) for name, timing in times.items()},
        "tflop_per_s": {name: counter.get_total_flops() / times[name].p50 / 1e9 for name in calls},
        "conv_tflop_per_s": matrix_rate(device, torch.float32, 9),
        "speedup": {name: times["eager"].p50 / times[name].p50 for name in calls},
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="prior-photos", help="a built-in prior or a model folder")
    parser.add_argument("--dim", type=int, help="random weights of this width instead")
    parser.add_argument("--size", type=int, default=64, help="side of the image in pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--compile", action="store_true", help="also torch.compile's; it takes minutes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args(argv)
    diffusion = load_model(options.model) if options.dim is None else random_model(options.dim)
    name = options.model if options.dim is None else f"dim {options.dim}"
    result = measure(
        *(diffusion, options.size, options.batch, options.steps),
        compiled=options.compile,
        repeats=options.repeats,
        device=options.device,
    )
    print(
        f"DDNM, {options.steps} steps, {name}, {'x'.join(map(str, result['shape']))}, "
        f"{result['threads']} threads; one large float32 convolution: {result['conv_tflop_per_s']:.3f} TFLOP/s"
    )
    for provider, ms in result["ms"].items():
        line = f"{provider:26} {ms['p50']:9.1f} ms  ({ms['p20']:.1f} to {ms['p80']:.1f})"
        if provider in result["speedup"]:
            line += f"  {result['tflop_per_s'][provider]:.3f} TFLOP/s  {result['speedup'][provider]:.2f} times eager"
        print(line)
    if options.json is not None:
        write_text_whole(options.json, json.dumps(result, indent=2) + "\n")
