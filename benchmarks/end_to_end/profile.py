"""Where a restored image's time goes, by kernel: rddm-fast bench profile [--size 256] [--device cpu].

The published two-network model with random weights, through FastSampler as it is by default on the device.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch.profiler import ProfilerActivity, profile

from rddm_fast.fast import FastSampler

from .network import NETWORKS
from .sampler import model


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", choices=NETWORKS, default="two")
    parser.add_argument("--size", type=int, default=256, help="side of the image in pixels")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rows", type=int, default=25, help="kernels to list")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    parallel = None if options.device == "cuda" else False  # on a CPU the profiler sees one thread
    sampler = FastSampler(model(options.networks, options.steps, options.device), parallel=parallel)
    x = torch.rand(1, 3, options.size, options.size, device=options.device)
    print(f"first image: {sampler.warmup(x.shape):.1f} s\n{sampler.explain(x.shape)}\n")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if options.device == "cuda" else [])]
    with profile(activities=activities) as profiled:
        sampler(x)
        if options.device == "cuda":
            torch.cuda.synchronize()
    print(profiled.key_averages().table(sort_by=f"self_{options.device}_time_total", row_limit=options.rows))
