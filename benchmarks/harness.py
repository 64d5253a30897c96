"""What the ops' benchmarks share: cases, the check before timing, rotating inputs, records.

An op's file defines its inputs and what runs on them (`Work`), and how many images a perfect kernel would move.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rddm_fast.fast.graphs import CaptureFailed
from rddm_fast.ops import backends

from .timing import on_device, one_by_one, side_by_side

SHAPES = [
    *((1, 3, side, side) for side in (64, 128, 256, 512, 1024)),
    *((16, 3, side, side) for side in (64, 256, 512, 1024)),
]
QUICK_SHAPES = [(1, 3, 64, 64), (1, 3, 256, 256), (16, 3, 256, 256)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
CACHE_BYTES = {"cpu": 64 << 20, "cuda": 64 << 20}
"""More than the last-level cache of any machine this is likely to run on; inputs rotate over four times that."""


@dataclass(frozen=True)
class Case:
    """Images of a shape, dtype and layout, by the names of DTYPES and LAYOUTS."""

    shape: tuple[int, ...]
    dtype: str
    layout: str

    def image(self, generator: torch.Generator, device: torch.device) -> Tensor:
        """A standard normal image of this case; the generator is the device's."""
        x = torch.randn(self.shape, generator=generator, device=device)
        return x.to(DTYPES[self.dtype], memory_format=LAYOUTS[self.layout])

    @property
    def image_bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Work:
    """One op on one case's inputs, by several providers.

    calls: provider to what it runs; each returns the tensors that are checked.
    exact: what they should return, in float64.
    draws: providers that draw noise of their own, so that only the spread of what they return can be checked.
    waits: providers that wait for the device, so that no CUDA graph can hold them; they are timed as they are.
    """

    calls: dict[str, Callable[[], Sequence[Tensor]]]
    exact: Callable[[], Sequence[Tensor]]
    draws: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()


def cases(quick: bool, device: torch.device) -> Iterator[Case]:
    """float32 at every shape; the other layout and dtypes at three of them, or one for a quick run."""
    largest = [SHAPES[-1]] if device.type == "cuda" else []  # Only the largest images reach a GPU's full bandwidth.
    for shape in [*QUICK_SHAPES, *largest] if quick else SHAPES:
        yield Case(shape, "float32", "contiguous")
        if shape == QUICK_SHAPES[-1] or (not quick and shape in (QUICK_SHAPES[1], SHAPES[-1])):
            yield Case(shape, "float32", "channels_last")
            yield Case(shape, "bfloat16", "contiguous")
            yield Case(shape, "float16", "contiguous")


@dataclass(frozen=True)
class Op:
    """An op's benchmark: `work` makes inputs from a seed; `images_moved` is what a perfect kernel reads and writes."""

    name: str
    images_moved: int
    images_kept: int
    work: Callable[[Case, torch.device, int], Work]
    cases: Callable[[bool, torch.device], Iterator[Case]] = cases


@dataclass(frozen=True)
class Record:
    """One provider on one case. Times in microseconds, gbps of the bytes that a perfect kernel would move."""

    op: str
    provider: str
    device: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    us_p20: float
    us_p50: float
    us_p80: float
    gbps: float
    copy_fraction: float
    ratio_eager: float
    ratio_compile: float | None


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, for all providers alike.

    By default it returns large blocks to the system, which zeroes every page when it hands it out again. A user's
    process pays for that, mostly for an eager sequence's temporaries; if memory is kept, the ops' own time remains.
    """
    if sys.platform == "linux":
        mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def our_backends(device: torch.device, op: backends.Op | None = None) -> list[str]:
    """The backends of ours that run on `device` (and have `op`), without the plain-torch reference."""
    why_not = backends.why_not if op is None else op.why_not
    return [name for name in backends.BACKENDS if name != "reference" and why_not(name, device) is None]


def wrong_providers(work: Work, case: Case, op: str) -> dict[str, str]:
    """Map each provider that raises or computes something else to a sentence about it; those are not timed.

    The mean error against float64 may be twice that of the eager sequence, plus one rounding. It is the mean, because
    the derivative of a loss jumps where a difference changes its sign.
    """
    exact = [x.double() for x in work.exact()]
    eps = torch.finfo(DTYPES[case.dtype]).eps
    eager = work.calls["eager"]() if "eager" not in work.draws else exact
    lost = [(a.double() - b).abs().mean().item() for a, b in zip(eager, exact, strict=True)]
    wrong = {}
    for provider, call in work.calls.items():
        try:
            results = call()
        except Exception as failure:  # The other providers are measured all the same.
            wrong[provider] = f"{op} by {provider} on {case} raises {type(failure).__name__}: {failure}"
            continue
        for got, right, allowed in zip(results, exact, lost, strict=True):
            if provider in work.draws:
                error = (got.double().std() / right.std() - 1).abs().item()
                fine = error <= 0.1 + 4 / math.sqrt(right.numel())
            else:
                error = (got.double() - right).abs().mean().item()
                fine = error <= 2 * allowed + (eps + 1e-6) * right.abs().mean().item()
            if not fine:
                wrong[provider] = f"{op} by {provider} on {case} is off by {error:.1e} where eager is by {allowed:.1e}"
    return wrong


def rotations(op: Op, case: Case, device: torch.device) -> int:
    """Number of sets of inputs, at most 64, so that none is still in the cache when its turn comes again."""
    wanted = 4 * CACHE_BYTES[device.type] // (op.images_kept * case.image_bytes)
    return max(2, min(64, wanted))


def copy_bandwidth(device: torch.device, repeats: int = 9) -> float:
    """GB/s of torch's copy_ of a tensor four times the cache, read and write counted."""
    n = 4 * CACHE_BYTES[device.type] // 4
    # Not zeros: until those are written, the system maps them to one page, which is always in the cache.
    source, target = torch.ones(n, device=device), torch.ones(n, device=device)
    twice = on_device([lambda: target.copy_(source)] * 2, device)
    return 8 * n / side_by_side({"copy": twice}, device, repeats, count=2)["copy"].p50 / 1e6


def measure(
    op: Op,
    which: Sequence[Case],
    device: torch.device,
    *,
    repeats: int = 9,
    compiling: bool = True,
    report: Callable[[Record], None],
    complain: Callable[[str], None],
) -> None:
    """Check and time `op` on every case; `report` is called with each record as it comes.

    `complain` is called with what is wrong with a provider, which is then not timed. `compiling`: also torch.compile's,
    which takes seconds per case to compile.
    """
    copy = copy_bandwidth(device)
    for case in which:
        sets = [op.work(case, device, seed) for seed in range(rotations(op, case, device))]
        if not compiling:
            for one in sets:
                del one.calls["compile"]
        wrong = wrong_providers(sets[0], case, op.name)
        rounds = {}  # Each provider, on every set of inputs in turn.
        for name in (name for name in sets[0].calls if name not in wrong):
            try:
                calls = [one.calls[name] for one in sets]
                rounds[name] = one_by_one(calls) if name in sets[0].waits else on_device(calls, device)
            except CaptureFailed as failure:
                wrong[name] = f"{op.name} by {name} on {case}: {failure}"
        for sentence in wrong.values():
            complain(sentence)
        found = side_by_side(rounds, device, repeats, count=len(sets))
        for provider, timing in found.items():
            gbps = op.images_moved * case.image_bytes / timing.p50 / 1e6
            record = Record(
                op.name,
                provider,
                str(device),
                case.shape,
                case.dtype,
                case.layout,
                us_p20=1e3 * timing.p20,
                us_p50=1e3 * timing.p50,
                us_p80=1e3 * timing.p80,
                gbps=gbps,
                copy_fraction=gbps / copy,
                ratio_eager=found["eager"].p50 / timing.p50,
                ratio_compile=found["compile"].p50 / timing.p50 if "compile" in found else None,
            )
            report(record)
