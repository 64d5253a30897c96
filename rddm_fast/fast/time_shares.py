"""The share of a run's time that each kind of work takes, by torch's profiler."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

# The first matching pattern wins. Our kernels come first, because general patterns match their names too.
KINDS = {
    "blocks, their convolutions and norms": r"residual_block",
    "group_norm_silu": r"group_norm_silu",
    "reverse_step_": r"reverse_step",
    "linear_attention": r"linear_attention|attention_layer",
    "channel_norm": r"channel_norm|layer_norm",
    "compiled": r"^triton_|^cpp_|graph_\d",
    "convolution": r"conv|fprop|dgrad|implicit_gemm|winograd",
    "matrix products and attention": r"gemm|::mm$|bmm|addmm|matmul|nvjet|attention|flash|softmax",
}
REST = "the rest"


def shares(run: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Return each kind of work's fraction of the time of `run`, largest first; the fractions add up to 1.

    On a GPU the time is that of the kernels on the device, on a CPU that of the operators without their callees.
    """
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiled:
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
    spent: dict[str, float] = {}
    for event in profiled.key_averages():
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        spent[kind_of(event.key)] = spent.get(kind_of(event.key), 0.0) + own
    total = sum(spent.values())
    return {name: part / total for name, part in sorted(spent.items(), key=lambda item: -item[1]) if part}


def kind_of(name: str) -> str:
    """Return the kind of work that an operator or a kernel of this name does."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), REST)
