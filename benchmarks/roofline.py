"""What a GPU needs for an image at least, and what the kernels as they are should take, layer by layer.

    python -m benchmarks.roofline --gpu h200 [--size 256] [--batch 1] [--steps 5] [--networks two]
        [--measured benchmarks/results/h200/sampler.json]

From shapes alone, for bfloat16 and the kernels that FastSampler runs there; nothing is timed. A layer's floor is its
multiplications at the matrix units' rate, or its bytes at the second-level cache's or the memory's, whichever takes
longer. The model adds what the review of the kernels assumes (`ASSUMPTIONS`). It is good to about 30 %.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ASSUMPTIONS = """\
a kernel in a graph: 1.8 us between its predecessor's end and its own work's beginning
matrix products: 60 % of the units' rate for up to 64 output channels, 82 % for more
a 3x3 convolution reads each pixel 9 times from the second-level cache, an enlarged one 4 times for each of 4 results
images that fit half of the second-level cache stay there; weights come from memory once an evaluation
a kernel uses its programs' share of the multiprocessors; the other network's same kernel, on a stream of its own, fills
the rest"""
GAP_US = 1.8
NARROW, WIDE = 0.60, 0.82
HALF = 2  # bytes


@dataclass(frozen=True)
class Gpu:
    """A device's rates: dense bfloat16 TFLOP/s, TB/s of the memory and of the second-level cache, its MiB."""

    multiprocessors: int
    tflop_s: float
    memory_tb_s: float
    cache_tb_s: float
    cache_mib: float


GPUS = {
    "h200": Gpu(132, 790, 4.3, 5.5, 60),
    "h100": Gpu(132, 790, 3.0, 5.5, 50),
    "a100": Gpu(108, 265, 1.7, 4.0, 40),
    "4090": Gpu(128, 140, 0.9, 4.0, 72),
}
"""An H200's and an H100's matrix and memory rates were measured; the others are 85 % of the data sheets'."""


@dataclass(frozen=True)
class Kernel:
    """A kernel of one evaluation of one network.

    Attributes:
        layer: what it computes, and where.
        calls: how often.
        flop: of one call.
        cache_bytes: read and written through the second-level cache, repeated reads counted.
        image_bytes: of the images alone, each read and written once.
        weight_bytes: read from memory.
        programs: that run at once if there are enough multiprocessors.
        channels: of the result.
    """

    layer: str
    calls: int
    flop: float
    cache_bytes: float
    image_bytes: float
    weight_bytes: float
    programs: float
    channels: int

    def floor_us(self, gpu: Gpu) -> float:
        """Microseconds that one call takes at least."""
        stays = self.image_bytes < gpu.cache_mib * 2**20 / 2
        moved = self.image_bytes / (gpu.cache_tb_s if stays else gpu.memory_tb_s) / 1e6
        return max(self.flop / gpu.tflop_s / 1e6, moved, self.weight_bytes / gpu.memory_tb_s / 1e6)

    def busy_us(self, gpu: Gpu) -> float:
        """Microseconds of the whole device that one call takes by the model, without the gap before it."""
        stays = self.image_bytes < gpu.cache_mib * 2**20 / 2
        rate = (NARROW if self.channels <= 64 else WIDE) * gpu.tflop_s
        memory = self.weight_bytes + (0 if stays else self.image_bytes)
        bound = self.flop / rate, self.cache_bytes / gpu.cache_tb_s, memory / gpu.memory_tb_s
        return max(bound) / 1e6

    def alone_us(self, gpu: Gpu) -> float:
        """Microseconds that one call takes by the model, if nothing else runs."""
        return GAP_US + self.busy_us(gpu) / self.filled(gpu)

    def filled(self, gpu: Gpu) -> float:
        """The share of the multiprocessors that a call uses on average."""
        rounds = math.ceil(self.programs / gpu.multiprocessors)
        return self.programs / (rounds * gpu.multiprocessors)


def convolution(
    side: int, batch: int, channels: int, out: int, calls: int, *, parts: int = 1, upsample: bool = False
) -> Kernel:
    """Return a 3x3 convolution of square images; `side` is the result's."""
    pixels, taps = batch * side * side, 4 if upsample else 9
    source, result = pixels * channels * HALF / (4 if upsample else 1), pixels * out * HALF
    weights = (16 if upsample else 9) * channels * out * HALF
    # Tiles of 128 pixels by 64 channels where they fill the device, else of 64 by 64.
    tile = 128 * 64 if pixels * out >= 128 * 64 * 132 else 64 * 64
    again = 4 * 4 if upsample else 9
    name = f"3x3 {channels} -> {out}" + (" in two parts" if parts == 2 else "") + (" enlarged" if upsample else "")
    return Kernel(
        f"{name} @ {side}",
        *(calls, 2.0 * taps * pixels * channels * out, again * source + result, source + result, weights),
        *(pixels * out / tile, out),
    )


def norm(side: int, batch: int, channels: int, calls: int, residual: bool) -> Kernel:
    """Return group norm, SiLU and the residual, whose statistics the convolution left."""
    moved = (3 if residual else 2) * batch * side * side * channels * HALF
    programs = min(512, batch * side * side * channels / 2048)
    name = f"norm{' and residual' if residual else ''} {channels} @ {side}"
    return Kernel(name, calls, 0, moved, moved, 0, programs, channels)


def norm_product(side: int, batch: int, channels: int, skip: int, calls: int) -> Kernel:
    """Return group norm, SiLU and a residual that a product makes of an image and a skip of so many channels."""
    pixels, sources = batch * side * side, channels + skip
    moved, weights = pixels * (2 * channels + sources) * HALF, sources * channels * HALF
    name = f"norm and residual of {channels} + {skip} -> {channels} @ {side}"
    # Programs of 128 pixels by 64 channels, or of as many pixels as leave each multiprocessor one.
    programs = max(pixels * channels / (128 * 64), min(128, pixels * channels / (16 * 64)))
    return Kernel(name, calls, 2.0 * pixels * sources * channels, moved, moved, weights, programs, channels)


def product(side: int, batch: int, channels: int, out: int, calls: int, name: str) -> Kernel:
    """Return a product of the pixels with a matrix."""
    pixels = batch * side * side
    moved = pixels * (channels + out) * HALF
    label = f"{name} {channels} -> {out} @ {side}"
    programs = pixels * max(out, 64) / (128 * 64)
    return Kernel(label, calls, 2.0 * pixels * channels * out, moved, moved, channels * out * HALF, programs, out)


def linear_attention(side: int, batch: int, channels: int, calls: int, inner: int = 128) -> Iterator[Kernel]:
    """Yield the three kernels of linear attention with its norms, projections and residual."""
    pixels = batch * side * side
    image, programs = pixels * channels * HALF, batch * min(128, side * side / 16)
    at = f"{channels} @ {side}"
    flop = 2.0 * pixels * inner * (2 * channels + inner)
    weights = 2 * inner * channels * HALF
    yield Kernel(f"attention's context {at}", calls, flop, image + programs * weights, image, weights, programs, inner)
    parts = programs * 34 * inner * 4
    yield Kernel(f"attention's join {at}", calls, 0, parts, parts, 0, batch * inner, channels)
    blocks = batch * max(64, side * side / 64)
    flop, weights = 4.0 * pixels * inner * channels, 2 * inner * channels * HALF
    yield Kernel(
        f"attention's result {at}", calls, flop, 3 * image + blocks * weights, 2 * image, weights, blocks, channels
    )


def evaluation(size: int, batch: int, dim: int = 64) -> list[Kernel]:
    """Return the kernels of one evaluation of one network (mults 1, 2, 4, 8), the largest images first."""
    found = [product(size, batch, 7 * 32, dim, 1, "stem 7x7, as")]
    for stage in range(4):
        side, own = size // 2**stage, dim * 2**stage
        before, first, last = own if stage == 0 else own // 2, stage == 0, stage == 3
        # The blocks on the way down keep the width before; those on the way up take a skip of that width.
        down, up = 2, 2 + first  # the last block takes the stem
        middle = 2 if last else 0
        found += [
            convolution(side, batch, before, before, 2 * down),
            convolution(side, batch, own + before, own, up, parts=2),
            convolution(side, batch, own, own, up + 2 * middle + first),  # and the last layer of the way up
            *(norm(side, batch, c, n, False) for c, n in ((before, down), (own, up + middle))),
            *(norm(side, batch, c, n, True) for c, n in ((before, down), (own, middle))),
            norm_product(side, batch, own, before, up),
            *linear_attention(side, batch, before, 1),
            *linear_attention(side, batch, own, 1),
        ]
        if last:
            found += [convolution(side, batch, before, own, 1), *attention(side, batch, own)]
        else:
            found.append(product(side // 2, batch, 16 * before, own, 1, "down 4x4, as"))
        if not first:
            found.append(convolution(2 * side, batch, own, before, 1, upsample=True))
    found.append(product(size, batch, dim, 3, 1, "last 1x1"))
    return [kernel for kernel in found if kernel.calls]


def attention(side: int, batch: int, channels: int, inner: int = 128) -> Iterator[Kernel]:
    """Yield the kernels of the full attention in the middle."""
    pixels, per_image = batch * side * side, side * side
    yield norm(side, batch, channels, 1, False)
    yield product(side, batch, channels, 3 * inner, 1, "queries, keys, values")
    moved = pixels * 4 * inner * HALF
    flop = 4.0 * pixels * per_image * inner
    yield Kernel(f"attention @ {side}", 1, flop, moved, moved, 0, batch * 4 * per_image / 64, inner)
    yield product(side, batch, inner, channels, 1, "projection and addition")


def image_ms(kernels: Sequence[Kernel], gpu: Gpu, steps: int, networks: int) -> float:
    """Return the modelled milliseconds of an image: each kernel beside the same one of the other network."""
    together = sum(k.calls * max(k.alone_us(gpu), GAP_US + networks * k.busy_us(gpu)) for k in kernels)
    return steps * together / 1e3


def report(gpu: Gpu, size: int, batch: int, steps: int, networks: int) -> Iterator[str]:
    """Yield the lines of the table, and the sums."""
    kernels = evaluation(size, batch)
    yield f"{'layer':44}{'calls':>6}{'GFLOP':>8}{'MB':>8}{'floor us':>10}{'model us':>10}"
    for k in sorted(kernels, key=lambda k: -k.calls * k.alone_us(gpu)):
        sizes = f"{k.calls:6}{1e-9 * k.flop:8.2f}{1e-6 * k.image_bytes:8.1f}"
        yield f"{k.layer:44}{sizes}{k.floor_us(gpu):10.2f}{k.alone_us(gpu):10.2f}"
    flop = sum(k.calls * k.flop for k in kernels)
    floor = networks * steps * sum(k.calls * k.floor_us(gpu) for k in kernels) / 1e3
    launched = networks * steps * sum(k.calls for k in kernels)
    yield f"one evaluation of one network: {1e-9 * flop:.1f} GFLOP, {sum(k.calls for k in kernels)} kernels"
    products = networks * steps * flop / gpu.tflop_s / 1e9
    yield f"one batch: {launched} kernels; at least {products:.2f} ms for the products alone"
    yield f"floor, each layer at its own bound:  {floor:8.2f} ms"
    yield f"model, with the assumptions above:   {image_ms(kernels, gpu, steps, networks):8.2f} ms"


def measured(file: Path, size: int, batch: int) -> str:
    """Return a line about the fastest bfloat16 sampler in a file of `rddm-fast bench sampler --json`."""
    document = json.loads(file.read_text())
    rows = [r for r in document["rows"] if r["shape"] == [batch, 3, size, size] and r["dtype"] == "bfloat16"]
    if not rows:
        return f"measured: {file} has no bfloat16 row of {batch} x 3 x {size} x {size}"
    best = min(rows, key=lambda r: r["ms_p50"])
    return f"measured on an {best['device']} ({best['provider']}): {best['ms_p50']:8.2f} ms"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", choices=GPUS, required=True)
    parser.add_argument("--size", type=int, default=256, help="side of the image in pixels, a multiple of 8")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--networks", choices=["one", "two"], default="two")
    parser.add_argument("--measured", type=Path, help="JSON of `rddm-fast bench sampler`, to set beside the model")
    options = parser.parse_args(argv)
    if min(options.size, options.batch, options.steps) < 1 or options.size % 8:
        parser.error("--size must be a multiple of 8, and --batch and --steps at least 1")
    print(f"{options.gpu}: {GPUS[options.gpu]}\n{ASSUMPTIONS}\n")
    networks = 2 if options.networks == "two" else 1
    for line in report(GPUS[options.gpu], options.size, options.batch, options.steps, networks):
        print(line)
    if options.measured:
        print(measured(options.measured, options.size, options.batch))


if __name__ == "__main__":
    main()
