"""conv3x3's Triton kernel without a GPU: each tile interpreted, and compiled to machine code for two GPUs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed: pip install 'rddm_fast[test]'")
from rddm_fast.kernels.networks.conv3x3_tiles import CANDIDATES, Gpu, Site, Tile, depth_for, launch_config  # noqa: E402

HERE = Path(__file__).parent
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
Worker = subprocess.Popen[str]


def start(*arguments: str, **environment: str) -> Worker:
    path = (str(HERE.parent), str(HERE.parent / "ops"), os.environ.get("PYTHONPATH"))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.Popen(
        [sys.executable, str(HERE / "conv3x3_worker.py"), *arguments],
        env=inherited | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def found(worker: Worker) -> Any:
    out, errors = worker.communicate()
    assert worker.returncode == 0, errors
    return json.loads(out)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Worker, Worker]]:
    """The compiler and the interpreter at once."""
    directory = tmp_path_factory.mktemp("conv3x3")
    compiler = start(str(directory), TRITON_CACHE_DIR=str(directory / "cache"))
    interpreter = start(TRITON_INTERPRET="1")
    yield directory, compiler, interpreter
    for worker in (compiler, interpreter):
        worker.kill()
        worker.wait()


@pytest.fixture(scope="module")
def interpreted(workers: tuple[Path, Worker, Worker]) -> dict[str, Any]:
    return found(workers[2])


def test_every_tile_and_any_shape_is_as_exact_as_torch(interpreted: dict[str, Any]) -> None:
    assert interpreted["tiles"] == len(CANDIDATES)


def test_the_op_passes_opcheck_and_packs_what_is_not_packed(interpreted: dict[str, Any]) -> None:
    assert interpreted["bits_of_the_op"]


def test_no_images_give_no_images(interpreted: dict[str, Any]) -> None:
    assert interpreted["nothing"] == [[0, 8, 8, 8], [1, 8, 0, 8], [1, 8, 8, 0]]


def test_mistakes_are_named(interpreted: dict[str, Any]) -> None:
    channels = "conv3x3 by Triton takes images of a multiple of 16 channels to a multiple of 8, not"
    packed = (
        "and must be torch.float16 of shape (72, 16): pass pack_conv3x3_taps(weight, torch.float16, upsample=False)"
    )
    assert interpreted["mistakes"] == [
        f"{channels} 12 to 8: use torch's convolution",
        f"{channels} 16 to 4: use torch's convolution",
        f"packed is torch.float16 of shape (128, 16), {packed}",
        f"packed is torch.bfloat16 of shape (72, 16), {packed}",
        "x_2 is torch.float16 (1, 16, 3, 4) beside x of torch.float16 (1, 16, 4, 4)",
        "x_2 is torch.bfloat16 (1, 16, 4, 4) beside x of torch.float16 (1, 16, 4, 4)",
        "bias must be float32 of shape (8,), not torch.float16 (8,)",
    ]


def machine_code(cubin: Path) -> str:
    """Its instructions, then its registers, stack and local memory."""
    command = [CUOBJDUMP, "-sass", "--dump-resource-usage", cubin]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_machine_code_has_matrix_instructions_asynchronous_copies_and_no_spills(
    workers: tuple[Path, Worker, Worker],
) -> None:
    directory, rows = workers[0], found(workers[1])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        printed = list(pool.map(machine_code, [directory / f"{row['name']}.cubin" for row in rows]))
    assert [row["capability"] for row in rows].count(90) == 2 * len(CANDIDATES)
    for row, sass in zip(rows, printed, strict=True):
        stack, local = re.search(r"STACK:(\d+).*LOCAL:(\d+)", sass).groups()
        assert stack == local == "0" and not re.search(r"\b(?:LDL|STL)\b", sass), row
        product, copy = ("HGMMA", "UTMALDG") if row["capability"] == 90 else ("HMMA", "LDGSTS")
        assert re.search(rf"\b{product}\b", sass) and re.search(rf"\b{copy}\b", sass), row
        assert re.search(r"\bSTG\.\S*\.128\b", sass), row
        if row["capability"] == 90:  # Both factors stay in shared memory.
            assert not re.search(r"\bLDSM\b", sass), row


def test_the_depth_is_a_power_of_2_that_divides_all_channels() -> None:
    assert [depth_for(c) for c in (16, 48, 64, 96, 512)] == [16, 16, 64, 32, 64]
    assert depth_for(128, 48) == 16 and depth_for(128, 64) == 64 and depth_for(128, 64, most=32) == 32


H200, A100 = Gpu(), Gpu(108, 163 << 10, described=False)


@pytest.mark.parametrize("gpu", [H200, A100])
@pytest.mark.parametrize("batch", [1, 16])
def test_a_tile_fits_the_device_and_the_larger_batch_has_no_smaller_one(gpu: Gpu, batch: int) -> None:
    for channels, side in ((64, 256), (128, 128), (256, 64), (512, 32)):
        tile = launch_config(Site((batch, channels, side, side), channels), gpu)
        assert tile in CANDIDATES and tile.shared_bytes <= gpu.shared_bytes
        one = launch_config(Site((1, channels, side, side), channels), gpu)
        assert tile.pixels * tile.channels >= one.pixels * one.channels


def test_small_images_have_enough_programs() -> None:
    """64 x 64 results of 512 channels take 128 of 132 multiprocessors only in the smallest squares."""
    tile: Tile = launch_config(Site((1, 512, 32, 32), 512))
    assert 1024 // tile.pixels * (512 // tile.channels) == 128
