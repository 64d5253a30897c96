"""One evaluation of the published networks: the eager reference against the folded network.

    rddm-fast bench network [--networks two] [--size 64] [--json FILE]

The eager reference does what the published code does at every call. The printed rates are of the convolutions'
and matrix products' arithmetic; the rate of one large convolution, measured in the same run, is what the machine
can do.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from rddm_fast.compat import ResidualDiffusion, UnetRes
from rddm_fast.fast import FastSampler
from rddm_fast.system.files import write_text_whole

from ..timing import conditions, side_by_side

TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2}
"""Greatest difference of an output. By default a GPU's convolutions have TF32's 11 bits."""
NETWORKS = {"two": 0, "shared": 1, "one": -1}


@torch.no_grad()
def measure(
    networks: str = "two", size: int = 64, batch: int = 1, dim: int = 64, repeats: int = 15, device: str = "cpu"
) -> dict[str, Any]:
    """Check that both give the same outputs, then time them; float32, random weights.

    Raises AssertionError if the outputs differ by more than TOLERANCE.
    """
    torch.manual_seed(0)
    eager = UnetRes(dim, share_encoder=NETWORKS[networks], condition=True)
    objective = "pred_res" if networks == "one" else "pred_res_noise"
    diffusion = ResidualDiffusion(
        eager, image_size=size, condition=True, sampling_timesteps=5, objective=objective
    ).eval()
    diffusion.to(device)
    sampler = FastSampler(diffusion, dtype=torch.float32, tune=False)
    x = torch.randn(batch, 6, size, size).to(device)
    number = 1
    time = torch.full((batch,), sampler.steps[number].t, device=device)
    with FlopCounterMode(display=False) as counter:
        expected = eager(x, time)
    difference = max(
        float((a - b).abs().max())
        for a, b in zip(expected, sampler.networks(x, number), strict=True)  # type: ignore[arg-type]
    )
    assert difference <= TOLERANCE[device], f"the folded network differs by {difference:.1e}"

    large = torch.nn.Conv2d(256, 256, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    large.to(device)
    image = torch.randn(1, 256, 64, 64, device=device).to(memory_format=torch.channels_last)
    calls: dict[str, Callable[[], object]] = {
        "eager": lambda: eager(x, time),
        "folded": lambda: sampler.networks(x, number),  # type: ignore[arg-type]
        "one convolution": lambda: large(image),
    }
    times = side_by_side(calls, device, repeats)
    flop = {
        "eager": counter.get_total_flops(),
        "folded": counter.get_total_flops(),
        "one convolution": 2 * 9 * 256**2 * 64**2,
    }
    return {
        **conditions(device),
        "networks": networks,
        "shape": list(x.shape),
        "dim": dim,
        "difference": difference,
        "ms": {name: vars(timing) for name, timing in times.items()},
        "gflop_per_s": {name: flop[name] / times[name].p50 / 1e6 for name in calls},
        "speedup": times["eager"].p50 / times["folded"].p50,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", choices=NETWORKS, default="two")
    parser.add_argument("--size", type=int, default=64, help="side of the image in pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args(argv)
    result = measure(options.networks, options.size, options.batch, options.dim, options.repeats, options.device)
    print(
        f"{options.networks} network(s), dim {options.dim}, {'x'.join(map(str, result['shape']))}, float32, "
        f"{result['threads']} threads; outputs differ by {result['difference']:.1e}"
    )
    for name, ms in result["ms"].items():
        print(
            f"{name:15} {ms['p50']:9.2f} ms  ({ms['p20']:.2f} to {ms['p80']:.2f})  "
            f"{result['gflop_per_s'][name]:7.1f} GFLOP/s"
        )
    print(f"folded is {result['speedup']:.2f} times as fast as eager")
    if options.json is not None:
        write_text_whole(options.json, json.dumps(result, indent=2) + "\n")
