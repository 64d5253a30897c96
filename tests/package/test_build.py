"""What was built, and how the build answers where something is missing."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sass
import torch
from commands import python

from rddm_fast.ops import backends

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("rddm_fast_setup", ROOT / "setup.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

KERNELS = {"reverse_step": 7 * 5, "forward_diffuse": 3, "joint_loss": 7 * 5}  # objectives times pairs of dtypes; dtypes
KERNELS |= {"range_null_pixels": 5, "range_null_blocks": 2 * 5}  # pairs of dtypes; of tiles that are read once or twice
KERNELS |= {"tacos_step": 3 * 3, "joint_loss_backward": 3}  # kinds times dtypes; dtypes


def output_of(*command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def library():
    if not backends.LIBRARY.exists():
        pytest.skip(backends.why_not_compiled)
    return backends.LIBRARY


@pytest.fixture(scope="module")
def cuda_library(library):
    """The library, where it has CUDA code. It must have some wherever nvcc is."""
    if not backends.build_info["cuda"]:
        assert build.find_nvcc() is None, "nvcc is here, but the library was built without CUDA code"
        pytest.skip(f"the library has no CUDA code: {backends.build_info['why_no_cuda']}")
    return library


@pytest.fixture(scope="module")
def cuobjdump():
    beside_nvcc = Path(os.path.realpath(build.find_nvcc() or "nvcc")).with_name("cuobjdump")
    triton = importlib.util.find_spec("triton")
    bundled = Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump" if triton else beside_nvcc
    found = next((str(p) for p in (beside_nvcc, bundled) if p.exists()), shutil.which("cuobjdump"))
    if found is None:
        pytest.skip("no cuobjdump: neither beside nvcc, nor in triton, nor in PATH")
    return found


def built_for():
    return re.findall(r"\d+[af]?", backends.build_info["cuda_architectures"])


def test_every_default_architecture_is_built(cuda_library):
    if os.environ.get("TORCH_CUDA_ARCH_LIST"):
        pytest.skip("TORCH_CUDA_ARCH_LIST asks for other architectures")
    assert built_for() == ["80", "86", "89", "90", "100", "120"]
    assert backends.build_info["cuda_architectures"].endswith(" 120"), "the newest one needs PTX as well"


def test_no_kernel_spills_or_has_a_stack(cuda_library, cuobjdump):
    usage = output_of(cuobjdump, "--dump-resource-usage", cuda_library)
    _, *by_architecture = re.split(r"^arch = sm_(\d+)", usage, flags=re.MULTILINE)
    found = 0
    for architecture, printed in zip(by_architecture[::2], by_architecture[1::2], strict=True):
        for name, registers, stack, local in re.findall(
            r"Function (\S*_kernel\S*):\s+REG:(\d+) STACK:(\d+).*?LOCAL:(\d+)", printed
        ):
            found += 1
            assert (int(stack), int(local)) == (0, 0), (architecture, name)
            # 3 blocks of 256 threads fit a multiprocessor's registers; 2 of range_null_step's tiles that are read
            # twice, and of losses of two outputs on Ampere and Ada.
            two_blocks = "range_null_blocks_kernelILb0" in name or (
                int(architecture) < 90 and re.search("joint_loss_kernelILNS_9ObjectiveE[0-3]E", name)
            )
            assert int(registers) <= (128 if two_blocks else 80), (architecture, name)
    assert found == sum(KERNELS.values()) * len(built_for())


@pytest.mark.parametrize("architecture", ["80", "90"])
def test_every_kernel_has_128_bit_accesses(cuda_library, cuobjdump, architecture):
    if architecture not in built_for():
        pytest.skip(f"the library was not built for sm_{architecture}")
    sass = output_of(cuobjdump, "-sass", "-arch", f"sm_{architecture}", cuda_library)
    kernels = re.split(r"\n\s*Function : ", sass)[1:]
    for op, count in KERNELS.items():
        assert sum(f"{op}_kernel" in code.partition("\n")[0] for code in kernels) == count
    for code in kernels:
        name, _, body = code.partition("\n")
        assert re.search(r"\bLDG\.E\.128\b", body), name
        assert re.search(r"\bSTG\.E\.128\b", body), name
        assert not re.search(r"\b(LDL|STL)\b", body), name


@pytest.fixture(scope="module")
def h100_code(cuda_library, cuobjdump):
    """The instructions of each kernel for sm_90, by its mangled name."""
    if "90" not in built_for():
        pytest.skip("the library was not built for sm_90")
    return dict(sass.kernels(output_of(cuobjdump, "-sass", "-arch", "sm_90", cuda_library)))


# Of one dtype throughout: the kernel, its 128-bit loads and stores of 8 elements, and the most
# instructions an element where the noise is in the order of the memory, and where the image is channels-last.
FORWARD, REVERSE = round(12 * sass.PER_BYTE), round(16 * sass.PER_BYTE)  # what float32's bytes give time for
DRAWING = [
    ("forward_diffuse_kernelIfE", 4, 2, FORWARD, FORWARD),
    ("forward_diffuse_kernelIN3c108BFloat16EE", 2, 1, 60, 84),
    ("reverse_step_kernelILNS_9ObjectiveE0EffE", 8, 2, REVERSE, REVERSE),
    ("reverse_step_kernelILNS_9ObjectiveE0EN3c108BFloat16ES4_E", 4, 1, 90, 114),
]


def ways_of(code, kernel, loads, stores):
    """A kernel's instructions for 8 elements where it has noise stored, draws in order, and draws by pixels."""
    instructions = next(instructions for name, instructions in code.items() if kernel in name)
    for roots, barriers, exchanged in ((0, 0, 0), (4, 0, 0), (4, 1, 8)):
        marks = {r"MUFU\.(SQRT|RSQ)": roots, r"BAR\.SYNC": barriers, r"\bSTS\b": exchanged}
        marks |= {r"LDG\.E\.128": loads + stores, r"STG\.E\.128": stores}
        yield sass.shortest_way(instructions, marks)


@pytest.mark.parametrize(("kernel", "loads", "stores", "in_order", "by_pixels"), DRAWING)
def test_drawing_noise_takes_few_instructions(h100_code, kernel, loads, stores, in_order, by_pixels):
    """In float32 fewer than the memory gives time for; 2-byte images move less than Philox's instructions take."""
    _, ordered, pixels = ways_of(h100_code, kernel, loads, stores)
    assert ordered is not None and len(ordered) / 8 <= in_order
    assert pixels is not None and len(pixels) / 8 <= by_pixels
    assert not any("CALL" in text for text in ordered + pixels), "a slow path, of a division or a root"


@pytest.mark.parametrize(("kernel", "loads", "stores"), [row[:3] for row in DRAWING])
def test_all_loads_are_in_flight_at_once(h100_code, kernel, loads, stores):
    """Half-precision reverse_step took each load's words apart before the next load: 59 % of a copy's rate."""
    for way in ways_of(h100_code, kernel, loads, stores):
        assert way is not None and sass.values_read_between_loads(way) == []
        loaded, drawn = ([i for i, text in enumerate(way) if mark in text] for mark in ("LDG.E.128", "MUFU.SQRT"))
        assert max(loaded) < min(drawn, default=len(way)), "the images are loaded only after noise is drawn"


def test_only_the_stable_abi_is_needed(library):
    """No symbol of c10:: or at::, whose names and layouts change from one torch to the next."""
    symbols = output_of("nm", "-D", "--undefined-only", library)
    assert "torch_call_dispatcher" in symbols
    unstable = re.findall(r"\S*(?:_ZNK?3c10|_ZNK?2at|_ZTI?N?3c10|_ZNK?5torch)\S*", symbols)
    assert unstable == []


def test_what_only_cuda_torch_has_is_a_weak_reference(cuda_library):
    symbols = output_of("nm", "-D", "--undefined-only", cuda_library)
    kinds = dict(re.findall(r"(\w) (aoti_torch_get_current_cuda_stream|torch_c10_cuda_\w+)", symbols))
    assert set(kinds) == {"w"}


def test_no_symbol_of_python_is_needed(library):
    """The wheel's tag says so: py3-none."""
    symbols = output_of("nm", "-D", "--undefined-only", library)
    assert not re.search(r"\b_?Py[A-Z_]", symbols)


def test_a_cuda_build_loads_under_any_torch(tmp_path):
    """With every symbol resolved at once, as on hardened systems; this machine's torch may be CPU-only."""
    check = "from rddm_fast.ops import backends; print(backends.build_info['stable_abi_target'])"
    # Not in the repository, whose rddm_fast has no compiled library.
    done = python("-c", check, env={**os.environ, "LD_BIND_NOW": "1"}, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "2.11\n"), done.stderr


def test_kernel_attributes_or_why_not():
    if torch.cuda.is_available() and backends.build_info["cuda"]:
        kernels = json.loads(torch.ops.rddm_fast.kernel_attributes())
        assert len(kernels) == sum(KERNELS.values())
        for kernel in kernels:
            two_outputs = re.match("joint_loss, objective [0-3],", kernel["kernel"])
            least = 2 if two_outputs and torch.cuda.get_device_capability() < (9, 0) else 3
            assert kernel["local_bytes"] == 0 and kernel["blocks_per_sm"] >= least, kernel
    else:
        with pytest.raises(RuntimeError, match="no kernel attributes: "):
            torch.ops.rddm_fast.kernel_attributes()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8.0", ["80-real"]),
        ("8.0;9.0+PTX", ["80-real", "90"]),
        ("9.0a", ["90a-real"]),
        ("9.0a+PTX", ["90a"]),
        ("8.0 8.6, 12.0+PTX;", ["80-real", "86-real", "120"]),
        (build.DEFAULT_ARCHITECTURES, ["80-real", "86-real", "89-real", "90-real", "100-real", "120"]),
    ],
)
def test_architectures_are_parsed(text, expected):
    assert build.parse_architectures(text) == expected


@pytest.mark.parametrize("text", ["80", "Hopper", "8.0;;PTX", "9.0b"])
def test_other_spellings_of_architectures_are_refused(text):
    with pytest.raises(SystemExit, match=r"write architectures as 8\.0, 9\.0a or 12\.0"):
        build.parse_architectures(text)


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        ("80-real", (8, 0), True),
        ("80-real", (8, 9), True),
        ("86-real", (8, 0), False),
        ("80-real", (9, 0), False),
        ("80-real 120", (12, 1), True),
        ("80-real 90", (10, 0), True),
        ("120", (9, 0), False),
        ("90a-real", (9, 0), True),
        ("90a", (10, 0), False),
        ("100f-real", (10, 3), True),
        ("100f-real", (11, 0), False),
    ],
)
def test_which_devices_an_architecture_serves(built, capability, runs):
    assert backends.covers(backends.parse_architectures(built), capability) is runs


def hide_nvcc(monkeypatch, tmp_path):
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def fake_nvcc(path, version="release 13.0, V13.0.88", codes="sm_80 sm_86 sm_89 sm_90"):
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" || echo "{codes}"\n')
    path.chmod(0o755)
    return str(path)


def test_without_nvcc_auto_builds_none_and_1_is_an_error(monkeypatch, tmp_path):
    hide_nvcc(monkeypatch, tmp_path)
    monkeypatch.delenv("RDDM_FAST_BUILD_CUDA", raising=False)
    nvcc, architectures, why = build.decide_cuda()
    assert (nvcc, architectures) == (None, []) and why.startswith("no nvcc was found")
    monkeypatch.setenv("RDDM_FAST_BUILD_CUDA", "1")
    with pytest.raises(SystemExit, match="RDDM_FAST_BUILD_CUDA=1, but no nvcc was found"):
        build.decide_cuda()


def test_other_answers_about_cuda(monkeypatch, tmp_path):
    hide_nvcc(monkeypatch, tmp_path)
    monkeypatch.setenv("RDDM_FAST_BUILD_CUDA", "yes")
    with pytest.raises(SystemExit, match="RDDM_FAST_BUILD_CUDA is 'yes': set it to auto, 0 or 1"):
        build.decide_cuda()
    monkeypatch.setenv("RDDM_FAST_BUILD_CUDA", "0")
    assert build.decide_cuda()[0] is None
    monkeypatch.setenv("RDDM_FAST_BUILD_CUDA", "1")
    monkeypatch.setenv("CUDACXX", fake_nvcc(tmp_path / "old", version="release 11.8, V11.8.89"))
    with pytest.raises(SystemExit, match=r"is CUDA 11\.8, and 12\.0 is the oldest"):
        build.decide_cuda()


def test_architectures_follow_nvcc_and_the_environment(monkeypatch, tmp_path):
    hide_nvcc(monkeypatch, tmp_path)
    monkeypatch.setenv("RDDM_FAST_BUILD_CUDA", "1")
    (tmp_path / "bin").mkdir()
    nvcc = fake_nvcc(tmp_path / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    # An nvcc that does not know the newest default architectures compiles PTX for the newest it knows.
    assert build.decide_cuda() == (nvcc, ["80-real", "86-real", "89-real", "90"], "")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0+PTX")
    assert build.decide_cuda() == (nvcc, ["90"], "")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "10.0")
    with pytest.raises(SystemExit, match=r"asks for 100-real, which .* cannot compile for"):
        build.decide_cuda()


def test_without_torch_one_sentence_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match=r"torch is needed to build .* `pip install --no-build-isolation \.`"):
        build.torch_paths()


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"RDDM_FAST_BUILD_CUDA": "1"}, "RDDM_FAST_BUILD_CUDA=1, but no nvcc was found"),
        ({"RDDM_FAST_BUILD_CUDA": "0", "CXX": "no-such-compiler"}, "no C++ compiler was found"),
    ],
)
def test_a_build_that_cannot_be_says_so_in_one_sentence(tmp_path, environment, sentence):
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), **environment}
    done = python("setup.py", "-q", "build_ext", "--build-lib", tmp_path, cwd=ROOT, env=environment)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"rddm_fast: {sentence}"), done.stderr
    assert "Traceback" not in done.stderr
