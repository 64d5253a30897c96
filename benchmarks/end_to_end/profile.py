"""Where a restored image's time goes, by kernel: rddm-fast bench profile [--size 256] [--device cpu].

The published two-network model with random weights, through FastSampler as it is by default on the device.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence

import torch
from torch.profiler import ProfilerActivity, profile

from rddm_fast.fast import FastSampler

from ..timing import device_kernels, side_by_side
from .network import NETWORKS
from .sampler import model


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", choices=NETWORKS, default="two")
    parser.add_argument("--size", type=int, default=256, help="side of the image in pixels")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rows", type=int, default=25, help="kernels to list")
    parser.add_argument("--compile", action="store_true", help="torch.compile the networks")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    parallel = None if options.device == "cuda" else False  # on a CPU the profiler sees one thread
    diffusion = model(options.networks, options.steps, options.device)
    sampler = FastSampler(diffusion, parallel=parallel, compile=options.compile, tune=False)
    x = torch.rand(1, 3, options.size, options.size, device=options.device)
    print(f"first image: {sampler.warmup(x.shape):.1f} s\n{sampler.explain(x.shape)}\n")
    wall = side_by_side({"image": lambda: sampler(x)}, options.device, 9)["image"].p50
    if options.device == "cuda":
        print("\n".join(kernels(lambda: sampler(x), options.rows, wall)))
        return
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        sampler(x)
    print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=options.rows))
    print(f"without the profiler: {wall:.1f} ms")


def kernels(run: Callable[[], object], rows: int, wall: float) -> list[str]:
    """Return a line for each of the kernels that take the most time of `run`, which takes `wall` ms by itself."""
    taken: dict[str, list[float]] = {}
    for name, microseconds in device_kernels(run):
        taken.setdefault(name, []).append(microseconds)
    total, calls = sum(map(sum, taken.values())), sum(map(len, taken.values()))
    lines = [f"{'calls':>6} {'µs':>9} {'µs/call':>8} {'share':>6}  kernel"]
    for name, times in sorted(taken.items(), key=lambda item: -sum(item[1]))[:rows]:
        short = re.sub(r"^void |at::native::|cutlass__5x_cudnn::|<unnamed>::|\(anonymous namespace\)::", "", name)[:110]
        of = sum(times)
        lines.append(f"{len(times):6} {of:9.1f} {of / len(times):8.2f} {of / total:6.1%}  {short}")
    lines.append(f"{calls:6} {total:9.1f} µs in all kernels; one image takes {1e3 * wall:.1f} µs")
    return lines
