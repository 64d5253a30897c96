"""Report what is installed and compiled, and which backend each op uses: `python -m rddm_fast.ops.env_report`.

The report is made to be pasted into an issue. It names a missing package instead of failing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from typing import Any

import torch

from ..system.version import installed_as
from . import backends

PACKAGES = (
    *("rddm_fast", "torch", "triton", "numpy"),
    *("pillow", "opencv-python-headless", "safetensors", "typer", "rich"),
    *("accelerate", "torchmetrics", "matplotlib", "nvidia-ml-py", "torchvision"),
)


def report() -> dict[str, Any]:
    """Return the whole report as dicts, lists, strings and numbers, ready for JSON."""
    return {
        "versions": versions(),
        "installed as": installed_as(),
        "compiled": compiled(),
        "backends": {
            name: {kind: served_by(op, torch.device(kind)) for kind in ("cpu", "cuda")}
            for name, op in backends.OPS.items()
        },
        "gpus": gpus(),
    }


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of each package; None for a package that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    found["torch CUDA"] = torch.version.cuda
    return found


def compiled() -> dict[str, Any]:
    """Return what the compiled library was built with and for, or why there is no library."""
    return backends.build_info or {"none": backends.why_not_compiled}


def served_by(op: backends.Op, device: torch.device) -> dict[str, Any]:
    """Return the backend that an op uses on `device` (None if no backend can), and why the others cannot be used.

    "reference" on a CPU means plain torch.
    """
    reasons = {name: op.why_not(name, device) for name in backends.BACKENDS}
    used = op.best(device)
    why_not = {name: reason or "only where it is asked for by name" for name, reason in reasons.items()}
    return {"used": used, "others": {name: why for name, why in why_not.items() if name != used}}


def gpus() -> list[dict[str, Any]] | str:
    """Return name, driver, memory and clocks of each NVIDIA GPU, or one sentence that says why they are unknown."""
    try:
        import pynvml
    except ImportError:
        return "unknown: nvidia-ml-py is not installed (pip install 'rddm_fast[bench]')"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"none: {error}"
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        return [_gpu(pynvml, pynvml.nvmlDeviceGetHandleByIndex(i), driver) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        return f"unknown: {error}"
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, handle: Any, driver: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": _text(nvml.nvmlDeviceGetName(handle)), "driver": driver}
    queries = {
        "compute capability": lambda: ".".join(map(str, nvml.nvmlDeviceGetCudaComputeCapability(handle))),
        "memory MiB": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total >> 20,
        "SM clock MHz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "largest SM clock MHz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory clock MHz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
    }
    for name, query in queries.items():
        try:
            entry[name] = query()
        except nvml.NVMLError as error:  # Some devices do not answer every question.
            entry[name] = f"unknown: {error}"
    return entry


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def formatted(found: dict[str, Any]) -> str:
    """Return the report as plain text."""
    lines = ["versions"]
    lines += [f"  {name:24} {version or '-'}" for name, version in found["versions"].items()]
    lines += [f"installed as {found['installed as']}", "compiled library"]
    lines += [f"  {name:24} {value}" for name, value in found["compiled"].items()]
    for op, devices in found["backends"].items():
        for kind, choice in devices.items():
            lines.append(f"{op} on {kind}: {choice['used'] or 'no backend'}")
            lines += [f"  not {name:9} {why}" for name, why in choice["others"].items()]
    lines += ["GPUs"]
    if isinstance(found["gpus"], str):
        lines.append(f"  {found['gpus']}")
    else:
        for gpu in found["gpus"]:
            lines.append("  " + ", ".join(f"{name}: {value}" for name, value in gpu.items()))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Print the report; with `--json`, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m rddm_fast.ops.env_report", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    found = report()
    print(json.dumps(found, indent=2) if parser.parse_args(argv).json else formatted(found))


if __name__ == "__main__":
    main()
