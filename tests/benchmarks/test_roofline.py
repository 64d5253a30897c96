"""The roofline counts what the published network computes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rddm_fast.benchmarks.roofline import GPUS, evaluation, image_ms
from rddm_fast.diffusion.unet import LinearAttention, Unet

ROOT = Path(__file__).parents[2]


def test_it_has_each_convolution_norm_and_attention_of_the_published_network() -> None:
    found: Counter[tuple[int, int, int]] = Counter()
    seen = Counter[str]()

    def convolved(module: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        if module.kernel_size == (3, 3):
            found[module.in_channels, module.out_channels, output.shape[-1]] += 1

    unet = Unet(64, condition=True).to("meta")
    for module in unet.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(convolved)
        elif isinstance(module, nn.GroupNorm | LinearAttention):
            seen[type(module).__name__] += 1
    unet(torch.zeros(1, 6, 256, 256, device="meta"), torch.zeros(1, device="meta"))

    kernels = evaluation(256, 1)
    ours: Counter[tuple[int, int, int]] = Counter()
    for kernel in kernels:
        if match := re.match(r"3x3 (\d+) -> (\d+).* @ (\d+)$", kernel.layer):
            channels, out, side = (int(number) for number in match.groups())
            ours[channels, out, side] += kernel.calls
            taps = 4 if "enlarged" in kernel.layer else 9
            assert kernel.flop == 2 * taps * side**2 * channels * out
    assert ours == found and found.total() == 43
    norms = sum(k.calls for k in kernels if k.layer.startswith("norm")) - 1  # the attention's
    assert norms == seen["GroupNorm"] == 38
    assert sum(k.calls for k in kernels if "context" in k.layer) == seen["LinearAttention"] == 8


def test_bounds_follow_the_sizes() -> None:
    """Twice the pixels take twice the products; no layer is modelled below its floor; a faster device is faster."""
    small, large = (sum(k.calls * k.flop for k in evaluation(side, 1) if k.layer[:3] == "3x3") for side in (128, 256))
    assert large == pytest.approx(4 * small)
    for gpu in GPUS.values():
        assert all(k.alone_us(gpu) > k.floor_us(gpu) for batch in (1, 16) for k in evaluation(256, batch))
    times = [image_ms(evaluation(256, 1), GPUS[name], 5, 2) for name in ("h200", "a100", "4090")]
    assert times == sorted(times) and times[0] < 9.5


def test_the_command_prints_the_model_beside_what_was_measured() -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "benchmarks.roofline", *options]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    done = run("--gpu", "h200", "--measured", "benchmarks/results/h200/sampler.json")
    assert done.returncode == 0 and "1.8 us" in done.stdout, done.stderr
    model, best = (float(re.search(rf"{name}.*?([\d.]+) ms", done.stdout)[1]) for name in ("model,", "measured on"))  # type: ignore[index]
    assert 0.7 * best <= model <= 1.3 * best
    assert "--size must be a multiple of 8" in run("--gpu", "h100", "--size", "100").stderr
