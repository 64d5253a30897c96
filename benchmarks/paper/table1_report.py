"""Table 1 as it is printed and written, and whether the order of its rows is the paper's."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rddm_fast.system.files import write_text_whole

from .table1_runs import METHODS, READINGS, Task

TITLES = {"digits": "Generation of digits", "derain": "Deraining", "lowlight": "Low light"}
METRICS = {"frechet": "Fréchet ↓", "confidence": "confidence ↑", "psnr": "PSNR ↑", "ssim": "SSIM ↑"}
DIGITS = {"frechet": 2, "confidence": 3, "psnr": 2, "ssim": 3}

NEAR = 1.0
"""SM-Res is near SM-Res-N where its PSNR is less than so many dB lower."""


@dataclass(frozen=True)
class Claim:
    """Something that the paper's Table 1 shows: of each pair (better, worse) the first has the better score.

    slack: by how much the better may be worse all the same.
    """

    text: str
    pairs: tuple[tuple[str, str], ...]
    slack: float = 0.0

    def margins(self, scores: Mapping[str, Sequence[float]], sign: int) -> list[list[float]]:
        """For each pair one number a seed, above 0 where the claim holds; `sign` is -1 where lower is better."""
        return [
            [sign * (better - worse) + self.slack for better, worse in zip(scores[a], scores[b], strict=True)]
            for a, b in self.pairs
        ]


PAPER = {
    "psnr": (
        Claim("SM-N is the worst", (("SM-Res", "SM-N"), ("SM-Res-N", "SM-N"))),
        Claim(f"SM-Res is the best or within {NEAR:g} dB of SM-Res-N", (("SM-Res", "SM-Res-N"),), NEAR),
    ),
    "frechet": (Claim("SM-Res is the worst", (("SM-N", "SM-Res"), ("SM-Res-N", "SM-Res"))),),
}
"""What the paper's table shows of restorations and of generation."""


def ordering(
    title: str, metric: str, scores: Mapping[str, Sequence[float]], baseline: Mapping[str, float]
) -> list[str]:
    """Two sentences: whether the paper's ordering of the methods is reproduced, and by which numbers.

    metric: "psnr" or "frechet".
    scores: for each of METHODS one number a seed, the seeds in one order. Methods of the same seed are compared.
    baseline: what to name beside them, such as the degraded input's score.
    """
    sign = 1 if metric == "psnr" else -1
    margins = {claim.text: claim.margins(scores, sign) for claim in PAPER[metric]}
    on_average = {text: all(statistics.fmean(pair) > 0 for pair in pairs) for text, pairs in margins.items()}
    in_every_seed = all(margin > 0 for pairs in margins.values() for pair in pairs for margin in pair)
    seeds = len(scores["SM-Res"])
    if in_every_seed:
        verdict = f"is reproduced, in {'each of ' * (seeds > 1)}{seeds} seed{'s' * (seeds > 1)}"
    elif all(on_average.values()):
        verdict = "is reproduced on average, but not in every seed"
    elif any(on_average.values()):
        verdict = "is reproduced in part"
    else:
        verdict = "is not reproduced"
    found = "; ".join(f"{text}: {'yes' if holds else 'no'}" for text, holds in on_average.items())
    unit = " dB" if metric == "psnr" else ""
    means = {name: statistics.fmean(values) for name, values in scores.items() if name in METHODS}
    numbers = ", ".join(f"{name} {value:.2f}{unit}" for name, value in {**means, **baseline}.items())
    name = "PSNR" if metric == "psnr" else "Fréchet distance"
    return [f"{title}: the paper's ordering {verdict} ({found}).", f"The {name} on average: {numbers}."]


@dataclass
class Row:
    """A row of one task: its scores by seed, and what training it took (nothing for a baseline)."""

    scores: list[dict[str, float]]
    parameters: int | None = None
    cpu_s_per_step: list[float | None] = field(default_factory=list)

    def mean(self, metric: str) -> float:
        return statistics.fmean(scores[metric] for scores in self.scores)

    def spread(self, metric: str) -> float | None:
        """The standard deviation over the seeds; None for one number."""
        return statistics.stdev(scores[metric] for scores in self.scores) if len(self.scores) > 1 else None

    def text(self, metric: str) -> str:
        spread, digits = self.spread(metric), DIGITS[metric]
        return f"{self.mean(metric):.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


class Column:
    """A task's part of the table."""

    def __init__(self, task: Task) -> None:
        self.task, self.title = task, TITLES[task.name]
        self.rows = {name: Row([scores]) for name, scores in task.baseline.items()}
        self.metrics = list(next(iter(task.baseline.values())))

    def add(self, record: Mapping[str, Any]) -> None:
        """The record of a run (`table1_runs.run`)."""
        for name, scores in record["scores"].items():
            row = self.rows.setdefault(name, Row([], record["parameters"]))
            row.scores.append(scores)
            row.cpu_s_per_step.append(record["cpu_s_per_step"])

    def ordering(self) -> list[str]:
        metric = self.task.metric
        scores = {name: [of[metric] for of in self.rows[name].scores] for name in METHODS}
        baseline = {name: row.mean(metric) for name, row in self.rows.items() if name in self.task.baseline}
        return ordering(self.title, metric, scores, baseline)

    def as_dict(self) -> dict[str, Any]:
        rows = {
            name: {
                **asdict(row),
                "mean": {metric: row.mean(metric) for metric in self.metrics},
                "spread": {metric: row.spread(metric) for metric in self.metrics},
            }
            for name, row in self.rows.items()
        }
        settings = {**asdict(self.task.plan), **self.task.facts}
        return {"title": self.title, "settings": settings, "rows": rows, "ordering": self.ordering()}


def cells(columns: Sequence[Column]) -> Iterator[list[str]]:
    """The table as text, its header first: a row a method, then SM-Res-N's networks and what no method made."""
    yield ["", *(f"{column.title}: {METRICS[metric]}" for column in columns for metric in column.metrics)]
    others = dict.fromkeys(name for column in columns for name in column.task.baseline)
    for name in (*METHODS, *READINGS, *others):
        rows = [(column.rows.get(name), column.metrics) for column in columns]
        yield [name, *("" if row is None else row.text(metric) for row, metrics in rows for metric in metrics)]


def plain(columns: Sequence[Column]) -> str:
    """The table for a terminal."""
    table = list(cells(columns))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in table)
    return "\n".join(line.rstrip() for line in lines)


def _markdown_table(table: Sequence[Sequence[str]]) -> str:
    header, *rows = ("| " + " | ".join(row) + " |" for row in table)
    return "\n".join([header, "|" + "---|" * len(table[0]), *rows])


def markdown(columns: Sequence[Column], about: Mapping[str, Any]) -> str:
    """The table, whether the paper's ordering is reproduced, and how it was made."""
    made = [
        ["task", "method", "parameters", "CPU s a step", "steps", "batch", "learning rate", "loss", "sampling steps"]
    ]
    for column in columns:
        plan = column.task.plan
        same = [str(plan.steps), str(plan.batch_size), f"{plan.lr:g}", plan.loss_type, str(plan.sampling_steps)]
        for name in METHODS:
            row = column.rows[name]
            times = [value for value in row.cpu_s_per_step if value is not None]
            per_step = f"{statistics.median(times):.3f}" if times else ""
            made.append([column.title, name, f"{row.parameters:,}", per_step, *same])
    sentences = "\n".join("- " + " ".join(column.ordering()) for column in columns)
    tasks = "\n".join(f"- {column.title}: {column.task.about}" for column in columns)
    return f"""# The paper's Table 1 on a small scale

{_markdown_table(list(cells(columns)))}

Mean ± standard deviation over the seeds of training, of which there are {about["seeds"]}. The rows that name one
network sample that one of SM-Res-N's two alone.

{sentences}

## How it was made

`{about["command"]}`

{_markdown_table(made)}

The methods have the same images in the same order, seeds, steps and width. SM-Res-N has two networks of that width, and
so twice the parameters and the time. The default learning rate was picked by short trials of SM-Res on deraining, and
the digits' loss, batch and stages by trials of SM-N, both measured on the images of this table; none were held out.

{tasks}

{about["machine"]}, threads: {about["threads"]}, torch {about["torch"]}. All settings and numbers are in table1.json.
"""


def write(folder: Path, columns: Sequence[Column], about: Mapping[str, Any]) -> None:
    """table1.json, table1.csv and table1.md in `folder`, each written whole."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {**about, "tasks": {column.task.name: column.as_dict() for column in columns}}
    write_text_whole(folder / "table1.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    names = ["task", "row", "seed", *METRICS, "parameters", "cpu_s_per_step"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    for column in columns:
        for name, row in column.rows.items():
            for seed, scores in enumerate(row.scores):
                trained = row.parameters is not None
                line: dict[str, Any] = {"task": column.task.name, "row": name, **scores}
                if trained:
                    line |= {"seed": seed, "parameters": row.parameters, "cpu_s_per_step": row.cpu_s_per_step[seed]}
                writer.writerow(line)
    write_text_whole(folder / "table1.csv", text.getvalue())
    write_text_whole(folder / "table1.md", markdown(columns, about))
