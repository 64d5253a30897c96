"""conv3x3 by Triton against cuDNN on a GPU, in bfloat16 (`rddm-fast bench conv3x3` there)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from triton import AsyncCompileMode

from rddm_fast.fast.graphs import CaptureFailed
from rddm_fast.kernels.networks.conv3x3 import conv3x3_by_tile
from rddm_fast.kernels.networks.conv3x3_tiles import CANDIDATES, Site, Tile, gpu_of, launch_config
from rddm_fast.ops import pack_conv3x3_taps
from rddm_fast.system.files import write_text_whole

from ..timing import conditions, on_device, side_by_side

TOLERANCE, LARGEST = 4e-3, 0.05
"""Greatest error: its norm over the exact result's, and its largest value over the exact result's largest.

A rounding to bfloat16 loses 1.7e-3 by norm. So do the rounded sums of weights for enlarged images.
"""


@dataclass(frozen=True)
class Shape:
    """A convolution of a network.

    Attributes:
        batch: B.
        channels, second: C and C_2, 0 for images in one part.
        out_channels: K.
        side: of the square images, before they are enlarged.
        upsample: whether they are enlarged 2x first.
        calls: how often an evaluation of one network has it.
    """

    batch: int
    channels: int
    second: int
    out_channels: int
    side: int
    upsample: bool
    calls: int

    @property
    def gflop(self) -> float:
        """What a direct convolution of the enlarged images multiplies and adds."""
        pixels = self.batch * (self.side * (2 if self.upsample else 1)) ** 2
        return 2e-9 * 9 * pixels * (self.channels + self.second) * self.out_channels

    def __str__(self) -> str:
        parts = f"{self.channels}+{self.second}" if self.second else str(self.channels)
        after = f" to {2 * self.side}" if self.upsample else ""
        return f"{self.batch} x {parts} -> {self.out_channels} @ {self.side}{after}"


def published(batch: int, size: int = 256, dim: int = 64) -> list[Shape]:
    """Return the 3x3 convolutions of a published network for square images, the largest images first."""
    found = []
    for stage in range(4):
        own, side = dim * 2**stage, size // 2**stage
        before, last = own if stage == 0 else own // 2, stage == 3
        # Two blocks of two on the way down, at the width before; two that take the skips on the way up.
        down, up, middle = 4, 2, 4 if last else 0
        if stage == 0:  # The same width: also the layer after the attention, and the block that takes the stem.
            found += [
                Shape(batch, own, 0, own, side, False, down + up + 2),
                Shape(batch, own, own, own, side, False, 3),
            ]
            continue
        found += [
            Shape(batch, before, 0, before, side, False, down),
            Shape(batch, own, before, own, side, False, up),
            Shape(batch, own, 0, own, side, False, up + middle),
        ]
        found += [Shape(batch, before, 0, own, side, False, 1)] if last else []
        found += [Shape(batch, own, 0, before, side, True, 1)]
    return found


@dataclass(frozen=True)
class Row:
    """One provider on one shape. Times in microseconds a call; TFLOP/s of a direct convolution."""

    shape: str
    calls: int
    provider: str
    tile: str
    us_p20: float
    us_p50: float
    us_p80: float
    tflop_per_s: float
    times_cudnn: float
    error: float

    def __str__(self) -> str:
        times = "".join(f"{us:9.2f}" for us in (self.us_p20, self.us_p50, self.us_p80))
        rates = f"{self.tflop_per_s:9.1f}{self.times_cudnn:8.2f}{self.error:10.1e}"
        return f"{self.shape:32}{self.provider:14}{times}{rates}  {self.tile}"


HEADER = f"{'B x C -> K @ side':32}{'':14}{'us p20':>9}{'p50':>9}{'p80':>9}{'TFLOP/s':>9}{'x cuDNN':>8}{'error':>10}"
Calls = dict[str, Callable[[], Tensor]]


def inputs(shape: Shape, device: torch.device) -> tuple[Tensor, Tensor | None, Tensor]:
    """Images and a weight of float32 values that bfloat16 holds."""
    generator = torch.Generator(device).manual_seed(0)

    def images(channels: int) -> Tensor:
        x = torch.randn(shape.batch, channels, shape.side, shape.side, generator=generator, device=device)
        return x.to(torch.bfloat16, memory_format=torch.channels_last)

    both = shape.channels + shape.second
    weight = torch.randn(shape.out_channels, both, 3, 3, generator=generator, device=device) / (9 * both) ** 0.5
    return images(shape.channels), images(shape.second) if shape.second else None, weight.bfloat16().float()


def prepared(x: Tensor, x_2: Tensor | None, upsample: bool) -> Tensor:
    """What a plain convolution takes in place of the op's images: joined, then enlarged."""
    both = x if x_2 is None else torch.cat((x, x_2), dim=1)
    return F.interpolate(both, scale_factor=2, mode="nearest") if upsample else both


def providers(shape: Shape, tiles: dict[str, Tile], device: torch.device) -> tuple[Calls, Callable[[], Tensor]]:
    """Return what is timed, by name, and what computes the same in float32. There is no bias."""
    x, x_2, weight = inputs(shape, device)
    packed = pack_conv3x3_taps(weight, torch.bfloat16, shape.upsample)
    for_cudnn = weight.to(torch.bfloat16, memory_format=torch.channels_last)
    calls: Calls = {"cuDNN": lambda: F.conv2d(prepared(x, x_2, shape.upsample), for_cudnn, padding=1)}
    if x_2 is not None or shape.upsample:
        ready = prepared(x, x_2, shape.upsample)
        calls["cuDNN alone"] = lambda: F.conv2d(ready, for_cudnn, padding=1)
    for name, tile in tiles.items():
        calls[name] = lambda tile=tile: conv3x3_by_tile(  # type: ignore[misc]
            x, x_2, shape.out_channels, packed, None, shape.upsample, tile
        )[0]

    def exact() -> Tensor:  # TF32, if torch is set to it, holds the values of bfloat16 exactly.
        both = prepared(x.float(), None if x_2 is None else x_2.float(), shape.upsample)
        return F.conv2d(both, weight, padding=1)

    return calls, exact


def tiles_of(shape: Shape, device: torch.device, candidates: bool) -> dict[str, Tile]:
    """Return the tiles to time: the launcher's own choice as "ours", and with `candidates` the others by number."""
    size = shape.batch, shape.channels + shape.second, shape.side, shape.side
    gpu = gpu_of(device)
    chosen = launch_config(Site(size, shape.out_channels, shape.upsample), gpu)
    others = {f"tile {i}": t for i, t in enumerate(CANDIDATES) if t != chosen and t.runs_on(gpu)}
    return {"ours": chosen, **(others if candidates else {})}


def compile_all(shapes: Sequence[Shape], device: torch.device, candidates: bool, compilers: int) -> int:
    """Compile what will be timed, several kernels at once; return their number. What fails, fails again when called.

    A kernel serves any size of the images and any number of output channels.
    """
    wanted = {
        (shape.channels, shape.second, shape.upsample, tile)
        for shape in shapes
        for tile in tiles_of(shape, device, candidates).values()
    }
    with ThreadPoolExecutor(compilers) as pool, AsyncCompileMode(pool, ignore_errors=True):
        for channels, second, upsample, tile in sorted(wanted):
            pixel = inputs(Shape(1, channels, second, 8, 1, upsample, 1), device)
            packed = pack_conv3x3_taps(pixel[2], torch.bfloat16, upsample)
            conv3x3_by_tile(*pixel[:2], 8, packed, None, upsample, tile, only_compile=True)
    return len(wanted)


def measure(
    shape: Shape,
    tiles: dict[str, Tile],
    device: torch.device,
    repeats: int,
    complain: Callable[[str], None],
    ends: float,
) -> Iterator[Row]:
    """Check every provider, and time those that are right in turns; none is begun when the clock is at `ends`."""
    calls, exact_result = providers(shape, tiles, device)
    exact = exact_result()
    norm, largest = exact.norm(), exact.abs().max()
    # Enough calls in a row that a graph's launch, a few microseconds, does not count.
    count = 20 if shape.batch == 1 else 4
    errors: dict[str, float] = {}
    rounds: dict[str, Callable[[], object]] = {}
    for name, call in calls.items():
        if time.monotonic() > ends:
            complain(f"{shape}: no time for {name}")
            continue
        try:
            wrong = call().float() - exact
            errors[name] = float(wrong.norm() / norm)
            off = float(wrong.abs().max() / largest)
            if not (errors[name] <= TOLERANCE and off <= LARGEST):
                complain(f"{shape}: {name} ({tiles.get(name, '')}) is off by {errors[name]:.1e}, and {off:.1e} at most")
                continue
            rounds[name] = on_device([call] * count, device)
        except (RuntimeError, CaptureFailed) as failure:  # A tile that does not compile, or does not fit.
            complain(f"{shape}: {name} ({tiles.get(name, '')}) raises {type(failure).__name__}: {str(failure)[:300]}")
            if device.type == "cuda":
                torch.cuda.synchronize()  # raises, if the device itself has failed: then nothing after it would be true
    del exact
    found = side_by_side(rounds, device, repeats, count=count)
    for name, timing in found.items():
        yield Row(
            shape=str(shape),
            calls=shape.calls,
            provider=name,
            tile=str(tiles.get(name, "")),
            us_p20=1e3 * timing.p20,
            us_p50=1e3 * timing.p50,
            us_p80=1e3 * timing.p80,
            tflop_per_s=shape.gflop / timing.p50,
            times_cudnn=found["cuDNN"].p50 / timing.p50 if "cuDNN" in found else float("nan"),
            error=errors[name],
        )


def summary(rows: Sequence[Row], batch: int) -> str:
    """The milliseconds of an evaluation's convolutions: cuDNN's, the launcher's choice, the best tile of each shape."""
    of_batch = [row for row in rows if row.shape.startswith(f"{batch} x ")]
    cudnn, ours, best = 0.0, 0.0, 0.0
    shapes = dict.fromkeys(row.shape for row in of_batch)
    for shape in shapes:
        us = {row.provider: row.us_p50 * row.calls for row in of_batch if row.shape == shape}
        own = [value for name, value in us.items() if not name.startswith("cuDNN")]
        cudnn += us.get("cuDNN", float("nan"))
        ours += us.get("ours", float("nan"))
        best += min(own, default=float("nan"))
    return (
        f"batch {batch}, all convolutions of {len(shapes)} shapes in an evaluation: cuDNN {cudnn / 1e3:.3f} ms, "
        f"ours {ours / 1e3:.3f}, by the best tile of each {best / 1e3:.3f}"
    )


@torch.inference_mode()
def run(
    device: torch.device,
    *,
    quick: bool,
    candidates: bool,
    repeats: int,
    compilers: int,
    seconds: float,
    file: Path | None,
) -> list[Row]:
    """Check and time every shape, and print the rows; write them to `file` as they come."""
    begun, rows = time.monotonic(), list[Row]()
    ends = begun + seconds
    batches = (1,) if quick else (1, 16)
    where = conditions(device.type)
    print("{machine}; {device}; torch {torch}; bfloat16, CUDA graphs, images in the cache if they fit".format(**where))
    number = compile_all([shape for b in batches for shape in published(b)], device, candidates, compilers)
    print(f"{number} kernels compiled in {time.monotonic() - begun:.1f} s\n{HEADER}", flush=True)

    def complain(sentence: str) -> None:
        print(f"! {sentence}", flush=True)

    for batch in batches:
        for shape in published(batch):
            if time.monotonic() > ends:
                complain(f"{shape}: left out after {seconds:.0f} s")
                continue
            for row in measure(shape, tiles_of(shape, device, candidates), device, repeats, complain, ends):
                rows.append(row)
                print(row, flush=True)
            if file is not None:
                written: list[dict[str, Any]] = [{**where, **asdict(row)} for row in rows]
                write_text_whole(file, json.dumps(written, indent=2) + "\n")
            torch.cuda.empty_cache()  # of a shape's graphs
        print(summary(rows, batch), flush=True)
    return rows
