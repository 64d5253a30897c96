"""What can run the ops here, and which of it does: the one place where a backend is chosen.

| backend   | runs on | what it is                                       |
|-----------|---------|--------------------------------------------------|
| reference | any     | plain torch: the definition of each op           |
| cpp       | cpu     | C++, compiled when the package was built         |
| cuda      | cuda    | CUDA, compiled when the package was built        |
| triton    | cuda    | Triton, compiled on first use                    |

Importing this module loads the compiled library where there is one. It never imports triton and never
initialises CUDA.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BACKENDS = ("reference", "cpp", "cuda", "triton")
PREFERENCE = {"cpu": ("cpp", "reference"), "cuda": ("cuda", "triton")}
"""Device type to the backends that an op tries, in order, where the caller names none."""


class BackendUnavailable(RuntimeError):
    """The backend that was asked for, or every one that could serve a device, is not there; says why."""


def _load_compiled() -> tuple[dict[str, Any] | None, str]:
    """What the compiled library was built with, or None and the reason that there is none to use."""
    try:
        from rddm_fast import _C  # type: ignore[attr-defined]
    except ImportError as error:
        if importlib.util.find_spec("rddm_fast._C") is None:
            return None, "not compiled: this is a source checkout, and `pip install .` builds the library"
        return None, f"compiled, but it could not be loaded: {error}"
    return _C.build_info(), ""


def parse_architectures(text: str) -> list[tuple[tuple[int, int], str]]:
    """CMake's spelling of architectures ("80-real 90a 120") as ((major, minor), kind) pairs."""
    kinds = {"-real": "real", "": "ptx", "-virtual": "ptx"}
    return [
        (divmod(int(number), 10), {"a": "exact", "f": "real"}.get(feature, kinds[kind]))
        for number, feature, kind in re.findall(r"(\d+)([af]?)(-real|-virtual)?", text)
    ]


def covers(architectures: list[tuple[tuple[int, int], str]], capability: tuple[int, int]) -> bool:
    """Whether code built for `architectures` runs on a device of that capability.

    Machine code ("real") runs on its own major version from its minor version on, PTX on everything newer
    too, and code for an architecture's own features ("exact") on that one alone.
    """
    for built, kind in architectures:
        same_major = capability[0] == built[0]
        if capability == built or (capability > built and (kind == "ptx" or (kind == "real" and same_major))):
            return True
    return False


library = torch.library.Library("rddm_fast", "DEF")
"""Where the ops are defined. It must exist before the compiled library's kernels are called."""

build_info, why_not_compiled = _load_compiled()
_architectures = parse_architectures(build_info["cuda_architectures"]) if build_info and build_info["cuda"] else []
_has_triton = importlib.util.find_spec("triton") is not None
_has_kernels = importlib.util.find_spec("rddm_fast.kernels") is not None


def why_not(backend: str, device: torch.device) -> str | None:
    """The reason that `backend` cannot serve tensors on `device`, or None where it can."""
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
    return None


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


_chosen: dict[tuple[str | None, torch.device, tuple[str, ...]], str] = {}


def choose(impl: str | None, device: torch.device, lacking: tuple[str, ...] = ()) -> str:
    """The backend to use for tensors on `device`: `impl` if it is there, or the best one for None.

    `lacking` are the backends that the op was not written for. Raises BackendUnavailable, with the reasons, where there
    is none.
    """
    if torch.compiler.is_compiling():  # traced, the choice is a constant of the graph
        return _choose(impl, device, lacking)
    key = impl, device, lacking
    if key not in _chosen:
        _chosen[key] = _choose(impl, device, lacking)
    return _chosen[key]


def _choose(impl: str | None, device: torch.device, lacking: tuple[str, ...]) -> str:
    if impl is None and device.type not in PREFERENCE:
        raise BackendUnavailable(
            f"no backend for tensors on {device}: move them to cpu or cuda, or pass impl='reference'"
        )
    reasons = []
    for backend in PREFERENCE[device.type] if impl is None else (impl,):
        reason = "this op has no such kernel" if backend in lacking else why_not(backend, device)
        if reason is None:
            return backend
        reasons.append(f"{backend}: {reason}")
    advice = "" if impl == "reference" else "; impl='reference' always works"
    raise BackendUnavailable(f"no backend for tensors on {device} ({'; '.join(reasons)}){advice}")


_DETACH = "call it under torch.no_grad(), detach its inputs, or pass impl='reference', which is differentiable"


def define(
    name: str,
    schema: str,
    *,
    reference: Callable[..., Any],
    triton: Callable[..., Any],
    fake: Callable[..., Any],
    lacking: tuple[str, ...] = (),
) -> None:
    """Define an op with all that torch should know of it.

    `rddm_fast::NAME` is the op; its CPU and CUDA kernels are the compiled library's where that has them (`lacking`
    names those of "cpp" and "cuda" that it has not), else the reference and Triton. `rddm_fast::NAME_triton` is the
    same op held to Triton, for the devices that the library has no code for, and for Triton's interpreter on the CPU.
    """
    for op in (name, f"{name}_triton"):
        library.define(op + schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))
        torch.library.register_fake(f"rddm_fast::{op}", fake, lib=library)
    if build_info is None or "cpp" in lacking:
        library.impl(name, reference, "CPU")
    if build_info is None or not build_info["cuda"] or "cuda" in lacking:
        library.impl(name, triton, "CUDA")
    for key in ("CPU", "CUDA"):
        library.impl(f"{name}_triton", triton, key)


def check_no_gradient(op: str, *tensors: Tensor | None, advice: str = _DETACH) -> None:
    """Raise RuntimeError where a gradient through `op` would be needed, which has none."""
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        raise RuntimeError(f"{op} has no gradient: {advice}")
