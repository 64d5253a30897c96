"""The GPU benchmark of conv3x3: it times the published network's convolutions, and checks what it times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("triton", reason="triton is not installed: pip install 'rddm_fast[test]'")
from rddm_fast.benchmarks.ops.conv3x3_gpu import Row, Shape, published, summary
from rddm_fast.diffusion.unet import Unet


def test_the_shapes_are_those_of_the_published_network() -> None:
    found: Counter[tuple[int, int, int]] = Counter()  # input channels, output channels, side of the result
    with torch.device("meta"):
        network = Unet(64, condition=True, channels=3)
        for conv in network.modules():
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
                conv.register_forward_hook(
                    lambda conv, _, y: found.update([(conv.in_channels, conv.out_channels, y.shape[-1])])
                )
        network(torch.zeros(1, 6, 256, 256), torch.zeros(1))
    timed: Counter[tuple[int, int, int]] = Counter()
    for shape in published(1):
        side = shape.side * (2 if shape.upsample else 1)
        timed[shape.channels + shape.second, shape.out_channels, side] += shape.calls
    assert timed == found


def test_the_rates_are_of_a_direct_convolution() -> None:
    plain, enlarged = Shape(1, 64, 64, 64, 256, False, 3), Shape(1, 64, 64, 64, 128, True, 3)
    assert plain.gflop == enlarged.gflop == pytest.approx(2e-9 * 9 * 128 * 64 * 256**2)
    assert str(plain) == "1 x 64+64 -> 64 @ 256" and str(enlarged) == "1 x 64+64 -> 64 @ 128 to 256"


def row(shape: str, provider: str, us: float, calls: int = 2) -> Row:
    return Row(shape, calls, provider, "", us, us, us, 1.0, 1.0, 0.0)


def test_the_summary_adds_up_one_batch() -> None:
    rows = [row("1 x a", "cuDNN", 30.0), row("1 x a", "cuDNN alone", 1.0), row("1 x a", "ours", 20.0)]
    rows += [row("1 x a", "tile 3", 10.0), row("1 x b", "cuDNN", 5.0), row("1 x b", "ours", 6.0)]
    rows += [row("16 x a", "cuDNN", 1e6)]
    assert summary(rows, 1).endswith("cuDNN 0.070 ms, ours 0.052, by the best tile of each 0.032")


def test_it_runs_and_reports_what_is_wrong(tmp_path: Path) -> None:
    """In Triton's interpreter, for small shapes: one tile is wrong, and one raises an error."""
    file = tmp_path / "rows.json"
    script = f"""
import torch
from pathlib import Path
import rddm_fast.benchmarks.ops.conv3x3_gpu as bench
from rddm_fast.kernels.networks.conv3x3_tiles import CANDIDATES

def kernel(*args, only_compile=False, **options):
    tile = args[-1]
    if tile == CANDIDATES[8] and not only_compile:
        raise RuntimeError("out of resources")
    y = original(*args, only_compile=only_compile, **options)
    return (1.1 * y[0], None) if tile == CANDIDATES[9] else y

original, bench.conv3x3_by_tile = bench.conv3x3_by_tile, kernel
bench.CANDIDATES = CANDIDATES[8:11]
bench.published = lambda batch: [bench.Shape(2, 16, 16, 8, 3, True, 2)]
options = dict(quick=True, candidates=True, repeats=2, compilers=2, seconds=60.0)
bench.run(torch.device("cpu"), file=Path({str(file)!r}), **options)
bench.run(torch.device("cpu"), file=None, **{{**options, "seconds": 0.0}})
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    # From another folder: the checkout's sources, which are not installed, would come first.
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())
    assert [r["provider"] for r in rows] == ["cuDNN", "cuDNN alone", "ours", "tile 2"]
    assert all(r["error"] < 4e-3 and r["us_p20"] <= r["us_p50"] <= r["us_p80"] for r in rows)
    assert (
        "! 2 x 16+16 -> 8 @ 3 to 6: tile 0 (" in done.stdout and "raises RuntimeError: out of resources" in done.stdout
    )
    assert "! 2 x 16+16 -> 8 @ 3 to 6: tile 1 (" in done.stdout and "is off by" in done.stdout
    assert "! 2 x 16+16 -> 8 @ 3 to 6: left out after 0 s" in done.stdout
