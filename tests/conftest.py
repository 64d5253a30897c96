"""Where the recorded results of the published code are, and how they are read."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

_HERE = Path(__file__).parent
sys.path.append(str(_HERE))  # the tests' own helpers
# The whole collection lies beside the project where the project is developed; a clone has a part of it.
GOLDEN_FOLDERS = [f for f in (_HERE.parents[1] / "shared" / "golden", _HERE / "data" / "golden") if f.is_dir()]


@dataclass(frozen=True)
class Golden:
    """One recorded case: what it is (`case`), its tensors, and its network's weights."""

    path: Path
    case: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path)

    @property
    def weights(self) -> dict[str, Tensor]:
        return load_file(self.path.parent / self.case["weights"])

    def numbered(self, name: str) -> list[Tensor]:
        """The tensors `name_0`, `name_1`, … in order."""
        tensors = self.tensors
        count = sum(key.startswith(f"{name}_") and key[len(name) + 1 :].isdigit() for key in tensors)
        return [tensors[f"{name}_{i}"] for i in range(count)]


def golden_cases(kind: str) -> list[Any]:
    """All cases of a kind as pytest parameters; each recorded case once, however many folders hold it."""
    found: dict[str, Golden] = {}
    for folder in GOLDEN_FOLDERS:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                case = json.loads(file.metadata()["case"])
            if case["kind"] == kind:
                found.setdefault(path.stem, Golden(path, case))
    return [pytest.param(golden, id=name) for name, golden in sorted(found.items())]


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)
