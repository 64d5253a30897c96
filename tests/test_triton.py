"""The Triton kernels without a GPU: run by Triton's interpreter, and compiled to machine code for two GPUs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed: pip install 'rddm_fast[test]'")

WORKER = Path(__file__).with_name("triton_worker.py")
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def run(*arguments: str, **environment: str):
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(WORKER), *arguments],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def interpreted():
    return run("interpret", TRITON_INTERPRET="1")


def test_interpreted_kernel_is_as_exact_as_plain_torch(interpreted):
    assert len(interpreted["rows"]) == 7 * 5 * 3  # objectives, pairs of dtypes, steps (each in another layout)
    for row in interpreted["rows"]:
        assert row["error"] <= 2 * row["plain_error"] + row["rounding"], row
        assert row["same_layout"], row


def test_interpreted_kernel_works_in_place(interpreted):
    assert len(interpreted["in_place"]) == 5 * 2 * 2 * 2 * 3 * 3  # pairs, layouts, noises, sizes, steps, results
    for row in interpreted["in_place"]:
        assert row["error"] <= 2 * row["plain_error"] + row["rounding"], row
        assert row["same_layout"], row


def test_interpreted_kernel_treats_nan_and_infinity_as_the_reference(interpreted):
    assert interpreted["non_finite"]


def test_interpreted_forward_diffuse_is_as_exact_as_plain_torch(interpreted):
    assert len(interpreted["diffused"]) == 3 * 3 * 2 * 2  # dtypes, layouts, shapes, kinds of noise
    for row in interpreted["diffused"]:
        assert row["error"] <= 2 * row["plain_error"] + row["rounding"], row
        assert row["same_layout"], row


def test_interpreted_group_norm_silu_is_as_exact_as_plain_torch(interpreted):
    assert len(interpreted["normalised"]) == 3 * 3 * 4 * 2  # dtypes, layouts, shapes, with and without the rest
    for row in interpreted["normalised"]:
        assert row["error"] <= 2 * row["plain_error"] + row["rounding"], row
        assert row["same_layout"], row


def test_interpreted_channel_norm_and_linear_attention_are_as_exact_as_plain_torch(interpreted):
    assert len(interpreted["network_ops"]) == 3 * 3 * (5 + 4)  # dtypes, layouts, shapes of each
    for row in interpreted["network_ops"]:
        assert row["error"] <= 2 * row["plain_error"] + row["rounding"], row
        assert row["same_layout"], row
    assert interpreted["network_ops_non_finite"] and interpreted["folded"] <= 1e-5


def test_interpreted_joint_loss_is_as_exact_as_plain_torch(interpreted):
    assert len(interpreted["losses"]) == 5 * 2 * 2 * (4 * 4 + 3 * 3)  # pairs, losses, noises, results of an objective
    for row in interpreted["losses"]:
        assert row["error"] <= 2 * row["plain_error"] + row["rounding"], row
        assert row["same_layout"], row


def test_interpreted_kernel_draws_the_noise_of_the_reference(interpreted):
    assert interpreted["drawn"] <= 1e-6


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    directory = tmp_path_factory.mktemp("triton")
    return directory, run("compile", str(directory), TRITON_CACHE_DIR=str(directory / "cache"))


def test_every_access_in_ptx_is_128_bits(compiled):
    directory, rows = compiled
    rows = [row for row in rows if "inputs" in row]
    # architectures times (pairs of dtypes, or dtypes, times forms of each kernel)
    assert len(rows) == 2 * (5 * 4 * 2 + 3 * 2 + 5 * 2)
    for row in rows:
        ptx = (directory / f"{row['name']}.ptx").read_text()
        accesses = re.findall(r"\b(ld|st)\.global\S*?\.(v4\.b32|\S+)", ptx)
        loads, stores = ([width for kind, width in accesses if kind == k] for k in ("ld", "st"))
        wide_loads, wide_stores = loads.count("v4.b32"), stores.count("v4.b32")
        assert wide_loads >= row["inputs"] and wide_stores >= 1, (row, accesses)
        assert len(loads) - wide_loads == row["scalar_loads"], (row, accesses)
        assert len(stores) - wide_stores == row["scalar_stores"], (row, accesses)


def test_machine_code_has_128_bit_accesses_and_no_spills(compiled):
    directory, rows = compiled
    for row in rows:
        cubin = str(directory / f"{row['name']}.cubin")
        sass = subprocess.run([CUOBJDUMP, "-sass", cubin], capture_output=True, text=True, check=True).stdout
        accesses = re.findall(r"\b(?:LDG|LDGSTS|STG)\.\S+", sass)
        usage = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True
        ).stdout
        stack, local = re.search(r"STACK:(\d+).*LOCAL:(\d+)", usage).groups()
        assert (int(stack), int(local)) == (0, 0), usage
        assert not re.search(r"\b(?:LDL|STL)\b", sass), row
        if "kernel" in row:  # a network's, which also read or write a few numbers of each channel or piece
            wanted = {"statistics": {"LDG"}, "context": {"LDG"}, "combine": set()}.get(row["kernel"], {"LDG", "STG"})
            assert {access[:3] for access in accesses if ".128" in access} == wanted, (row, accesses)
            continue
        narrow = [access[:3] for access in accesses if ".128" not in access]
        assert narrow.count("LDG") == row["scalar_loads"], (row, accesses)
        assert narrow.count("STG") == row["scalar_stores"] and len(accesses) > len(narrow), (row, accesses)
