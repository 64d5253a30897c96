"""The backends of the ops: the one place where an op is defined and its backend chosen.

| backend   | runs on | what it is                                       |
|-----------|---------|--------------------------------------------------|
| reference | any     | plain torch: the definition of each op           |
| cpp       | cpu     | C++, compiled when the package was built         |
| cuda      | cuda    | CUDA, compiled when the package was built        |
| triton    | cuda    | Triton, compiled on first use                    |

Importing this module loads the compiled library if there is one. It never imports triton and never initialises CUDA.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..system.version import installed_as
from .overlap import check_overlap

BACKENDS = ("reference", "cpp", "cuda", "triton")
PREFERENCE = {"cpu": ("cpp", "reference"), "cuda": ("cuda", "triton")}
"""The backends that an op tries on each type of device, in order, if the caller names none."""

HALVES_CAPABILITY = (8, 0)
"""The least compute capability of a GPU whose matrix units multiply bfloat16, by Triton."""


LIBRARY = Path(__file__).parents[1] / "librddm_fast.so"
"""The compiled library, whatever the system. It is no Python module, and serves every Python."""


class BackendUnavailable(RuntimeError):
    """The backend asked for cannot be used here, or none can; the message says why."""


def _load_compiled() -> tuple[dict[str, Any] | None, str]:
    """Return the compiled library's build information; without a library, None and the reason."""
    if not LIBRARY.exists():
        return None, f"not compiled: this is a {installed_as()}, and `pip install .` in the sources builds the library"
    try:
        torch.ops.load_library(LIBRARY)
    except OSError as error:
        return None, f"compiled, but it could not be loaded: {error.__cause__ or error}"
    return json.loads(torch.ops.rddm_fast.build_info()), ""


def parse_architectures(text: str) -> list[tuple[tuple[int, int], str]]:
    """Parse CMake's list of architectures ("80-real 90a 120") into ((major, minor), kind) pairs."""
    kinds = {"-real": "real", "": "ptx", "-virtual": "ptx"}
    return [
        (divmod(int(number), 10), {"a": "exact", "f": "real"}.get(feature, kinds[kind]))
        for number, feature, kind in re.findall(r"(\d+)([af]?)(-real|-virtual)?", text)
    ]


def covers(architectures: list[tuple[tuple[int, int], str]], capability: tuple[int, int]) -> bool:
    """Return whether code built for `architectures` runs on a device of that capability.

    Machine code ("real") runs on its own major version, from its minor version on. PTX also runs on everything newer.
    Code for an architecture's own features ("exact") runs on that architecture alone.
    """
    for built, kind in architectures:
        same_major = capability[0] == built[0]
        if capability == built or (capability > built and (kind == "ptx" or (kind == "real" and same_major))):
            return True
    return False


library = torch.library.Library("rddm_fast", "DEF")
"""The namespace of the ops. It must exist before the compiled library's kernels are called."""

build_info, why_not_compiled = _load_compiled()
_architectures = parse_architectures(build_info["cuda_architectures"]) if build_info and build_info["cuda"] else []
_has_triton = importlib.util.find_spec("triton") is not None
_has_kernels = importlib.util.find_spec("rddm_fast.kernels") is not None


def why_not(backend: str, device: torch.device) -> str | None:
    """Return why `backend` cannot serve tensors on `device`, or None if it can."""
    if backend == "reference":
        return None
    if backend == "cpp":
        if device.type != "cpu":
            return "it runs on the CPU only"
        return None if build_info else why_not_compiled
    if backend == "cuda":
        return _why_not_cuda(device)
    if backend == "triton":
        return _why_not_triton(device)
    raise ValueError(f"unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}, or None for the best")


def check_compiled() -> None:
    """Raise BackendUnavailable if there is no compiled library, which packs weights."""
    if build_info is None:
        raise BackendUnavailable(f"weights are packed by the compiled library: {why_not_compiled}")


def _why_not_cuda(device: torch.device) -> str | None:
    if build_info is None:
        return why_not_compiled
    if not build_info["cuda"]:
        return f"not compiled: {build_info['why_no_cuda']}"
    if device.type != "cuda":
        return "it runs on CUDA devices only"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    gpu = torch.cuda.get_device_properties(device)
    if not covers(_architectures, (gpu.major, gpu.minor)):
        return f"compiled for {build_info['cuda_architectures']}, and this device is {gpu.major}.{gpu.minor}"
    # The library has a CUDA runtime of its own, which may be newer than torch's and than what the driver serves.
    driver, needed = _driver_version(), int(build_info["nvcc"].split(".")[0])
    if driver is not None and driver < needed:
        return f"compiled by CUDA {needed}, and the driver serves CUDA {driver}: update it, or build by CUDA {driver}"
    return None


def _driver_version() -> int | None:
    """Return the major version of CUDA that the driver serves, or None if it does not say."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:  # Not Linux: there the driver's library has another name.
        return None
    return None if failed else version.value // 1000


def _why_not_triton(device: torch.device) -> str | None:
    if not _has_triton:
        return "triton is not installed"
    if not _has_kernels:
        return "rddm_fast.kernels is not installed: `pip install .` installs it from a source checkout"
    if device.type == "cpu":
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        return None if interpreted else "it runs on CPU tensors only in its interpreter, TRITON_INTERPRET=1"
    if device.type != "cuda":
        return "it runs on CUDA devices only"
    return None if torch.cuda.is_available() else "torch finds no CUDA device"


class Op:
    """An op of this package: `op(impl, device)` is the function that runs it.

    Attributes:
        name: the op's name.
        lacking: the backends for which the op has no kernel.
        capability: the least compute capability of a GPU that runs its Triton kernels.
    """

    def __init__(
        self, name: str, reference: Callable[..., Any], lacking: tuple[str, ...], capability: tuple[int, int]
    ) -> None:
        self.name, self.lacking, self.capability = name, lacking, capability
        compiled = getattr(torch.ops.rddm_fast, name).default
        by_triton = None if "triton" in lacking else getattr(torch.ops.rddm_fast, f"{name}_triton").default
        self.functions = {"reference": reference, "cpp": compiled, "cuda": compiled, "triton": by_triton}
        self._chosen: dict[tuple[str | None, torch.device], Callable[..., Any]] = {}

    def __call__(self, impl: str | None, device: torch.device) -> Callable[..., Any]:
        """Return the function of the backend `impl`, or of the best one for None; raises as `backend` does."""
        if torch.compiler.is_compiling():  # The choice becomes a constant of the graph.
            return self.functions[self.backend(impl, device)]
        key = impl, device
        if key not in self._chosen:
            self._chosen[key] = self.functions[self.backend(impl, device)]
        return self._chosen[key]

    def backend(self, impl: str | None, device: torch.device) -> str:
        """Choose the backend for tensors on `device`: `impl`, or the best one for None.

        Raises:
            BackendUnavailable: no backend can be used; the message gives the reason of each.
        """
        if impl is None and device.type not in PREFERENCE:
            raise BackendUnavailable(
                f"no backend for tensors on {device}: move them to cpu or cuda, or pass impl='reference'"
            )
        reasons = []
        for name in PREFERENCE[device.type] if impl is None else (impl,):
            reason = self.why_not(name, device)
            if reason is None:
                return name
            reasons.append(f"{name}: {reason}")
        advice = "" if impl == "reference" else "; impl='reference' always works"
        raise BackendUnavailable(f"no backend for tensors on {device} ({'; '.join(reasons)}){advice}")

    def best(self, device: torch.device) -> str | None:
        """Return the backend that None chooses for tensors on `device`, or None if there is none."""
        for name in PREFERENCE.get(device.type, ()):
            if self.why_not(name, device) is None:
                return name
        return None

    def why_not(self, backend: str, device: torch.device) -> str | None:
        """Return why `backend` cannot run this op for tensors on `device`, or None if it can."""
        if backend in self.lacking:
            return "this op has no such kernel"
        reason = why_not(backend, device)
        if reason is None and self.capability > (0, 0) and backend == "triton" and device.type == "cuda":
            own = torch.cuda.get_device_capability(device)
            if own < self.capability:
                return "it needs compute capability {}.{}, and this device has {}.{}".format(*self.capability, *own)
        return reason


def _without_overlap(
    name: str, function: Callable[..., Any], arguments: list[Any], same: tuple[str, ...]
) -> Callable[..., Any]:
    """Return `function`, an op that writes in place, with a check that its tensors do not overlap wrongly."""

    @functools.wraps(function)
    def checked(*args: Any) -> Any:
        if not torch.compiler.is_compiling():  # Tracing, there is no memory yet.
            tensors = [(a, x) for a, x in zip(arguments, args, strict=True) if isinstance(x, torch.Tensor)]
            written = {a.name: x for a, x in tensors if a.alias_info is not None and a.alias_info.is_write}
            check_overlap(name, written, {a.name: x for a, x in tensors if a.name not in written}, same)
        return function(*args)

    return checked


OPS: dict[str, Op] = {}
"""The defined ops, by name."""


def define(
    name: str,
    schema: str,
    *,
    reference: Callable[..., Any],
    triton: str | None = None,
    fake: Callable[..., Any] = lambda first, *_: torch.empty_like(first),
    lacking: tuple[str, ...] = (),
    capability: tuple[int, int] = (0, 0),
    same: tuple[str, ...] = (),
) -> Op:
    """Define an op for torch, and return it.

    `rddm_fast::NAME` is the op. Its kernels come from the compiled library. If the library lacks one, the reference
    (CPU) or Triton (CUDA) is registered in its stead. `rddm_fast::NAME_triton` is the same op in Triton alone, for
    GPUs that the library was not compiled for, and for Triton's interpreter on the CPU.

    Args:
        name, schema: the op's name and signature for torch's dispatcher.
        reference: the definition in plain torch, with the schema's arguments.
        triton: the launcher, "FILE:FUNCTION" of rddm_fast.kernels; it is imported at its first call.
        fake: a function that returns an empty result for tracing; by default one like the first argument.
        lacking: "cpp", "cuda" or both: the kernels of this op that the library does not have.
        capability: the least compute capability of a GPU that runs the op's Triton kernels.
        same: the arguments written in place that receive the same values, and may therefore be one tensor.
    """

    def launch(*args: Any) -> Any:
        assert triton is not None
        file, function = triton.split(":")
        return getattr(importlib.import_module(f"rddm_fast.kernels.{file}"), function)(*args)

    if "!" in schema:  # The compiled kernels check by themselves (csrc/common/overlap.h).
        arguments = torch._C.parse_schema(name + schema).arguments
        reference, launch = (_without_overlap(name, function, arguments, same) for function in (reference, launch))
    if triton is None:
        lacking = (*lacking, "triton")
    for op in (name,) if triton is None else (name, f"{name}_triton"):
        library.define(op + schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))
        torch.library.register_fake(f"rddm_fast::{op}", fake, lib=library)
    if build_info is None or "cpp" in lacking:
        library.impl(name, reference, "CPU")
    if build_info is None or not build_info["cuda"] or "cuda" in lacking:
        library.impl(name, reference if triton is None else launch, "CUDA")
    for key in ("CPU", "CUDA") if triton else ():
        library.impl(f"{name}_triton", launch, key)
    OPS[name] = Op(name, reference, lacking, capability)
    return OPS[name]
