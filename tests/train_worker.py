"""A small training for the tests; run as a program, it is one process of several (`main`)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from small_models import images, small_model
from torch.nn import Module
from torch.utils.data import Dataset

from rddm_fast.training.settings import TrainSettings
from rddm_fast.training.trainer import Trainer

SETTINGS = TrainSettings(steps=8, batch_size=2, warmup=2, lr=1e-3, ema_decay=0.9, plot=False)


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


def trainer(folder: Path, settings: TrainSettings = SETTINGS, model: str | Module = "pred_res") -> Trainer:
    """A training on pairs of a model, or of a small one for an objective."""
    model = small_model(model, clip_res=2.0) if isinstance(model, str) else model
    return Trainer(model, Pairs(), folder, settings, info={"task": "test"})


def trained(folder: Path, settings: TrainSettings = SETTINGS, model: str | Module = "pred_res") -> Trainer:
    """The same, trained to its end."""
    run = trainer(folder, settings, model)
    run.train()
    return run


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
        run = trained(folder, settings, small_model(objective))
        if run.accelerator.is_main_process:
            torch.save(weights(run), folder / "weights.pt")


if __name__ == "__main__":
    main()
