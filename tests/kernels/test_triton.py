"""The Triton kernels without a GPU: run by Triton's interpreter, and compiled to machine code for two GPUs."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed: pip install 'rddm_fast[test]'")

HERE = Path(__file__).parent
TESTS = HERE.parent  # the workers use the ops' grids
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
# Bytes of stack. Triton 3.7 and 3.9 (those of torch 2.12 and 2.15) put a number of one float32 kernel there.
SPILLED = 0 if triton.__version__.startswith("3.6.") else 8


def start(name: str, *arguments: str, **environment: str) -> subprocess.Popen:
    # An empty entry would be the current folder, and with it the sources that are not compiled.
    path = (str(TESTS), str(TESTS / "ops"), os.environ.get("PYTHONPATH"))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.Popen(
        [sys.executable, str(HERE / name), *arguments],
        env=inherited | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def found(worker: subprocess.Popen):
    out, errors = worker.communicate()
    assert worker.returncode == 0, errors
    return json.loads(out)


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """The interpreter and the compiler at once: each takes half a minute of one core."""
    directory = tmp_path_factory.mktemp("triton")
    compiler = start("triton_compile.py", str(directory), TRITON_CACHE_DIR=str(directory / "cache"))
    interpreter = start("triton_interpret.py", TRITON_INTERPRET="1")
    yield directory, compiler, interpreter
    for worker in (compiler, interpreter):
        worker.kill()
        worker.wait()


@pytest.fixture(scope="module")
def interpreted(workers):
    return found(workers[2])


RESULTS = {
    "reverse_step": 7 * 5 * 4,  # objectives, pairs of dtypes, steps (each in another layout)
    "reverse_step_": 5 * 2 * 2 * 2 * 4 * 3,  # pairs, layouts, noises, sizes, steps, results
    "forward_diffuse": 3 * 3 * 2 * 2,  # dtypes, layouts, shapes, kinds of noise
    "joint_loss": 5 * 2 * 2 * (4 * 4 + 3 * 3),  # pairs, losses, noises, results per objective
    "range_null_step": 5 * 7,  # pairs, kinds of P
    "range_null_step_": 5 * 7,
    "group_norm_silu": 3 * 3 * 4 * 2,  # dtypes, layouts, shapes, with and without residual
    "channel_norm": 3 * 3 * 5,  # dtypes, layouts, shapes
    "linear_attention": 3 * 3 * 4,
    "attention_layer": 2 * 2 * 4,  # dtypes, layouts, shapes
    "stem_conv": 2 * 2 * 4,  # dtypes, forms, shapes
    "conv_norm_silu": 2 * 3 * 3,  # dtypes, forms, shapes
    "conv_by_taps": 2 * 2 * 5,  # dtypes, forms, shapes
    "conv3x3": 2 * 2 * 3,  # dtypes, plain and enlarged, shapes
    "spectral_step_": 3 * 2 * 2 * 3 * 2,  # dtypes, shapes, noises, steps in turn, results
    "tacos_step": 12 * 3 * 2,  # forms of a degradation, dtypes, shapes
    "walsh_hadamard": 4 * 9,  # dtypes, shapes
}


@pytest.mark.parametrize("op", RESULTS)
def test_interpreted_kernel_is_as_exact_as_plain_torch(interpreted, op):
    assert interpreted[op] == {"judged": RESULTS[op], "failed": []}


def test_interpreted_kernels_treat_nan_and_infinity_as_the_references(interpreted):
    assert interpreted["non_finite"] and interpreted["network_ops_non_finite"]


def test_interpreted_steps_are_those_that_diffuir_recorded(interpreted):
    assert interpreted["diffuir"] <= 1e-5


def test_interpreted_norm_has_the_gradients_of_the_published_modules(interpreted):
    assert interpreted["gradients"]


def test_interpreted_linear_attention_serves_the_folded_module(interpreted):
    assert interpreted["folded"] <= 1e-5


def test_interpreted_kernel_draws_the_noise_of_the_reference(interpreted):
    assert interpreted["drawn"] <= 1e-6


@pytest.fixture(scope="module")
def compiled(workers):
    directory, compiler, _ = workers
    return directory, found(compiler)


def test_every_access_in_ptx_is_128_bits(compiled):
    directory, rows = compiled
    rows = [row for row in rows if "inputs" in row]
    # architectures times (pairs of dtypes, or dtypes, times forms of each kernel)
    assert len(rows) == 2 * (5 * 4 * 2 + 3 * 4 + 5 * 2 + 3 + 3 * 6)
    for row in rows:
        ptx = (directory / f"{row['name']}.ptx").read_text()
        accesses = re.findall(r"\b(ld|st)\.global\S*?\.(v4\.b32|\S+)", ptx)
        loads, stores = ([width for kind, width in accesses if kind == k] for k in ("ld", "st"))
        wide_loads, wide_stores = loads.count("v4.b32"), stores.count("v4.b32")
        assert wide_loads >= row["inputs"] and wide_stores >= 1, (row, accesses)
        assert len(loads) - wide_loads == row["scalar_loads"], (row, accesses)
        assert len(stores) - wide_stores == row["scalar_stores"], (row, accesses)


def test_range_null_step_reads_its_tile_once(compiled):
    """All lines of a masked grey block of 4 × 4 pixels are there at once: the loops over them are gone."""
    directory, rows = compiled
    names = [row["name"] for row in rows if "range_null_step-4" in row["name"]]
    assert len(names) == 2 * 5 * 2  # architectures, pairs of dtypes, stored and drawn
    for name in names:
        assert not re.search(r"\bbra\b", (directory / f"{name}.ptx").read_text()), name


def machine_code(cubin: Path) -> str:
    """Its instructions, then its registers, stack and local memory."""
    command = [CUOBJDUMP, "-sass", "--dump-resource-usage", cubin]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_machine_code_has_128_bit_accesses_and_no_spills(compiled):
    directory, rows = compiled
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        printed = list(pool.map(machine_code, [directory / f"{row['name']}.cubin" for row in rows]))
    for row, sass in zip(rows, printed, strict=True):
        accesses = re.findall(r"\b(?:LDG|LDGSTS|STG)\.\S+", sass)
        stack, local = re.search(r"STACK:(\d+).*LOCAL:(\d+)", sass).groups()
        assert int(stack) <= SPILLED and int(local) == 0, row
        assert SPILLED or not re.search(r"\b(?:LDL|STL)\b", sass), row
        if "kernel" in row:  # The networks' kernels also read or write a few numbers per channel or piece.
            wanted = {
                "statistics": {"LDG"},
                "context": {"LDG"},
                "gradient_sums": {"LDG"},
                "conv_to_colours": {"LDG"},
                "combine": set(),
                "layer_combine": set(),
                "means": set(),
                "join_pieces": {"LDG"},
                "layer_context": {"LDG"},
            }.get(row["kernel"], {"LDG", "STG"})
            assert {access[:3] for access in accesses if ".128" in access} == wanted, (row, accesses)
            continue
        narrow = [access[:3] for access in accesses if ".128" not in access]
        assert narrow.count("LDG") == row["scalar_loads"], (row, accesses)
        assert narrow.count("STG") == row["scalar_stores"] and len(accesses) > len(narrow), (row, accesses)
