"""A small training, for the tests of it, and in several processes for those that start them: see `main`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from small_models import images, small_model
from torch.utils.data import Dataset

from rddm_fast.training.settings import TrainSettings
from rddm_fast.training.trainer import Trainer


class Pairs(Dataset[dict[str, Any]]):
    """Darkened images beside the images, item i from the seed i."""

    def __init__(self, length: int = 1000, masks: bool = False) -> None:
        self.length, self.masks = length, masks

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        target = images(3, 16, 16, seed=index)
        mask = {"mask": (target[:1] > 0.5).float()} if self.masks else {}  # one channel serves all three
        return {"target": target, "input": target * 0.3, "name": str(index), **mask}


def weights(of: Trainer) -> dict[str, torch.Tensor]:
    """What training makes: the model's weights and their average."""
    return {**of.diffusion.state_dict(), **{f"ema.{k}": v for k, v in of.ema.state_dict().items()}}


def main() -> None:
    """Train each objective in FOLDER/OBJECTIVE, whose weights.pt process 0 then writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("objectives", nargs="+")
    parser.add_argument("--settings", type=json.loads, default={})
    options = parser.parse_args()
    settings = TrainSettings(**{"plot": False, **options.settings})
    for objective in options.objectives:
        folder = options.folder / objective
        run = Trainer(small_model(objective), Pairs(), folder, settings)
        run.train()
        if run.accelerator.is_main_process:
            torch.save(weights(run), folder / "weights.pt")


if __name__ == "__main__":
    main()
