"""The paper's Table 1 on a small scale: SM-Res, SM-N and SM-Res-N, trained alike on the same real images.

    rddm-fast bench table1 --photos FOLDER [--tasks digits,derain,lowlight] [--steps 200] [--digits-steps 400]
        [--seeds 2] [--dim 16] [--work build/table1] [-o table1]

`--photos` holds photographs to train on; `python -m rddm_fast.images.photographs FOLDER` gathers some. The package's
own photographs are restored and measured. table1.json, table1.csv and table1.md are written after each task. Each run,
of one task, method and seed, has a folder in the work folder; the same command resumes there after it was cut off.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.fast import FastSampler
from rddm_fast.images.digits import NATIVE
from rddm_fast.images.find import find_images
from rddm_fast.images.picture import read_image
from rddm_fast.models.folder import load_model
from rddm_fast.restoration.demo import DEGRADATIONS, degraded, photographs
from rddm_fast.restoration.metrics import psnr, ssim
from rddm_fast.system.files import write_text_whole
from rddm_fast.training.from_settings import trainer_of
from rddm_fast.training.settings import RunSettings
from rddm_fast.training.trainer import Interrupted, Progress

from ..findings import write_csv
from ..timing import machine
from .table1_digits import HELD_OUT, Judge

METHODS = {"SM-Res": "pred_res", "SM-N": "pred_noise", "SM-Res-N": "pred_res_noise"}
"""The paper's sampling methods, and what their networks predict."""

READINGS = {"SM-Res-N, residual network alone": "res", "SM-Res-N, noise network alone": "noise"}
"""The two networks of SM-Res-N, sampled one at a time: the published `test_res_or_noise`."""

TITLES = {"digits": "Generation of digits", "derain": "Deraining", "lowlight": "Low light"}
METRICS = {"frechet": ("Fréchet ↓", 2), "confidence": ("confidence ↑", 3), "psnr": ("PSNR ↑", 2), "ssim": ("SSIM ↑", 3)}
"""Title and decimals of each metric. The methods are ordered by the first metric of a task."""

CLAIMS: dict[str, dict[str, tuple[tuple[str, str, float], ...]]] = {
    "psnr": {
        "SM-N is the worst": (("SM-Res", "SM-N", 0.0), ("SM-Res-N", "SM-N", 0.0)),
        "SM-Res is the best or within 1 dB of SM-Res-N": (("SM-Res", "SM-Res-N", 1.0),),
    },
    "frechet": {"SM-Res is the worst": (("SM-N", "SM-Res", 0.0), ("SM-Res-N", "SM-Res", 0.0))},
}
"""What the paper's table shows of restoration and of generation, as (better, worse, how much worse is still better)."""

Scores = dict[str, float]


@dataclass(frozen=True)
class Task:
    """One task, and what all its runs have in common.

    settings: of the training, by sections of `RunSettings`.
    photos: the folder of photographs to train on, if the task needs any.
    facts: what else the scores depend on, recorded with each run as the settings are.
    about: how the images are made and measured, for the report.
    baseline: scores of what no method made.
    measure: scores the images of a sampler, drawn from a seed.
    """

    name: str
    settings: dict[str, dict[str, Any]]
    photos: str | None
    facts: dict[str, Any]
    about: str
    baseline: dict[str, Scores]
    measure: Callable[[FastSampler, int], Scores]


def _train_settings(steps: int, batch_size: int) -> dict[str, Any]:
    return {"steps": steps, "batch_size": batch_size, "lr": 4e-3, "warmup": min(100, steps // 10), "plot": False}


def restoration(name: str, options: argparse.Namespace) -> Task:
    """Restore the package's photographs: centre crops of what `rddm-fast demo` makes of them.

    The schedule is the deraining experiment's with sum_scale 1, as published. The residual is clamped to its true range
    of ±2.
    """
    if options.photos is None:
        raise ValueError(f"{name} needs photographs to train on: pass --photos FOLDER, or leave it out of --tasks")
    kind, photos, crop = DEGRADATIONS[name], [path.name for path in find_images(options.photos)], options.crop
    whole = [read_image(path).pixels for path in photographs()]
    given = torch.stack([_centre(degraded(image, kind, 0, i), crop) for i, image in enumerate(whole)])
    truth = torch.stack([_centre(image, crop) for image in whole])
    model = {"dim": options.dim, "mults": [1, 2, 4], "loss_type": "l1", "sampling_timesteps": 5}

    def scores(images: Tensor) -> Scores:
        return {"psnr": float(psnr(images, truth).mean()), "ssim": float(ssim(images, truth).mean())}

    return Task(
        name,
        settings={
            "model": {**model, "schedule": "triangular", "sum_scale": 1.0, "clip_res": 2.0},
            "data": {"degradation": kind, "patch": 32},
            "train": _train_settings(options.steps, 4),
        },
        photos=str(options.photos),
        facts={"crop": crop, "training_photographs": photos},
        about=f"the {len(truth)} photographs of the package, degraded by rddm-fast and cropped to their central "
        f"{crop}x{crop} pixels; trained on 32x32 patches of the {len(photos)} photographs given; schedule triangular, "
        "sum_scale 1, residual clamped to ±2, eta 0.",
        baseline={"degraded input": scores(given)},
        measure=lambda sampler, seed: scores(sampler(given, generator=torch.Generator().manual_seed(seed))),
    )


def generation(name: str, options: argparse.Namespace) -> Task:
    """Generate handwritten digits of 8x8 pixels: I_in = 0, so that I_res = -I_0.

    The schedule is DDIM's linear one by the paper's coefficient transformation.
    """
    judge, samples = Judge.trained(), options.samples
    model = {"dim": options.dim, "mults": [1, 2], "loss_type": "l2", "sampling_timesteps": 10}

    def measure(sampler: FastSampler, seed: int) -> Scores:
        return judge.scores(sampler(batch_size=samples, generator=torch.Generator().manual_seed(seed)))

    return Task(
        name,
        settings={
            "model": {
                **model,
                "kind": "generate",
                "channels": 1,
                "schedule": "ddim",
                "sum_scale": 1.0,
                "clip_res": 1.0,
            },
            "data": {"digits": True, "patch": NATIVE},
            "train": _train_settings(options.digits_steps, 32),
        },
        photos=None,
        facts={"samples": samples, "classifier_accuracy": judge.accuracy},
        about=f"{samples} generated digits of 8x8 pixels against scikit-learn's {len(judge.real)} real ones, on which "
        "the methods were trained. The Fréchet distance is of the hidden layer of a classifier of the real digits, "
        f"right about {judge.accuracy:.1%} of {HELD_OUT} held-out digits, and the confidence is that classifier's; the "
        "row of the real digits has the distance between two random halves of them. Schedule DDIM linear, transformed; "
        "eta 0.",
        baseline={"real digits": {"frechet": judge.floor, "confidence": judge.confidence}},
        measure=measure,
    )


def _centre(image: Tensor, side: int) -> Tensor:
    """Return the central `side` x `side` pixels of (C, H, W); ValueError for a smaller image."""
    height, width = image.shape[1:]
    if side > min(height, width):
        raise ValueError(f"crop is {side}: the smallest photograph is {min(height, width)} pixels, choose at most that")
    top, left = (height - side) // 2, (width - side) // 2
    return image[:, top : top + side, left : left + side]


def run(task: Task, method: str, seed: int, work: Path) -> dict[str, Any]:
    """Train and measure one method, or read what an earlier call found: the content of the run's run.json.

    `scores` are by row of the table, for SM-Res-N also of READINGS; `cpu_s_per_step` is of the last call that trained,
    None if that had no step left. Raises ValueError if the folder holds a run of other settings, and Interrupted upon a
    signal; the next call resumes.
    """
    folder = work / f"{task.name}-{method.lower()}-{seed}"
    file, settings = folder / "run.json", {**task.settings, **task.facts}
    record = json.loads(file.read_text()) if file.is_file() else {"settings": settings}
    if record["settings"] != settings:
        raise ValueError(f"{folder} holds a run of other settings: name another --work folder, or remove this one")
    if "scores" in record:
        return record
    folder.mkdir(parents=True, exist_ok=True)
    write_text_whole(file, _json(record))
    if "cpu_s_per_step" not in record:
        record["cpu_s_per_step"] = _train(task, method, seed, folder)
        write_text_whole(file, _json(record))
    trained = load_model(folder / "model")
    record |= {"parameters": sum(p.numel() for p in trained.model.parameters()), "scores": {}}
    for name, reading in {method: None, **(READINGS if method == "SM-Res-N" else {})}.items():
        diffusion = ResidualDiffusion(
            trained.model,
            trained.schedule,
            objective=trained.objective,
            test_res_or_noise=reading,
            condition=trained.condition,
            sampling_timesteps=trained.sampling_timesteps,
            clip_res=trained.clip_res,
            image_size=trained.image_size,
        )
        sampler = FastSampler(diffusion, dtype=torch.float32, compile=False, graphs=False)
        record["scores"][name] = task.measure(sampler, seed)
    write_text_whole(file, _json(record))
    return record


def _train(task: Task, method: str, seed: int, folder: Path) -> float | None:
    """Train to the end, or resume; return the CPU seconds per step of this call."""
    model = {"objective": METHODS[method], "networks": "two" if method == "SM-Res-N" else "one"}
    this = {"model": model, "data": {"photos": task.photos}, "train": {"seed": seed}}
    trainer, steps = trainer_of(RunSettings.of(task.settings, this), folder), task.settings["train"]["steps"]

    def report(p: Progress) -> None:
        if p.step % 50 == 0 or p.step == steps:
            what = f"{task.name}, {method}, seed {seed}: step {p.step} of {steps}, loss {p.loss:.4f}"
            print(what, file=sys.stderr, flush=True)

    left, started = steps - trainer.step, time.process_time()
    trainer.train(report)
    return (time.process_time() - started) / left if left else None


def column(task: Task, seeds: int, work: Path) -> dict[str, Any]:
    """Run all methods of a task: its entry in table1.json."""
    rows = {name: row([scores]) for name, scores in task.baseline.items()}
    for method in METHODS:
        records = [run(task, method, seed, work) for seed in range(seeds)]
        times = [record["cpu_s_per_step"] for record in records]
        for name in records[0]["scores"]:
            rows[name] = row([record["scores"][name] for record in records], records[0]["parameters"], times)
    title, settings = TITLES[task.name], {**task.settings, **task.facts}
    found = {"title": title, "about": task.about, "settings": settings}
    return {**found, "rows": rows, "ordering": ordering(title, rows)}


def row(scores: list[Scores], parameters: int | None = None, times: Sequence[float | None] = ()) -> dict[str, Any]:
    """One row of a task, from its scores per seed; a baseline has no parameters."""
    values = {metric: [of_seed[metric] for of_seed in scores] for metric in scores[0]}
    return {
        "scores": scores,
        "parameters": parameters,
        "cpu_s_per_step": list(times),
        "mean": {metric: statistics.fmean(of) for metric, of in values.items()},
        "spread": {metric: statistics.stdev(of) if len(of) > 1 else None for metric, of in values.items()},
    }


def ordering(title: str, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Two sentences: whether the rows are ordered as in the paper, and by which numbers.

    Methods are compared within each seed. A claim holds on average if each of its mean margins is above 0.
    """
    metric = next(iter(rows["SM-Res"]["mean"]))
    sign, unit, name = (1, " dB", "PSNR") if metric == "psnr" else (-1, "", "Fréchet distance")
    scores = {method: [of_seed[metric] for of_seed in rows[method]["scores"]] for method in METHODS}
    margins = {
        claim: [[sign * (a - b) + slack for a, b in zip(scores[x], scores[y], strict=True)] for x, y, slack in pairs]
        for claim, pairs in CLAIMS[metric].items()
    }
    on_average = {claim: all(statistics.fmean(pair) > 0 for pair in pairs) for claim, pairs in margins.items()}
    seeds = len(scores["SM-Res"])
    if all(margin > 0 for pairs in margins.values() for pair in pairs for margin in pair):
        verdict = f"is reproduced, in {'each of ' * (seeds > 1)}{seeds} seed{'s' * (seeds > 1)}"
    elif all(on_average.values()):
        verdict = "is reproduced on average, but not in every seed"
    elif any(on_average.values()):
        verdict = "is reproduced in part"
    else:
        verdict = "is not reproduced"
    found = "; ".join(f"{claim}: {'yes' if holds else 'no'}" for claim, holds in on_average.items())
    baselines = [other for other in rows if other not in (*METHODS, *READINGS)]
    numbers = ", ".join(f"{r} {rows[r]['mean'][metric]:.2f}{unit}" for r in (*METHODS, *baselines))
    return [f"{title}: the paper's ordering {verdict} ({found}).", f"The {name} on average: {numbers}."]


def table(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """The table in Markdown: the methods, SM-Res-N's two networks alone, and the baselines."""
    columns = [(task, metric) for task in tasks.values() for metric in task["rows"]["SM-Res"]["mean"]]
    names = dict.fromkeys([*METHODS, *READINGS, *(name for task in tasks.values() for name in task["rows"])])

    def cell(found: Mapping[str, Any] | None, metric: str) -> str:
        if found is None:
            return ""
        decimals, spread = METRICS[metric][1], found["spread"][metric]
        return f"{found['mean'][metric]:.{decimals}f}" + ("" if spread is None else f" ± {spread:.{decimals}f}")

    header = ["", *(f"{task['title']}: {METRICS[metric][0]}" for task, metric in columns)]
    body = [[name, *(cell(task["rows"].get(name), metric) for task, metric in columns)] for name in names]
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *body)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def report(found: Mapping[str, Any]) -> str:
    """table1.md: the table, whether the paper's ordering is reproduced, and how it was made."""
    tasks = found["tasks"].values()
    verdicts = "\n".join("- " + " ".join(task["ordering"]) for task in tasks)
    abouts = "\n".join(f"- {task['title']}: {task['about']}" for task in tasks)
    return f"""# The paper's Table 1 on a small scale

{table(found["tasks"])}

Mean ± standard deviation over the seeds of training, {found["seeds"]} in all. The rows that name one network sample
that one of SM-Res-N's two alone.

{verdicts}

## How it was made

`{found["command"]}`

The methods have the same images in the same order, seeds, steps and width. SM-Res-N has two networks of that width, and
so twice the parameters and the time. The default learning rate was picked by short trials of SM-Res on deraining, and
the digits' loss, batch and stages by trials of SM-N, both measured on the images of this table; none were held out.

{abouts}

{found["machine"]}, threads: {found["threads"]}, torch {found["torch"]}. Parameters and CPU seconds per step are in
table1.csv, all settings and numbers in table1.json.
"""


def write(folder: Path, found: Mapping[str, Any]) -> None:
    """Write table1.json, table1.csv and table1.md in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text_whole(folder / "table1.json", _json(found))
    write_text_whole(folder / "table1.md", report(found))
    lines = []
    for task, of in found["tasks"].items():
        for name, r in of["rows"].items():
            for seed, scores in enumerate(r["scores"]):
                trained = r["parameters"] is not None
                line = {"task": task, "row": name, "seed": seed if trained else None}
                line |= {metric: scores.get(metric) for metric in METRICS} | {"parameters": r["parameters"]}
                lines.append(line | {"cpu_s_per_step": r["cpu_s_per_step"][seed] if trained else None})
    write_csv(folder / "table1.csv", lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line; bad input ends it with one sentence and exit code 1."""
    argv = sys.argv[1:] if argv is None else argv
    options = _options(argv)
    found: dict[str, Any] = {"command": " ".join(["rddm-fast bench table1", *argv]), "machine": machine()}
    found |= {"torch": torch.__version__, "threads": torch.get_num_threads(), "seeds": options.seeds, "tasks": {}}
    try:
        # All tasks are made first, so that missing input ends the command before the first training.
        for task in [(restoration if name in DEGRADATIONS else generation)(name, options) for name in options.tasks]:
            found["tasks"][task.name] = column(task, options.seeds, options.work)
            write(options.output, found)
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"error: {error}")
    except Interrupted as interrupted:
        sys.exit(f"{interrupted}")
    print(table(found["tasks"]))
    print("\n".join(" ".join(task["ordering"]) for task in found["tasks"].values()))


def _options(argv: Sequence[str]) -> argparse.Namespace:
    def tasks(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in TITLES]:
            raise argparse.ArgumentTypeError(f"there is no task {unknown[0]!r}: choose from {','.join(TITLES)}")
        return list(dict.fromkeys(names))

    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
        return int(text)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="photographs to train on")
    parser.add_argument("--tasks", type=tasks, default=list(TITLES), help="names with commas; all by default")
    parser.add_argument("--steps", type=count, default=200, help="of each training of a restoration")
    parser.add_argument("--digits-steps", type=count, default=400, help="of each training on digits")
    parser.add_argument("--seeds", type=count, default=2, help="trainings of each method; the spread is over them")
    parser.add_argument("--dim", type=count, default=16, help="width of each network, a multiple of 8")
    parser.add_argument("--crop", type=count, default=128, help="side of the crops that are measured")
    parser.add_argument("--samples", type=count, default=1000, help="digits that are measured")
    parser.add_argument("--work", type=Path, default=Path("build/table1"), help="folder of the trained models")
    parser.add_argument("-o", "--output", type=Path, default=Path("table1"), help="folder of the results")
    options = parser.parse_args(argv)
    if options.dim % 8:  # the groups of the group norm
        parser.error(f"argument --dim: {options.dim} is not a multiple of 8")
    return options
