"""Measure restored images against their ground truth: `rddm-fast evaluate` as a Python function.

    report = evaluate(find_pairs("restored", "truth"), Evaluator(space="y"))
    report.write("results", worst=8)

Under `torchrun` or `accelerate launch` each process measures its share, and the first one returns the whole report.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..images.find import PathOrText
from ..images.pairs import DataError, Pair
from ..images.picture import read_image, sides
from ..images.prepared import resized
from ..system.files import write_text_whole
from ..system.memory import out_of_memory
from ..system.processes import rank, share, world_size
from .gallery import Row, write_gallery
from .metrics import lab_mae, luma, psnr, rmse, ssim, ssim_volume
from .perceptual import Inception, Lpips, Pyiqa, frechet_distance, inception_score

# The suffix of a metric's name, and the pixels that it is measured on.
REGIONS = {"": "all", "_shadow": "shadow", "_non_shadow": "non_shadow"}
SPACES = ("rgb", "y")


def check_apart(output: PathOrText, *sources: PathOrText | None) -> None:
    """Raise ValueError if worst.png, written to the folder `output`, would be an image of a source the next time.

    Args:
        output: the folder that `Report.write` is given.
        sources: what `find_pairs` is given; a folder stands for all below it, a pattern for its matches.
    """
    folder = Path(output).resolve()
    for source in (source for source in sources if source is not None):
        own = Path(source).resolve()
        matched = glob.glob(str(source), recursive=True) if glob.has_magic(str(source)) else ()
        if (own.is_dir() and folder.is_relative_to(own)) or folder in {Path(path).resolve().parent for path in matched}:
            raise ValueError(
                f"output is {output}, where worst.png would be taken for an image of {source} the next time: "
                "choose another folder"
            )


@dataclass(frozen=True)
class Record:
    """The numbers of one pair.

    Attributes:
        pair: the files.
        values: the metrics by name, in the table's order; None for a region without pixels.
        rows: the outputs of the networks from which the metrics of the whole set are computed.
        error: why nothing was measured, one sentence that names the file, or None.
    """

    pair: Pair
    values: dict[str, float | None] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)
    error: str | None = None


class Evaluator:
    """Measures one pair of images.

    Args:
        space: "rgb", or "y" for PSNR, SSIM and RMSE on the luma alone, as published for deraining and low light.
        resize: height and width to which all images are scaled first, bicubic with antialiasing, as published for
            shadow removal. None leaves them as they are; a pair of two sizes is then an error.
        crop_border: pixels that are cut from every side before measuring, after `resize`, as BasicSR does for
            super-resolution.
        lpips, fid, inception: TorchScript files of networks (see `perceptual`), for the metrics of those names.
        pyiqa: names of metrics of the package pyiqa; they are measured on colour.
        device: where to compute.

    With a mask, PSNR and SSIM are also measured on both images multiplied by the mask ("shadow") and by its
    complement ("non_shadow"), and the error in Lab over the pixels of each, as the scripts of shadow removal do. A
    pixel of the mask counts if it has at least half of full brightness.

    Raises:
        ValueError: another space, or a file that is not TorchScript.
    """

    def __init__(
        self,
        *,
        space: str = "rgb",
        resize: tuple[int, int] | None = None,
        crop_border: int = 0,
        lpips: PathOrText | None = None,
        fid: PathOrText | None = None,
        inception: PathOrText | None = None,
        pyiqa: Sequence[str] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        if space not in SPACES:
            raise ValueError(f"space is {space!r}: choose one of {', '.join(SPACES)}")
        if crop_border < 0:
            raise ValueError(f"crop_border must be 0 or more, not {crop_border}")
        self.space, self.resize, self.crop_border, self.device = space, resize, crop_border, torch.device(device)
        self.lpips = None if lpips is None else Lpips(lpips, device=device)
        self.features = None if fid is None else Inception(fid, flag="return_features", device=device)
        self.classes = None if inception is None else Inception(inception, flag="no_output_bias", device=device)
        self.pyiqa = [Pyiqa(name, device=device) for name in dict.fromkeys(pyiqa)]

    @property
    def lower_better(self) -> list[str]:
        """The names of the metrics of which less is better."""
        return ["rmse", "mae_lab", "lpips", *(f"pyiqa:{metric.name}" for metric in self.pyiqa if metric.lower_better)]

    def read(self, pair: Pair) -> tuple[Tensor, Tensor, Tensor | None]:
        """Read prediction and truth, float32 (3, H, W) in [0, 1], and the mask, bool (1, H, W), all of one size."""
        if pair.target is None:
            raise DataError(f"{pair.input} has no ground truth to be measured against")
        files = [pair.input, pair.target, *([pair.mask] if pair.mask else [])]
        images = [read_image(file).pixels for file in files]
        if self.resize is not None:
            images = [resized(image, self.resize) for image in images]
        for file, image in zip(files[1:], images[1:], strict=True):
            if image.shape != images[0].shape:
                sizes = f"{pair.input} is {sides(images[0])} and {file} is {sides(image)}"
                raise DataError(f"{sizes}: resize them to one size first")
        if self.crop_border:
            images = [self._cropped(image, pair) for image in images]
        pred, target, *masks = (image.to(self.device) for image in images)
        return pred, target, masks[0].mean(0, keepdim=True) >= 0.5 if masks else None

    def _cropped(self, image: Tensor, pair: Pair) -> Tensor:
        border = self.crop_border
        if min(image.shape[1:]) <= 2 * border:
            raise DataError(f"{pair.input} is {sides(image)}: nothing is left where crop_border is {border}")
        return image[:, border:-border, border:-border]

    def __call__(self, pair: Pair) -> Record:
        """Measure all metrics of one pair. A pair that cannot be measured becomes a record with an error."""
        try:
            pred, target, mask = self.read(pair)
            values = self._values(pred, target, mask)
            rows = {}
            if self.features is not None:
                rows = {"generated": self.features.row(pred), "real": self.features.row(target)}
            if self.classes is not None:
                rows["classes"] = self.classes.row(pred)
            return Record(pair, values, rows)
        except Exception as error:
            if out_of_memory(error):
                advice = "make it smaller" if self.resize is None else "resize it to a smaller size"
                return Record(pair, error=f"{pair.input} needs more memory than there is: {advice}")
            if not isinstance(error, ValueError):
                raise
            named = str(pair.input) in str(error) or str(pair.target) in str(error)
            return Record(pair, error=str(error) if named else f"{pair.input} was not measured: {error}")

    def _values(self, pred: Tensor, target: Tensor, mask: Tensor | None) -> dict[str, float | None]:
        regions = dict(zip(REGIONS, [None] if mask is None else [None, mask, ~mask], strict=False))
        compared = (luma(pred), luma(target)) if self.space == "y" else (pred, target)
        values: dict[str, float | None] = {}
        for name, region in regions.items():
            metrics = {"psnr": psnr, "ssim": ssim}
            if self.space == "rgb":
                metrics["ssim_volume"] = ssim_volume
            if region is None:
                metrics["rmse"] = rmse
            empty = region is not None and not region.any()
            images = compared if region is None else [image * region for image in compared]
            for metric, function in metrics.items():
                values[metric + name] = None if empty else function(*images).item()
            values["mae_lab" + name] = None if empty else lab_mae(pred, target, region).item()
            values["pixels" + name] = int(region.sum()) if region is not None else target[0].numel()
        if self.lpips is not None:
            values["lpips"] = self.lpips.distance(pred, target)
        for network in self.pyiqa:
            values[f"pyiqa:{network.name}"] = network.measure(pred, target)
        return values


@dataclass(frozen=True, eq=False)
class Report:
    """The records of all pairs, in the pairs' order, and the evaluator that made them."""

    records: list[Record]
    evaluator: Evaluator

    @property
    def measured(self) -> list[Record]:
        return [record for record in self.records if record.error is None]

    @property
    def errors(self) -> list[str]:
        return [record.error for record in self.records if record.error is not None]

    def worst(self, count: int) -> list[Record]:
        """Return the `count` records of lowest PSNR, lowest first."""
        return sorted(self.measured, key=lambda record: record.values["psnr"] or 0.0)[:count]

    def summary(self) -> dict[str, Any]:
        """Return each metric's mean and standard deviation over the images, and the metrics of the whole set.

        FID needs at least two images; it is left out for fewer. `mae_lab_per_pixel` weights each image by its
        number of pixels; "metrics" gives every image the same weight.
        """
        names = list(self.measured[0].values) if self.measured else []
        result: dict[str, Any] = {
            "images": len(self.measured),
            "failed": self.errors,
            "space": self.evaluator.space,
            "resize": self.evaluator.resize,
            "crop_border": self.evaluator.crop_border,
            "metrics": {name: self._spread(name) for name in names if not name.startswith("pixels")},
            "lower_is_better": [name for name in self.evaluator.lower_better if name in names],
            "mae_lab_per_pixel": {
                region: self._per_pixel(suffix) for suffix, region in REGIONS.items() if "pixels" + suffix in names
            },
        }
        if self.evaluator.features is not None and len(self.measured) > 1:
            result["fid"] = frechet_distance(self._rows("real"), self._rows("generated"))
        if self.evaluator.classes is not None and self.measured:
            mean, std = inception_score(self._rows("classes"))
            result["inception_score"] = {"mean": mean, "std": std}
        return result

    def _numbers(self, name: str) -> list[float]:
        return [value for record in self.measured if (value := record.values[name]) is not None]

    def _spread(self, name: str) -> dict[str, float | None]:
        numbers = self._numbers(name)
        known = len(numbers) > 1 and all(map(math.isfinite, numbers))
        return {
            "mean": statistics.fmean(numbers) if numbers else None,
            "std": statistics.stdev(numbers) if known else None,
        }

    def _per_pixel(self, region: str) -> float | None:
        pairs = [(record.values["mae_lab" + region], record.values["pixels" + region]) for record in self.measured]
        pixels = sum(count or 0 for _, count in pairs)
        return sum((error or 0) * (count or 0) for error, count in pairs) / pixels if pixels else None

    def _rows(self, name: str) -> Tensor:
        return torch.stack([record.rows[name] for record in self.measured])

    def table(self) -> str:
        """Return the records as CSV: one line per image, an empty cell for a region without pixels."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for number, record in enumerate(self.measured):
            if number == 0:
                writer.writerow(["name", *record.values])
            writer.writerow([record.pair.name, *map(_cell, record.values.values())])
        return text.getvalue()

    def write(self, folder: PathOrText, *, worst: int = 8) -> dict[str, Any]:
        """Write metrics.csv, summary.json and worst.png, which shows the `worst` images; return the summary."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        summary = self.summary()
        write_text_whole(folder / "metrics.csv", self.table())
        write_text_whole(folder / "summary.json", json.dumps(for_json(summary), indent=2) + "\n")
        if worst and self.measured:
            write_gallery(folder / "worst.png", [self._row(record) for record in self.worst(worst)])
        return summary

    def _row(self, record: Record) -> Row:
        pred, target, _ = self.evaluator.read(record.pair)
        whole = [name for name in record.values if not name.startswith("pixels") and not name.endswith("shadow")]
        shown = {name: value for name in whole if (value := record.values[name]) is not None}
        return Row(record.pair.name, pred.cpu(), target.cpu(), shown)


def _cell(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.6f}"


def for_json(value: Any) -> Any:
    """Replace the numbers that JSON cannot hold: infinity, the PSNR of equal images, becomes a string."""
    if isinstance(value, dict):
        return {key: for_json(item) for key, item in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def evaluate(
    pairs: Sequence[Pair], evaluator: Evaluator, on_done: Callable[[int, int], None] | None = None
) -> Report | None:
    """Measure `pairs`, shared among the processes of the launcher. All but the first process return None.

    Args:
        pairs: the files, input compared with target.
        evaluator: measures each pair.
        on_done: called after each pair of this process's share, with the number done and the number in all.
    """
    mine = share(range(len(pairs)))
    records = {}
    for done, number in enumerate(mine, 1):
        records[number] = evaluator(pairs[number])
        if on_done is not None:
            on_done(done, len(mine))
    if world_size() > 1:
        gathered = _gathered(records)
        if gathered is None:
            return None
        records = gathered
    return Report([records[number] for number in range(len(pairs))], evaluator)


def _gathered(records: dict[int, Record]) -> dict[int, Record] | None:
    """Return the records of all processes in the first process, None in the others."""
    joined = dist.is_initialized()
    if not joined:
        # One day: a long wait only means that another share is longer. If a process dies, the launcher ends all.
        dist.init_process_group("gloo", timeout=timedelta(days=1))
    try:
        shares: list[Any] | None = [None] * world_size() if rank() == 0 else None
        dist.gather_object(records, shares)
    finally:
        if not joined:
            dist.destroy_process_group()
    return None if shares is None else {number: record for part in shares for number, record in part.items()}
