"""The whole loop in onnxruntime, from the file that `rddm-fast export` writes, beside `FastSampler`, on a CPU.

    rddm-fast bench onnx [--model derain] [--size 64] [--threads 1] [--json FILE]

Both restore the same image with the same draws, in float32, and take turns. Set OMP_NUM_THREADS to the threads too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from rddm_fast.fast import FastSampler
from rddm_fast.fast.to_onnx.export import export
from rddm_fast.models.folder import load_model
from rddm_fast.system.extras import require
from rddm_fast.system.files import write_text_whole
from rddm_fast.system.timing import in_turns

from ..timing import conditions


def measure(model: str = "derain", size: int = 64, threads: int = 1, repeats: int = 15) -> dict[str, Any]:
    """Export `model`, which restores and takes no mask, and time one image of `size`; raise as `export` does."""
    runtime = require("onnxruntime", "onnx")
    torch.set_num_threads(threads)
    sampler = FastSampler(load_model(model), dtype=torch.float32, tune=False)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sampler.onnx"
        export(load_model(model), path)
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1 + sum(step.draws for step in sampler.steps), *image.shape)
    feeds = {"image": image.numpy(), "noise": noise.numpy()}
    calls: dict[str, Callable[[], Any]] = {
        "FastSampler": lambda: sampler(image, draws=list(noise)),
        "onnxruntime": lambda: session.run(None, feeds)[0],
    }
    difference = float((torch.from_numpy(calls["onnxruntime"]()) - calls["FastSampler"]()).abs().max())
    times = in_turns(calls, repeats)
    ratios = [theirs / ours for theirs, ours in zip(times["onnxruntime"], times["FastSampler"], strict=True)]
    return {
        **conditions("cpu"),
        "onnxruntime": runtime.__version__,
        "model": model,
        "steps": len(sampler.steps),
        "size": size,
        "difference": difference,
        "ms": {name: 1e3 * statistics.median(of) for name, of in times.items()},
        "ratio": statistics.median(ratios),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="derain", help="a model that restores and takes no mask")
    parser.add_argument("--size", type=int, default=64, help="side of the image in pixels")
    parser.add_argument("--threads", type=int, default=1, help="threads of either")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args(argv)
    result = measure(options.model, options.size, options.threads, options.repeats)
    ours, theirs = result["ms"]["FastSampler"], result["ms"]["onnxruntime"]
    print(
        f"{result['model']}, {result['steps']} steps, {options.size}x{options.size}, float32, {options.threads} "
        f"threads: FastSampler {ours:.1f} ms, onnxruntime {result['onnxruntime']} {theirs:.1f} ms, "
        f"{result['ratio']:.2f} times FastSampler's (median of the rounds); images differ by {result['difference']:.1e}"
    )
    if options.json is not None:
        write_text_whole(options.json, json.dumps(result, indent=2) + "\n")
