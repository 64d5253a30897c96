"""The CUDA kernels' sources, compiled for the host, against the tests of the CPU ops.

Indices, tails, alignment, barriers and the reduction are the kernels' own, and a machine without a GPU would otherwise
never run them. What a host cannot show are the caches' and the warps' real order; compute-sanitizer is for those.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
OPS = ("reverse_step", "forward_diffuse", "joint_loss", "range_null_step", "tacos_step")
LAUNCHES = {"reverse_step": 1, "forward_diffuse": 1, "joint_loss": 2, "range_null_step": 2, "tacos_step": 1}
# A misaligned access is an error on a GPU too; here it ends the process.
FLAGS = [
    "-std=c++20",
    "-O1",
    "-fPIC",
    "-fvisibility=hidden",
    "-fsanitize=alignment,bounds",
    "-fsanitize-undefined-trap-on-error",
]
DEFINED = ["-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000"]


def for_the_host(source: str) -> str:
    """A .cu file as C++: its launches spelt as operators, and its ops registered for the CPU."""
    source = source.replace("<<<", " | on_host::Grid(").replace(">>>(", ")(")
    source = source.replace("torch::stable::accelerator::DeviceGuard", "on_host::DeviceGuard")
    return source.replace("(rddm_fast, CUDA, m)", "(rddm_fast, CPU, m)")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda_on_host")
    for op in OPS:
        source = (CSRC / op / f"{op}.cu").read_text()
        assert source.count("<<<") == LAUNCHES[op]
        (folder / f"{op}.cpp").write_text(for_the_host(source))
    compiler = os.environ.get("CXX", "c++")
    ours = ["-I", str(HERE / "cuda_on_host"), "-I", str(CSRC)]
    torchs = [flag for path in cpp_extension.include_paths("cpu") for flag in ("-isystem", path)]

    def compiled(source: Path) -> str:
        target = str(folder / f"{source.stem}.o")
        command = [compiler, *FLAGS, *DEFINED, *ours, *torchs, "-c", str(source), "-o", target]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(
            pool.map(compiled, [*(folder / f"{op}.cpp" for op in OPS), HERE / "cuda_on_host" / "runtime.cpp"])
        )
    target = folder / "cuda_on_host.so"
    libraries = ["-L", str(Path(torch.__file__).parent / "lib"), "-ltorch", "-ltorch_cpu"]
    subprocess.run([compiler, "-shared", "-Wl,-Bsymbolic", *objects, "-o", str(target), *libraries], check=True)
    return target


def launches_and_passed(library: Path, plugin: str, without: str, tests: list[str]) -> tuple[int, int]:
    """Run `tests` in a process of their own, in which the CPU's ops are replaced."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", plugin, "-p", "no:cacheprovider", "-k", f"not ({without})"]
    path = os.pathsep.join(filter(None, (str(HERE / "cuda_on_host"), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [*command, *tests],
        cwd=HERE,
        env={**os.environ, "RDDM_CUDA_ON_HOST": str(library), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    launches, passed = (re.search(pattern, done.stdout) for pattern in (r"launches: (\d+)", r"(\d+) passed"))
    return int(launches[1]), int(passed[1])


def test_the_cpu_ops_tests_pass_on_the_cuda_kernels(library: Path) -> None:
    tests = [next(HERE.rglob(f"test_{op}.py")) for op in (*OPS, "reverse_step_in_place")]
    tests.append(HERE / "cuda_on_host" / "what_differs.py")
    # What is not the kernels' business, and what differs on a CUDA device: see the last file.
    without = "opcheck or compile or graph or mistakes or importing or inductor or refuses"
    without += " or index_that_the_table or two_gradients_and_nothing or beside_float64"  # There is no CUDA in float64.
    without += " or gpu"  # this grid is the next test's
    launches, passed = launches_and_passed(library, "plugin", without, tests)
    assert passed > 400 and launches > 10_000


def test_the_gpu_s_own_tests_pass_too(library: Path) -> None:
    """Those of ops; graphs, streams and the sampler's defaults are a GPU's."""
    without = "triton or captured or graphs or bfloat16"
    without += " or attention_layer or conv"  # in Triton alone, in dtypes that the CPU's kernels do not have
    launches, passed = launches_and_passed(library, "pretend_gpu", without, ["test_gpu.py"])
    assert passed > 10 and launches > 300
