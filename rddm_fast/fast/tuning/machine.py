"""What a measurement holds for: the device and the versions of what computes on it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from pathlib import Path

import torch

from ...ops import backends
from ...system.portable.cache import cache_folder
from ...system.portable.processor import processor
from ...system.version import __version__


def machine(device: torch.device) -> dict[str, str]:
    """Describe a device and its software. A measurement on one machine says nothing about another."""
    software = {"torch": torch.__version__, "rddm_fast": __version__}
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        hardware = {
            "device": found.name,
            "capability": f"{found.major}.{found.minor}",
            "driver": str(torch._C._cuda_getDriverVersion()),  # type: ignore[attr-defined]
            "triton": _triton(),
        }
        return {**hardware, **software}
    built = backends.build_info or {"instruction_sets": ["none"], "amx": False}
    vectors = f"{built['instruction_sets'][-1]}{' and amx' if built['amx'] else ''}"
    return {"device": processor(), "compiled for": vectors, **software}


def _triton() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def table_path(device: torch.device, found: dict[str, str]) -> Path:
    """Return the file in the cache folder that holds the measurements of a device, which `machine` found."""
    name = re.sub(r"[^a-z0-9]+", "-", found["device"].lower()).strip("-")
    mark = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:8]
    return cache_folder() / "choices" / f"{device.type}-{name}-{mark}.json"
