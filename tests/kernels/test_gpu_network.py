"""The networks as a GPU runs them in half precision, without a GPU: their modules, ops and images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rddm_fast.benchmarks import roofline

pytest.importorskip("triton", reason="triton is not installed: pip install 'rddm_fast[test]'")

HERE = Path(__file__).parent
COPIES = (
    *("cat", "index_select", "convolution", "convolution_3x3", "addmm", "add", "add_", "upsample_nearest2d"),
    *("native_group_norm", "silu", "clone", "_to_copy"),
)
"""Torch's ops that an evaluation does without."""


def started(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a script in `workers` whose kernels are interpreted."""
    path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    command = [sys.executable, str(HERE / "workers" / script), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def workers() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Triton's interpreter runs both kinds of networks at once."""
    running = {networks: started("gpu_network_worker.py", networks) for networks in ("two", "shared", "narrow")}
    yield running
    for worker in running.values():
        worker.kill()
        worker.wait()


@pytest.fixture(scope="module", params=["two", "shared"])
def found(request: pytest.FixtureRequest, workers: dict[str, subprocess.Popen[str]]) -> Any:
    worker = workers[request.param]
    out, errors = worker.communicate()
    assert worker.returncode == 0, errors
    return json.loads(out)


def test_its_images_lose_no_more_than_those_of_torch_in_float16(found: dict[str, Any]) -> None:
    for ours, plain in zip(found["lost"], found["lost_by_plain"], strict=True):
        assert ours <= 2 * plain <= 4e-3


def test_parts_that_do_not_divide_into_tiles_are_one_image(workers: dict[str, subprocess.Popen[str]]) -> None:
    out, errors = workers["narrow"].communicate()
    assert workers["narrow"].returncode == 0, errors
    narrow = json.loads(out)
    assert narrow["called"][0]["aten.cat"] > 0 and narrow["kinds"]["ImplicitConv2d"] > 0
    assert narrow["lost"][0] <= 2 * narrow["lost_by_plain"][0] <= 4e-3


def test_its_modules_are_those_of_a_gpu(found: dict[str, Any]) -> None:
    kinds = found["kinds"]
    for kind in ("AttentionLayer", "ImplicitConv2d", "ResidualAttention", "ResidualProduct", "StemConv", "TapConv2d"):
        assert kinds[kind] > 0, kind
    for kind in ("Conv2d", "Upsample", "PixelsFirstLinearAttention", "PackedConv2d", "TiledConv2d", "PixelProducts"):
        assert kinds.get(kind, 0) == 0, kind


def test_an_evaluation_calls_each_of_our_ops_as_often_as_the_network_needs_it(found: dict[str, Any]) -> None:
    ours = [
        {name: count for name, count in called.items() if name.startswith("rddm_fast.")} for called in found["called"]
    ]
    assert ours == found["expected"]


def test_how_many_kernels_an_evaluation_and_an_image_launch() -> None:
    """The roofline's kernels are those that are launched; of an image they were 1416 when a GPU last ran it."""
    worker = started("launches_worker.py")
    out, errors = worker.communicate()
    assert worker.returncode == 0, errors
    launches = json.loads(out)
    evaluation, image = (sum(launches[name].values()) for name in ("evaluation", "image"))
    assert evaluation == sum(kernel.calls for kernel in roofline.evaluation(256, 1)) == 114
    assert image == 10 * evaluation + 14
    assert launches["evaluation"]["mm"] == 1  # queries, keys and values
    assert not launches["evaluation"].keys() & {*COPIES, "copy_"}


def test_an_evaluation_copies_and_convolves_nothing_that_our_ops_take(found: dict[str, Any]) -> None:
    for called in found["called"]:
        for name in COPIES:
            assert called.get(f"aten.{name}", 0) == 0, name


def test_each_layer_is_computed_in_the_way_that_was_measured() -> None:
    worker = started("tuning_worker.py")
    out, errors = worker.communicate()
    assert worker.returncode == 0, errors
    found = json.loads(out)
    # Tiles and torch's convolution for 3x3, ours and torch's for other convolutions; none was wrong.
    ways = {title: names for title, (names, left_out) in found["entries"].items() if not left_out}
    assert len(ways) == len(found["entries"]) == 12
    for title, names in ways.items():
        assert len(names) == (4 if "3x3" in title else 2) and names[-1] in ("torch's", "norms and products one by one")
    for name in ("second", "last"):
        assert found[name]["lost"][0] <= 2e-3
    # The second of the likely tiles, for all of these small images.
    second, last = found["second"]["called"], found["last"]["called"]
    assert found["second"]["tiles"] == [ways["3x3 of 16 to 16 channels, float16"][1]] and found["last"]["tiles"] == []
    assert second["rddm_fast.conv_norm_silu_triton"] == last["rddm_fast.group_norm_silu_triton"] == 22
    assert "aten.convolution_3x3" not in second and last["aten.convolution_3x3"] == 25
    for ours in ("conv_norm_silu", "conv3x3", "conv_by_taps", "attention_layer"):
        assert f"rddm_fast.{ours}_triton" not in last
