"""Is generation path-independent? Digits from two models: rddm-fast bench paths [--work FOLDER].

Two models of two small networks are trained on the same digits in the same way, one with alpha_bar T and beta_bar T as
its networks' times (the paper's path-independent experiment), one with t. Both are then sampled along every order,
under schedules most of which neither was trained on. For the second model such paths define no t; its networks get the
t whose own coefficient is nearest.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.path_figure import SCHEDULES, PathRow, distances, draw_rows, path_rows
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.images.digits import Digits
from rddm_fast.models.folder import load_model
from rddm_fast.system.files import write_text_whole
from rddm_fast.theory.schedule import Schedule
from rddm_fast.theory.steps import ORDERS
from rddm_fast.training.settings import TrainSettings
from rddm_fast.training.trainer import Progress, Trainer

SIDE = 16


def trained(folder: Path, path_independent: bool, settings: TrainSettings) -> ResidualDiffusion:
    """Return the model in `folder`; train it, or finish its training, if needed."""
    torch.manual_seed(settings.seed)
    diffusion = ResidualDiffusion(
        ResidualUnets(16, dim_mults=[1, 2], channels=1, networks="two"),
        Schedule.from_ddim(1000),
        objective="pred_res_noise",
        path_independent=path_independent,
        loss_type="l2",
        sampling_timesteps=10,
        image_size=SIDE,
    )
    digits = Digits(SIDE, length=settings.steps * settings.batch_size, seed=settings.seed)
    trainer = Trainer(diffusion, digits, folder, settings, {"task": "digits"})

    def report(p: Progress) -> None:
        if p.step % 200 == 0:
            print(f"{folder}: step {p.step}, loss {p.loss:.4f}, {p.images_per_second:.0f} images/s", flush=True)

    model = trainer.train(report)
    return load_model(model)


class AtNearestTime(nn.Module):
    """Networks trained on t, called with coefficients: each gets the t whose own coefficient is nearest."""

    def __init__(self, diffusion: ResidualDiffusion) -> None:
        super().__init__()
        self.networks, self.T = diffusion.model, diffusion.num_timesteps
        self.curves = [diffusion.alphas_cumsum, diffusion.betas_cumsum]
        self.members, self.channels, self.self_condition = diffusion.model.members, diffusion.channels, False

    def forward(self, x: Tensor, times: list[Tensor], x_self_cond: None, only: tuple[int, ...]) -> list[Tensor]:
        nearest = [(c - t[0] / self.T).abs().argmin().expand(len(x)) for c, t in zip(self.curves, times, strict=True)]
        return self.networks(x, nearest, x_self_cond, only=only)


def measured(diffusion: ResidualDiffusion, count: int) -> tuple[list[PathRow], dict[str, float]]:
    rows = path_rows(diffusion, SCHEDULES[1:], ORDERS, count=count)
    paths, seeds = distances(rows)
    return rows, {"between_paths": paths, "between_seeds": seeds, "ratio": paths / seeds}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("build/paths-digits"), help="folder of the trainings, which resume there"
    )
    parser.add_argument("--output", "-o", type=Path, default=Path("paths-digits"), metavar="STEM")
    parser.add_argument("--steps", type=int, default=700, help="of training")
    options = parser.parse_args(arguments)
    settings = TrainSettings(steps=options.steps, batch_size=32, lr=2e-3, ema_decay=0.995, plot=False)
    found: dict[str, object] = {"settings": asdict(settings), "torch": torch.__version__}
    for name, path_independent in (("coefficients", True), ("t", False)):
        diffusion = trained(options.work / name, path_independent, settings)
        if not path_independent:
            diffusion.model, diffusion.path_independent = AtNearestTime(diffusion), True
        rows, numbers = measured(diffusion, 24)
        found[name] = numbers
        print(f"times: {name}: {numbers}")
        shown = [PathRow(row.schedule, row.order, row.images[:10]) for row in rows]
        draw_rows(options.output.with_name(f"{options.output.name}-{name}.png"), shown)
    write_text_whole(options.output.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
