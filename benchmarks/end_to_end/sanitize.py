"""Every op's GPU kernels on small, odd and unaligned images: what compute-sanitizer watches.

compute-sanitizer --tool memcheck rddm-fast bench sanitize [BACKEND …]
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rddm_fast.ops import (
    StepTable,
    attention_layer,
    channel_norm,
    conv3x3,
    conv_by_taps,
    conv_norm_silu,
    forward_diffuse,
    group_norm_silu,
    group_norm_silu_training,
    joint_loss,
    linear_attention,
    pack_stem_conv,
    pack_taps,
    range_null_step,
    range_null_step_,
    reverse_step,
    reverse_step_,
    spectral_step_,
    stem_conv,
    tacos_step,
)
from rddm_fast.theory.objective import Objective

from ..harness import LAYOUTS, our_backends

SHAPES = [(1, 3, 1, 1), (2, 3, 5, 7), (1, 3, 16, 16), (3, 3, 33, 31)]
PAIRS = [(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.float16, torch.float16)]
STEP: dict[str, Any] = {"k_t": 1.0, "k_res": -0.1, "k_noise": -0.2, "k_0": 0.1, "sigma": 0.2}


def run(backend: str, device: torch.device) -> int:
    """Call every op with every objective, dtype, layout and kind of noise; return the number of calls.

    Triton compiles each combination, which takes far longer than running it, so it gets two objectives only.
    """
    objectives = list(Objective) if backend == "cuda" else [Objective.pred_res_noise, Objective.pred_x0]
    calls = 0
    tables = torch.linspace(0, 1, 10, device=device), torch.linspace(0, 1, 10, device=device)
    numbers: dict[str, Any] = {"alpha_bar": 0.5, "beta_bar": 0.4, **STEP}
    table = StepTable.of([numbers] * 2, device=device)
    for shape, (image, output), layout, drawn in itertools.product(SHAPES, PAIRS, LAYOUTS.values(), (False, True)):

        def images(dtype: torch.dtype, shape=shape, layout=layout) -> Tensor:
            numel = torch.Size(shape).numel()
            unaligned = torch.randn(numel + 1, device=device).to(dtype)[1:].view(shape)
            return unaligned.to(memory_format=layout)

        noise: dict[str, Any] = {"seed": 3, "stream": 1} if drawn else {"noise": images(image)}
        t = torch.arange(shape[0], device=device)
        forward_diffuse(images(image), images(image), t, *tables, impl=backend, **noise)
        for objective in objectives:
            outputs: list[Any] = [*(images(output) for _ in range(objective.outputs)), None]
            given: dict[str, Any] = {"objective": objective, "I_in": images(image), "impl": backend, **noise}
            reverse_step(images(image), outputs[0], outputs[1], **numbers, **given)
            half = torch.empty(shape[0], 6, *shape[2:], dtype=output, device=device).to(memory_format=layout)[:, :3]
            written: dict[str, Any] = {"next_input": half, "clean": torch.empty_like(outputs[0])}
            at: dict[str, Any] = {"table": table, "step": torch.ones(1, dtype=torch.int64, device=device)}
            state = torch.randn(shape, device=device).to(image).to(memory_format=layout)
            reverse_step_(state, outputs[0], outputs[1], **at, **written, **given)
            for out in outputs[:2]:
                if out is not None:
                    out.requires_grad_()
            joint_loss(outputs[0], outputs[1], images(image), lam=0.4, **given)[0].backward()
            calls += 3
        calls += 1
    torch.cuda.synchronize()
    return calls


def run_network_ops(backend: str, device: torch.device) -> int:
    """Call the networks' ops that `backend` has, in each dtype and layout; return the number of calls."""
    if backend == "cuda":  # The CUDA sources hold none of them.
        return 0
    calls = 0
    for dtype, layout, (h, w) in itertools.product(
        (torch.float32, torch.bfloat16), LAYOUTS.values(), ((5, 7), (64, 64))
    ):
        x = torch.randn(2, 24, h, w, device=device).to(dtype).to(memory_format=layout)
        ones = torch.ones(24, device=device)
        table = torch.randn(2, 48, device=device)
        group_norm_silu(x, ones, ones, 8, scale_shift=table, residual=x, impl=backend)
        channel_norm(x, ones, impl=backend)
        qkv = torch.randn(1, 3 * 2 * 32, h, w, device=device).to(dtype).to(memory_format=layout)
        linear_attention(qkv, 2, impl=backend)
        calls += 3
        if dtype == torch.float32:
            leaf = x.detach().clone().requires_grad_()
            group_norm_silu_training(leaf, ones, ones, 8, scale_shift=table, impl=backend).sum().backward()
            calls += 1
        else:
            rows, to_out = torch.randn(3 * 2 * 32, 24, device=device), torch.randn(24, 2 * 32, device=device)
            attention_layer(x, ones, rows, to_out, ones, ones, 2, impl=backend)
            stem_conv(x[:, :3], pack_stem_conv(torch.randn(24, 3, 7, 7, device=device), dtype), addend=x, impl=backend)
            wide = torch.randn(2, 32, h, w, device=device).to(dtype).to(memory_format=layout)
            weight, both = (torch.randn(24, channels, 3, 3, device=device) for channels in (32, 64))
            conv3x3(wide, weight, ones, upsample=True, impl=backend)
            conv3x3(wide, both, x_2=wide, impl=backend)
            conv_norm_silu(wide, both, ones, ones, 3, x_2=wide, scale_shift=table, residual=x, impl=backend)
            made: dict[str, Any] = {
                "residual": wide,
                "residual_2": x,
                "res_weight": torch.randn(24, 56, device=device).to(dtype),
            }
            conv_norm_silu(wide, both, ones, ones, 3, x_2=wide, res_bias=ones, **made, impl=backend)
            for side in (1, 4):
                taps = pack_taps(torch.randn(24, 24, side, side, device=device), dtype)
                conv_by_taps(x, taps, bias=ones, stride=2, padding=side // 4, impl=backend)
            calls += 8
    torch.cuda.synchronize()
    return calls


def run_inverse_steps(backend: str, device: torch.device) -> int:
    """Call the steps of DDRM, DDNM and Cold Diffusion that `backend` has, in each dtype; return the number of calls."""
    calls = 0
    numbers = dict.fromkeys(("root_a_t", "sigma_t", "n_0", "n_e", "n_z", "r_0", "r_e", "r_z", "k_y"), 0.5)
    known: dict[str, Any] = {"a_t": 0.3, "a_s": 0.6, "sigma_y": 0.4, "eta": 0.85, "impl": backend}
    for dtype, (b, c, h, w) in itertools.product((torch.float32, torch.bfloat16), SHAPES):
        x = torch.randn(b * c * h * w + 1, device=device).to(dtype)[1:].view(b, c, h, w)
        layers = [torch.rand(rows * h * w + 1, device=device)[1:].view(rows, 1, h, w) for rows in (1, b)]
        layered: dict[str, Any] = {"layer_s": layers[0], "layer_to": layers[1], "impl": backend}
        tacos_step(x, x, kind="mix", numbers=(-1.0, 1.0), x_end=x[:1, :, :1, :1], **layered)
        tacos_step(x, x, kind="mix", numbers=(0.1, 0.2), x_end=x, impl=backend)
        tacos_step(x, x, kind="grey", numbers=(0.1, -0.1), impl=backend)
        tacos_step(x, x, kind="snow", numbers=(0.5, 0.7), **layered)
        calls += 4
        mask = torch.rand(b, h, w, device=device) < 0.5
        for factor, weights in itertools.product({1, math.gcd(h, w)}, (None, [0.3] * c)):
            blocks: dict[str, Any] = {"factor": factor, "weights": weights, "mask": mask, "impl": backend, **numbers}
            range_null_step(x, x, x, seed=3, **blocks)
            range_null_step_(x.clone(), x, x, noise=x, **blocks)
            calls += 2
        if backend != "cuda":  # The CUDA sources hold no spectral step.
            flat = x.flatten(1)
            for s in (torch.rand(1, 1, device=device), torch.rand(flat.shape, device=device)):
                given = {"clean": torch.empty_like(flat), "seed": 3, **known}
                spectral_step_(flat.clone(), flat, flat[:1], s, **given)
                spectral_step_(flat.clone(), flat, flat, s, noise=flat, **known)
                calls += 2
    torch.cuda.synchronize()
    return calls


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backends", nargs="*", metavar="BACKEND", help="these alone: cuda, triton")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("error: there is no CUDA device to check kernels on")
    cuda = torch.device("cuda")
    for name in options.backends or our_backends(cuda):
        calls = run(name, cuda) + run_network_ops(name, cuda) + run_inverse_steps(name, cuda)
        print(f"{name}: {calls} calls")
