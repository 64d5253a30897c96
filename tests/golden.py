"""The recorded results of the published code: where they are, how they are read, and the model that made them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from rddm_fast.compat import ResidualDiffusion, UnetRes

_HERE = Path(__file__).parent
# The whole collection lies beside the project where the project is developed; a clone has a part of it.
GOLDEN_FOLDERS = [f for f in (_HERE.parents[1] / "shared" / "golden", _HERE / "data" / "golden") if f.is_dir()]


@dataclass(frozen=True)
class Golden:
    """One recorded case: what it is (`case`), its tensors, and its network's weights."""

    path: Path
    case: dict[str, Any]

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

    def model(self) -> ResidualDiffusion:
        """The published model of a recorded sample or loss, with its weights."""
        case = self.case
        sees = {"condition": case.get("condition", True), "input_condition": case.get("input_condition", False)}
        network = UnetRes(case["dim"], dim_mults=case["dim_mults"], share_encoder=case["share_encoder"], **sees)
        network.load_state_dict(self.weights)
        return ResidualDiffusion(
            network,
            image_size=32,
            timesteps=case.get("timesteps", 1000),
            sampling_timesteps=case.get("sampling_timesteps"),
            objective=case["objective"],
            loss_type=case.get("loss_type", "l1"),
            ddim_sampling_eta=case.get("eta", 0.0),
            condition=sees["condition"],
            sum_scale=case.get("sum_scale", 1),
        )


def golden_cases(kind: str, below: str = ".") -> list[Any]:
    """All cases of a kind as pytest parameters; each recorded case once, however many folders hold it.

    `below` is the part of the collection: its own folder, or "experiments".
    """
    found: dict[str, Golden] = {}
    for folder in GOLDEN_FOLDERS:
        for path in sorted((folder / below).glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                case = json.loads(file.metadata()["case"])
            if case["kind"] == kind:
                found.setdefault(path.stem, Golden(path, case))
    return [pytest.param(golden, id=name) for name, golden in sorted(found.items())]
