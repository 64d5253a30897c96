"""How many kernels one call of each op launches on a GPU, and how long they run there: rddm-fast bench launches.

A small image (1 x 3 x 256 x 256 by default) takes less time on the device than the host needs to launch it, so that the
microbenchmarks' times are the host's; these are the profiler's, of the kernels alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from rddm_fast.system.files import write_text_whole

from ..harness import Case
from ..ops.forward_diffuse import OP as FORWARD_DIFFUSE
from ..ops.joint_loss import OP as JOINT_LOSS
from ..ops.range_null_step import OPS as RANGE_NULL_STEPS
from ..ops.reverse_step import DRAWN
from ..ops.reverse_step import OP as REVERSE_STEP
from ..timing import device_kernels

CALLS = 20


def kernels(call: Callable[[], object]) -> tuple[float, float]:
    """Return (kernels launched, microseconds that they run on the device) per call."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    ran = device_kernels(lambda: [call() for _ in range(CALLS)])
    return len(ran) / CALLS, sum(microseconds for _, microseconds in ran) / CALLS


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256, help="side of the image in pixels")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise SystemExit("error: there is no CUDA device to launch kernels on")
    case, rows = Case((1, 3, options.size, options.size), "float32", "contiguous"), []
    for op in (REVERSE_STEP, DRAWN, FORWARD_DIFFUSE, JOINT_LOSS, *RANGE_NULL_STEPS):
        for provider, call in op.work(case, torch.device("cuda"), 0).calls.items():
            launched, microseconds = kernels(call)
            rows.append({"op": op.name, "provider": provider, "kernels": launched, "device_us": microseconds})
            print(f"{op.name:19}{provider:16}{launched:6.1f} kernels {microseconds:8.2f} us on the device", flush=True)
    if options.json is not None:
        write_text_whole(options.json, json.dumps({"shape": list(case.shape), "calls": rows}, indent=1) + "\n")
