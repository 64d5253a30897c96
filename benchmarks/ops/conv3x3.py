"""conv3x3 in the shapes of the published networks: by Triton against cuDNN on a GPU, against oneDNN on a CPU.

    rddm-fast bench conv3x3 [--quick] [--candidates] [--seconds 300] [--compilers 8] [--json FILE]    on a GPU
    rddm-fast bench conv3x3 --device cpu [--sizes 64 128 256] [--threads 1 2] [--json FILE]

On a GPU the images are bfloat16, 256 x 256, 1 and 16 at a time. `cuDNN` is what ours replaces, torch's convolution
after a concatenation or an enlargement; `cuDNN alone` is the convolution without those. `ours` is the tile that the
launcher chooses. With --candidates all others are timed too. Every result is checked against float32 before.

On a CPU `direct` is oneDNN's convolution of channels-last images with a packed weight, which torch's compiler takes
too, and `torch` is torch's convolution. Tiles of 2 and 4 are Winograd's, those of 1 are AMX's. The rates are of a
direct convolution's arithmetic in float32, whose peak `direct` comes near and the tiles can pass. Every result is
checked against float64 before it is timed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rddm_fast.fast.folded.convolutions import PackedConv2d, TiledConv2d
from rddm_fast.ops import conv3x3, pack_conv3x3
from rddm_fast.ops.networks.conv3x3 import tiles
from rddm_fast.system.files import write_text_whole

from ..timing import conditions, side_by_side

TOLERANCE = 1e-4
"""Greatest difference from the exact convolution, whose results are of order 1."""


def shapes(size: int, dim: int = 64) -> list[tuple[int, int, int]]:
    """Return (C, K, side) of the 3x3 convolutions of a published network for images of `size`, without repeats."""
    found: list[tuple[int, int, int]] = []
    for stage in range(4):
        own, side = dim * 2**stage, size // 2**stage
        before = own if stage == 0 else own // 2
        found += [(before, before, side), (own + before, own, side), (own, own, side)]
        found += [(2 * own, own, side)] if stage < 3 else []  # after nearest upsampling
    return list(dict.fromkeys(found))


@torch.inference_mode()
def measure(c: int, k: int, side: int, repeats: int) -> dict[str, Any]:
    """Check and time one shape. Raises AssertionError if a result differs from the exact one by more than TOLERANCE."""
    torch.manual_seed(0)
    conv = nn.Conv2d(c, k, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(1, c, side, side).to(memory_format=torch.channels_last)
    weight, bias = conv.weight.detach(), conv.bias.detach()
    direct = PackedConv2d(conv)
    calls: dict[str, Callable[[], Tensor]] = {"direct": lambda: direct(x), "torch": lambda: conv(x)}
    for tile in tiles():
        packed = pack_conv3x3(weight, tile=tile)
        calls[f"tiles of {tile}"] = lambda packed=packed: conv3x3(x, weight, bias, packed=packed)  # type: ignore[misc]
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    errors = {name: float((call() - exact).abs().max() / exact.std()) for name, call in calls.items()}
    assert max(errors.values()) <= TOLERANCE, f"{c} -> {k} at {side}: {errors}"
    times = side_by_side(calls, "cpu", repeats)
    tile = TiledConv2d.tile(x, c)
    return {
        "shape": [c, k, side],
        "ms": {name: vars(timing) for name, timing in times.items()},
        "gflop_per_s": {name: 2 * 9 * c * k * side**2 / timing.p50 / 1e6 for name, timing in times.items()},
        "speedup": {name: times["direct"].p50 / timing.p50 for name, timing in times.items()},
        "error": errors,
        "chosen": f"tiles of {tile}" if tile else "direct",
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = parser.add_argument_group("on a GPU")
    on_gpu.add_argument("--quick", action="store_true", help="one image at a time alone")
    on_gpu.add_argument("--candidates", action="store_true", help="all tiles of the kernel, not only the chosen one")
    on_gpu.add_argument("--seconds", type=float, default=300, help="begin nothing after so many seconds")
    on_gpu.add_argument("--compilers", type=int, default=8, help="threads that compile at once")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], help="sides of the images in pixels")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args(argv)
    if options.device == "cuda":
        from .conv3x3_gpu import run  # It imports Triton.

        run(
            torch.device("cuda", torch.cuda.current_device()),
            quick=options.quick,
            candidates=options.candidates,
            repeats=options.repeats,
            compilers=options.compilers,
            seconds=options.seconds,
            file=options.json,
        )
        return
    wanted = sorted({shape for size in options.sizes for shape in shapes(size)}, key=lambda s: (s[2], s[0], s[1]))
    before, rows = torch.get_num_threads(), []
    names = ["torch", *(f"tiles of {tile}" for tile in sorted(tiles()))]
    try:
        for threads in dict.fromkeys(options.threads):
            torch.set_num_threads(threads)
            print("{machine}; torch {torch}, {threads} threads; float32".format(**conditions("cpu")))
            print(
                f"{'C -> K @ side':18}{'direct ms':>11}{'GF/s':>7}"
                + "".join(f"{name:>14} ms   x{'error':>9}" for name in names)
                + "  chosen"
            )
            for shape in wanted:
                row = measure(*shape, options.repeats)
                rows.append({**conditions("cpu"), **row})
                columns = "".join(
                    f"{row['ms'][name]['p50']:14.3f}{row['speedup'][name]:7.2f}{row['error'][name]:9.0e}"
                    for name in names
                )
                name = f"{shape[0]} -> {shape[1]} @ {shape[2]}"
                print(
                    f"{name:18}{row['ms']['direct']['p50']:11.3f}{row['gflop_per_s']['direct']:7.0f}{columns}"
                    f"  {row['chosen']}",
                    flush=True,
                )
    finally:
        torch.set_num_threads(before)
    if options.json is not None:
        write_text_whole(options.json, json.dumps(rows, indent=2) + "\n")
