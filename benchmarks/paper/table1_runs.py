"""The runs behind Table 1: one training and its scores for each task, sampling method and seed, resumable.

A run has a folder `TASK-METHOD-SEED`, with what `Trainer` writes there and `run.json`: its settings, then the time that
training took, then its scores. A run that has its scores is not done again; one that was cut off goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.fast import FastSampler
from rddm_fast.images.datasets import PhotoPatches
from rddm_fast.images.digits import NATIVE, Digits
from rddm_fast.images.picture import read_image
from rddm_fast.models.folder import load_model
from rddm_fast.restoration.demo import degraded, photographs
from rddm_fast.restoration.metrics import psnr, ssim
from rddm_fast.system.files import write_text_whole
from rddm_fast.theory.objective import Objective
from rddm_fast.theory.schedule import Schedule
from rddm_fast.training.settings import TrainSettings
from rddm_fast.training.trainer import Progress, Trainer

from .table1_digits import HELD_OUT, Judge

METHODS = {"SM-Res": "pred_res", "SM-N": "pred_noise", "SM-Res-N": "pred_res_noise"}
"""The paper's sampling methods, and what their networks predict."""

READINGS = {"SM-Res-N, residual network alone": "res", "SM-Res-N, noise network alone": "noise"}
"""The two networks of SM-Res-N, sampled one at a time: the published `test_res_or_noise`."""


class WorkError(ValueError):
    """The work folder holds a run of other settings."""


@dataclass(frozen=True)
class Plan:
    """What the three methods have in common in one task.

    steps, batch_size, lr: of the optimiser; the rate rises over a tenth of the steps, at most 100, and falls to 0.
    dim, mults: width and stages of each network.
    loss_type: "l1" or "l2".
    sampling_steps: of the sampler, whose eta is 0.
    patch, crop: side of the patches that are trained on and of the centre crops that are measured; of photographs.
    samples: digits that are generated and measured.
    """

    steps: int
    batch_size: int
    mults: tuple[int, ...]
    loss_type: str
    sampling_steps: int
    lr: float = 4e-3
    dim: int = 16
    patch: int = 32
    crop: int = 128
    samples: int = 1000

    def train_settings(self, seed: int) -> TrainSettings:
        warmup = min(100, self.steps // 10)
        return TrainSettings(
            steps=self.steps, batch_size=self.batch_size, lr=self.lr, warmup=warmup, seed=seed, plot=False
        )


RESTORING = Plan(steps=200, batch_size=4, mults=(1, 2, 4), loss_type="l1", sampling_steps=5)
GENERATING = Plan(steps=400, batch_size=32, mults=(1, 2), loss_type="l2", sampling_steps=10)


class Restoration:
    """Restoring the package's photographs, centre crops of what `rddm-fast demo` makes of them.

    The schedule is the deraining experiment's with sum_scale 1, as published; the residual is clamped at its true range
    of 2. `metric` is what the methods are ordered by.
    """

    metric = "psnr"

    def __init__(self, name: str, kind: str, plan: Plan, photos: Sequence[Path]) -> None:
        self.name, self.kind, self.plan, self.photos = name, kind, plan, list(photos)
        truths = [read_image(path).pixels for path in photographs()]
        given = [degraded(truth, kind, 0, number) for number, truth in enumerate(truths)]
        self.truth = torch.stack([_centre(image, plan.crop) for image in truths])
        self.given = torch.stack([_centre(image, plan.crop) for image in given])
        self.baseline = {"degraded input": self._scores(self.given)}
        self.facts: dict[str, Any] = {
            "schedule": "triangular, sum_scale 1",
            "clip_res": 2.0,
            "training_photographs": [path.name for path in self.photos],
            "measured_images": len(self.truth),
        }

    @property
    def about(self) -> str:
        plan = self.plan
        return (
            f"the {len(self.truth)} photographs of the package, degraded by rddm-fast and cropped to their "
            f"central {plan.crop}x{plan.crop} pixels; trained on {plan.patch}x{plan.patch} patches of the "
            f"{len(self.photos)} photographs given; schedule {self.facts['schedule']}, residual clamped to ±2, eta 0."
        )

    def diffusion(self, method: str, reading: str | None = None) -> ResidualDiffusion:
        """The model, with new weights from torch's global generator."""
        return ResidualDiffusion(
            _network(method, self.plan, channels=3, condition=True),
            Schedule.triangular(1000),
            objective=METHODS[method],
            condition=True,
            test_res_or_noise=reading,
            loss_type=self.plan.loss_type,
            sampling_timesteps=self.plan.sampling_steps,
            clip_res=2.0,
        )

    def dataset(self, length: int, seed: int) -> Dataset[dict[str, Any]]:
        return PhotoPatches(self.photos, self.kind, patch=self.plan.patch, length=length, seed=seed, shrink=2.0)

    def scores(self, sampler: FastSampler, seed: int) -> dict[str, float]:
        return self._scores(sampler(self.given, generator=torch.Generator().manual_seed(seed)))

    def _scores(self, images: Tensor) -> dict[str, float]:
        return {"psnr": float(psnr(images, self.truth).mean()), "ssim": float(ssim(images, self.truth).mean())}


class Generation:
    """Generating handwritten digits of 8x8 pixels: I_in = 0, so that I_res = -I_0.

    The schedule is DDIM's linear one by the paper's coefficient transformation.
    """

    metric = "frechet"

    def __init__(self, name: str, plan: Plan) -> None:
        self.name, self.plan, self.judge = name, plan, Judge.trained()
        self.baseline = {"real digits": {"frechet": self.judge.floor, "confidence": self.judge.confidence}}
        self.facts: dict[str, Any] = {
            "schedule": "DDIM linear, transformed",
            "clip_res": 1.0,
            "features": "hidden layer of a classifier of the real digits",
            "classifier_accuracy": self.judge.accuracy,
            "measured_images": plan.samples,
        }

    @property
    def about(self) -> str:
        return (
            f"{self.plan.samples} generated digits of 8x8 pixels against scikit-learn's {len(self.judge.real)} real "
            f"ones, on which the methods were trained. The Fréchet distance is of the {self.facts['features']}, right "
            f"about {self.judge.accuracy:.1%} of {HELD_OUT} held-out digits, and the confidence is that classifier's; "
            "the row of the real digits has the distance between two random halves of them. "
            f"Schedule {self.facts['schedule']}; eta 0."
        )

    def diffusion(self, method: str, reading: str | None = None) -> ResidualDiffusion:
        """The model, with new weights from torch's global generator."""
        return ResidualDiffusion(
            _network(method, self.plan, channels=1),
            Schedule.from_ddim(1000),
            objective=METHODS[method],
            test_res_or_noise=reading,
            loss_type=self.plan.loss_type,
            sampling_timesteps=self.plan.sampling_steps,
            image_size=NATIVE,
        )

    def dataset(self, length: int, seed: int) -> Dataset[dict[str, Any]]:
        return Digits(NATIVE, length=length, seed=seed)

    def scores(self, sampler: FastSampler, seed: int) -> dict[str, float]:
        images = sampler(batch_size=self.plan.samples, generator=torch.Generator().manual_seed(seed))
        return self.judge.scores(images)


Task = Restoration | Generation


def run(
    task: Task, method: str, seed: int, work: Path, report: Callable[[Progress], None] | None = None
) -> dict[str, Any]:
    """Train and measure one method, or read what an earlier call found: the record that run.json holds.

    Its `scores` are by row of the table, for SM-Res-N of READINGS too; `cpu_s_per_step` is of the last call that
    trained, None where that had no step left. Raises WorkError where the folder is of other settings, Interrupted for a
    signal (the next call goes on).
    """
    folder = work / f"{task.name}-{method.lower()}-{seed}"
    file = folder / "run.json"
    settings = json.loads(json.dumps({**asdict(task.plan), **task.facts}))
    record = json.loads(file.read_text()) if file.is_file() else {"settings": settings}
    if record["settings"] != settings:
        raise WorkError(f"{folder} holds a run of other settings: name another --work folder, or remove this one")
    if "scores" in record:
        return record
    folder.mkdir(parents=True, exist_ok=True)
    _write(file, record)
    if "parameters" not in record:
        record |= _train(task, method, seed, folder, report)
        _write(file, record)
    trained = load_model(folder / "model")
    scores = {}
    for row, reading in {method: None, **(READINGS if method == "SM-Res-N" else {})}.items():
        diffusion = task.diffusion(method, reading)
        diffusion.model.load_state_dict(trained.model.state_dict())
        sampler = FastSampler(diffusion, dtype=torch.float32, compile=False, graphs=False)
        scores[row] = task.scores(sampler, seed)
    record["scores"] = scores
    _write(file, record)
    return record


def _train(
    task: Task, method: str, seed: int, folder: Path, report: Callable[[Progress], None] | None
) -> dict[str, Any]:
    settings = task.plan.train_settings(seed)
    torch.manual_seed(seed)
    diffusion = task.diffusion(method)
    dataset = task.dataset(settings.steps * settings.batch_size, seed)
    trainer = Trainer(diffusion, dataset, folder, settings, info={"task": task.name, "method": method})
    steps, started = settings.steps - trainer.step, time.process_time()
    trainer.train(report)
    taken = time.process_time() - started
    return {
        "parameters": sum(parameter.numel() for parameter in diffusion.model.parameters()),
        "cpu_s_per_step": taken / steps if steps else None,
    }


def _network(method: str, plan: Plan, *, channels: int, condition: bool = False) -> ResidualUnets:
    networks = "two" if Objective.parse(METHODS[method]).outputs == 2 else "one"
    return ResidualUnets(plan.dim, networks=networks, dim_mults=plan.mults, channels=channels, condition=condition)


def _write(file: Path, record: dict[str, Any]) -> None:
    write_text_whole(file, json.dumps(record, indent=1) + "\n")


def _centre(image: Tensor, side: int) -> Tensor:
    """The centre of (C, H, W), `side` pixels high and wide; ValueError for a smaller image."""
    height, width = image.shape[1:]
    if side > min(height, width):
        raise ValueError(f"crop is {side}: the smallest photograph is {min(height, width)} pixels, choose at most that")
    top, left = (height - side) // 2, (width - side) // 2
    return image[:, top : top + side, left : left + side]
