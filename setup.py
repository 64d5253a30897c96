"""Builds the package: works out what can be compiled here, and has CMake (CMakeLists.txt) compile it.

    RDDM_FAST_BUILD=1|0             compile (1, the default), or install Python files alone, whose ops are plain torch
    RDDM_FAST_BUILD_CUDA=auto|0|1   CUDA code if nvcc is found (auto, the default), never, or always
    TORCH_CUDA_ARCH_LIST            what to compile it for, as for PyTorch: "8.0;9.0+PTX"
    CUDACXX, CUDA_HOME, PATH        where nvcc is looked for, in this order
    MAX_JOBS                        how many compilers may run at once

Whether this machine has a GPU makes no difference: a container built without one serves those that do.

The library is no Python module: torch loads it and finds the ops in it. It needs torch's stable ABI and nothing of
Python, so one wheel (py3-none-PLATFORM) serves every version of Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NoReturn

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
LIBRARY = "librddm_fast.so"
"""The compiled library's file name, the same on every system, in the package's folder."""
WITHOUT = "or set RDDM_FAST_BUILD=0 to install without compiled code"
DEFAULT_ARCHITECTURES = "8.0;8.6;8.9;9.0;10.0;12.0+PTX"
OLDEST_NVCC = (12, 0)  # the first with C++20


def fail(sentence: str) -> NoReturn:
    sys.exit(f"rddm_fast: {sentence}")


def wants_library() -> bool:
    """Whether to compile: RDDM_FAST_BUILD."""
    wanted = os.environ.get("RDDM_FAST_BUILD", "1")
    if wanted not in ("0", "1"):
        fail(f"RDDM_FAST_BUILD is {wanted!r}: set it to 1 to compile, or to 0 to install without compiled code")
    return wanted == "1"


def index_page(readme: str) -> str:
    """The README as an index shows it, where nothing relative exists: no pictures, and the texts of the links."""
    relative = r"\((?!https?://|#)[^)\s]+\)"
    without_pictures = re.sub(rf"^!\[[^\]]*\]{relative}\n\n?", "", readme, flags=re.MULTILINE)
    return re.sub(rf"\[([^\]]+)\]{relative}", r"\1", without_pictures)


def parse_architectures(text: str) -> list[str]:
    """PyTorch's spelling of architectures ("8.0;9.0a+PTX", or with spaces) as CMake's (80-real, 90a)."""
    architectures = []
    for entry in re.split(r"[;,\s]+", text.strip(" ;,")):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)
        if match is None:
            fail(f"TORCH_CUDA_ARCH_LIST has {entry!r}: write architectures as 8.0, 9.0a or 12.0+PTX")
        major, minor, feature, ptx = match.groups()
        architectures.append(f"{major}{minor}{feature}" + ("" if ptx else "-real"))
    return architectures


def find_nvcc() -> str | None:
    """The first of CUDACXX, CUDA_HOME's (or CUDA_PATH's) and PATH's nvcc that exists."""
    candidates = [os.environ.get("CUDACXX")]
    for home in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(home):
            candidates.append(str(Path(os.environ[home]) / "bin" / "nvcc"))
    candidates.append("nvcc")
    return next((found for c in candidates if c and (found := shutil.which(c))), None)


def nvcc_answer(nvcc: str, question: str) -> str:
    return subprocess.run([nvcc, question], capture_output=True, text=True, check=False).stdout


def decide_cuda() -> tuple[str | None, list[str], str]:
    """(nvcc or None, the architectures to compile for, why not): the one decision about CUDA code."""
    wanted = os.environ.get("RDDM_FAST_BUILD_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        fail(f"RDDM_FAST_BUILD_CUDA is {wanted!r}: set it to auto, 0 or 1")
    if wanted == "0":
        return None, [], "the package was built with RDDM_FAST_BUILD_CUDA=0"

    nvcc = find_nvcc()
    problem = ""
    if nvcc is None:
        problem = "no nvcc was found (CUDACXX, CUDA_HOME, PATH) when the package was built"
    else:
        version = re.search(r"release (\d+)\.(\d+)", nvcc_answer(nvcc, "--version"))
        if version is None:
            problem = f"{nvcc} did not tell its version when the package was built"
        elif (int(version[1]), int(version[2])) < OLDEST_NVCC:
            problem = f"{nvcc} is CUDA {version[1]}.{version[2]}, and 12.0 is the oldest that compiles C++20"
    if problem:
        if wanted == "1":
            fail(f"RDDM_FAST_BUILD_CUDA=1, but {problem}")
        return None, [], problem

    assert nvcc is not None
    known = set(re.findall(r"sm_(\d+[af]?)", nvcc_answer(nvcc, "--list-gpu-code")))
    chosen = os.environ.get("TORCH_CUDA_ARCH_LIST")
    architectures = parse_architectures(chosen or DEFAULT_ARCHITECTURES)
    unknown = [a for a in architectures if a.removesuffix("-real") not in known]
    if chosen and unknown:
        fail(f"TORCH_CUDA_ARCH_LIST asks for {', '.join(unknown)}, which {nvcc} cannot compile for")
    if unknown:  # an nvcc older than the newest default: PTX of its own newest serves those
        architectures = [a for a in architectures if a not in unknown]
        architectures[-1] = architectures[-1].removesuffix("-real")
    return nvcc, architectures, ""


def torch_paths() -> tuple[str, list[str], Path]:
    """Version, include directories and library directory of the torch to build against."""
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        fail(
            f"torch is needed to build and could not be imported ({error}): install it first, "
            f"then run `pip install --no-build-isolation .`, {WITHOUT}"
        )
    # cpu: the headers of torch and of its C++ API, without those of a CUDA toolkit, which nvcc brings
    return str(torch.__version__), cpp_extension.include_paths("cpu"), Path(torch.__file__).parent / "lib"


class AnyPythonWheel(bdist_wheel):
    """A wheel for every Python 3: py3-none-PLATFORM with the library, py3-none-any without it."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class CMakeBuild(build_ext):
    """Compiles the library with CMake and Ninja, in a directory that the next build takes up again."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")[:-1], LIBRARY))

    def build_extension(self, ext: Extension) -> None:
        nvcc, architectures, why_no_cuda = decide_cuda()
        torch_version, torch_includes, torch_libraries = torch_paths()
        if not (shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")):
            fail(f"no C++ compiler was found: install g++ or clang++, set CXX, {WITHOUT}")
        cmake, ninja = shutil.which("cmake"), shutil.which("ninja")
        if cmake is None or ninja is None:
            fail(f"cmake and ninja are needed to build: `pip install cmake ninja`, {WITHOUT}")
        print(
            f"rddm_fast: compiling CUDA code with {nvcc} for {' '.join(architectures)}"
            if nvcc
            else f"rddm_fast: compiling no CUDA code, because {why_no_cuda}",
            file=sys.stderr,
        )

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = ROOT / "build" / f"cmake-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_MAKE_PROGRAM": ninja,
            "RDDM_CUDA_ARCHITECTURES": ";".join(architectures),
            "RDDM_NVCC_THREADS": jobs,
            "RDDM_WHY_NO_CUDA": why_no_cuda,
            "RDDM_TORCH_VERSION": torch_version,
            "RDDM_TORCH_INCLUDES": ";".join(torch_includes),
            "RDDM_TORCH_LIBRARIES": str(torch_libraries),
        }
        if nvcc:
            options["CMAKE_CUDA_COMPILER"] = nvcc
        configure = [cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja", "--log-level=WARNING"]
        for command in (
            [*configure, *(f"-D{name}={value}" for name, value in options.items())],
            [cmake, "--build", str(build), "--parallel", jobs],
        ):
            if subprocess.run(command, check=False).returncode != 0:
                fail(f"the compilation failed, see above; to repeat it: cmake --build {build}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(build / target.name, target)


class CleanBuildPy(build_py):
    """Starts from nothing, so that a file which has left the sources does not stay in the wheel."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


def main() -> None:
    setup(
        long_description=index_page((ROOT / "README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
        packages=[
            *find_packages(include=["rddm_fast", "rddm_fast.*"]),
            *(
                f"rddm_fast.{name}"
                for name in find_packages(include=["kernels", "kernels.*", "benchmarks", "benchmarks.*"])
            ),
        ],
        package_dir={"rddm_fast.kernels": "kernels", "rddm_fast.benchmarks": "benchmarks"},
        package_data={
            "rddm_fast": [
                "py.typed",
                "images/given/exposure.json",
                "models/NOTICE.md",
                "models/built_in/**",
                "restoration/photos/**",
                "restoration/page/*",
                "serve/page/*",
            ]
        },
        ext_modules=[Extension("rddm_fast.librddm_fast", sources=[])] if wants_library() else [],
        cmdclass={"bdist_wheel": AnyPythonWheel, "build_ext": CMakeBuild, "build_py": CleanBuildPy},
    )


if __name__ == "__main__":
    main()
