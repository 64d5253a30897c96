"""The settings of a training run: checked when they are made, read from YAML or JSON, written back as either.

    model: {dim: 24, mults: [1, 2, 4], objective: pred_res}
    data:  {photos: photos, degradation: rain}
    train: {steps: 4500, lr: 4e-4}

Each section is a dataclass. Its fields are the names in the file and in `rddm-fast train --set SECTION.NAME=VALUE`.
Each field carries its help, range and flag, from which the command's options are made. A setting that is left out keeps
its default; an unknown name or a wrong value is an error of one sentence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from ..system.errors import one_line, quoted, quoted_value
from ..system.extras import require
from ..system.typed import check_range, checked


class SettingsError(ValueError):
    """A setting that is not understood; one sentence names it and says what it may be."""


_MOST = 1_000_000_000


def setting(
    default: Any,
    help: str,
    flag: str | None = None,
    *,
    least: int | None = None,
    most: int | None = None,
    free: bool = False,
) -> Any:
    """A field of a section.

    Args:
        default: its value where it is left out.
        help: one sentence, for the command and for the section's docstring.
        flag: the option of `rddm-fast train`, such as "--lr" or "--faster/--no-faster"; None for `--set` alone.
        least, most: the range of a number, ends included; None is unbounded, but for whole numbers with a `least`,
            which have an end where torch's own would overflow.
        free: whether a run may resume with another value, because the weights do not depend on it.
    """
    if most is None and least is not None and not isinstance(default, float):
        most = _MOST
    meta = {"help": help, "flag": flag, "least": least, "most": most, "free": free}
    return field(default=default, metadata=meta)


S = TypeVar("S", bound="Settings")


def documented(made: type[S]) -> type[S]:
    """List the fields of a section with their help in its docstring."""
    lines = [f"    {f.name}: {f.metadata['help']}" for f in fields(made)]  # type: ignore[arg-type]
    made.__doc__ = "\n".join([f"{made.__doc__}\n\nArgs:", *lines, "\nRaises SettingsError for a wrong value."])
    return made


class Settings:
    """Base of the sections: every field is checked against its type and range, also when it is set in Python."""

    section = ""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for f in fields(self):  # type: ignore[arg-type]
            name, (least, most) = f"{self.section}.{f.name}", (f.metadata["least"], f.metadata["most"])
            try:
                value = checked(getattr(self, f.name), hints[f.name], name)
                check_range(value, least, most, name)
            except ValueError as error:
                raise SettingsError(str(error)) from None
            object.__setattr__(self, f.name, value)

    @classmethod
    def of(cls: type[S], values: Mapping[str, Any]) -> S:
        """The section with these fields; SettingsError for an unknown name or a wrong value."""
        names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        if unknown := [name for name in values if name not in names]:
            raise SettingsError(
                f"there is no setting {cls.section}.{quoted(unknown[0])}: choose one of {', '.join(names)}"
            )
        return cls(**values)


@documented
@dataclass(frozen=True)
class TrainSettings(Settings):
    """How to train."""

    section = "train"

    steps: int = setting(4500, "Optimiser steps; AOSA's selection may take as many again.", "--steps", least=1)
    batch_size: int = setting(8, "Batch size, summed over all processes.", "--batch", least=1)
    accumulate: int = setting(1, "Batches per optimiser step; their gradients are averaged.", "--accumulate", least=1)
    lr: float = setting(4e-4, "Peak learning rate.", "--lr", least=0)
    lr_schedule: Literal["cosine", "constant"] = setting(
        "cosine", "After the warm-up the rate falls to 0 (cosine) or stays (constant)."
    )
    warmup: int = setting(100, "Steps over which the rate rises to its peak.", least=0)
    optimizer: Literal["adam", "adamw", "radam"] = setting("adam", "adam, adamw or radam.", "--optimizer")
    optimizers: Literal["one", "each"] = setting(
        "one", "one for all weights, or each: one per network, as in the path-independent experiment.", "--optimizers"
    )
    betas: tuple[float, float] = setting((0.9, 0.99), "Betas of the optimiser.", least=0, most=1)
    weight_decay: float = setting(0.0, "Weight decay of the optimiser.", least=0)
    lam: float = setting(
        0.5,
        "Weight of the first of two losses, 2 (lam L_res + (1 - lam) L_eps); 1/2 is the published sum.",
        least=0,
        most=1,
    )
    at_start: float = setting(
        0.0,
        "Share of images trained at the last time, from which sampling starts; the others at any time. More of them "
        "make a better model in one step.",
        "--at-start",
        least=0,
        most=1,
    )
    grad_clip: float = setting(1.0, "Greatest norm of the gradient; 0 for no limit.", least=0)
    ema: Literal["warmup", "published"] = setting("warmup", "Rule of the averaged weights (rddm_fast.training.ema).")
    ema_decay: float = setting(0.999, "Greatest decay of the average.", least=0, most=1)
    ema_every: int = setting(10, "Steps between averages of the published rule.", least=1)
    precision: Literal["float32", "bfloat16", "float16"] | None = setting(
        None, "float32, bfloat16 or float16; if left out, that of accelerate launch, or float32.", "--precision"
    )
    compile: bool = setting(False, "Compile the networks with torch.compile.", "--compile")
    faster: bool = setting(
        True,
        "Take the same steps (up to rounding) in fewer kernels, with a fused optimiser.",
        "--faster/--no-faster",
    )
    seed: int = setting(0, "Seed of weights, patches, times and noise.", "--seed", least=0, most=(1 << 32) - 1)
    workers: int = setting(
        0, "Processes that read images; 0 reads them in the training process.", least=0, most=1000, free=True
    )
    save_every: float = setting(60.0, "Seconds between checkpoints.", free=True)
    keep: int = setting(2, "Checkpoints to keep.", least=1, free=True)
    log_every: int = setting(10, "Steps between lines of log.jsonl.", least=1, free=True)
    sample_every: int = setting(0, "Steps between sheets of samples; 0 for none.", "--sample-every", least=0, free=True)
    samples: int = setting(4, "Images on a sheet.", least=1, most=1000, free=True)
    plot: bool = setting(True, "Draw loss.png from the log when training ends.", free=True)
    log_with: str | None = setting(
        None,
        "Also log to trackers of accelerate, such as tensorboard, wandb or mlflow; several with commas.",
        "--log-with",
        free=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.save_every >= 0:
            raise SettingsError(f"train.save_every is {self.save_every}: it is seconds, at least 0")
        if self.steps * self.batch_size * self.accumulate >= 1 << 63:
            raise SettingsError("train.steps times batch_size times accumulate is more than 2^63 images: take fewer")

    @property
    def trackers(self) -> list[str]:
        """The names of the trackers."""
        return [name.strip() for name in (self.log_with or "").split(",") if name.strip()]

    def lr_at(self, step: int) -> float:
        """The factor on `lr` at `step`, 0 to 1."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.lr_schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))))

    def changed(self, others: Mapping[str, Any]) -> list[str]:
        """The names of the settings that differ from a checkpoint's and change the weights.

        A setting that the checkpoint lacks is younger than it: it was trained with what is the default now.
        """
        ours = asdict(self)
        bound = [f for f in fields(self) if not f.metadata["free"]]
        return [f.name for f in bound if ours[f.name] != _as_tuple(others.get(f.name, f.default))]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@documented
@dataclass(frozen=True)
class ModelSettings(Settings):
    """What to train."""

    section = "model"

    kind: Literal["restore", "translate", "generate"] = setting(
        "restore",
        "restore, translate (starts from the degraded image, which the network does not see) or generate.",
        "--kind",
    )
    mask: bool | None = setting(None, "Whether the network takes a mask; if left out, whether the data has masks.")
    networks: str = setting("one", "one, two or shared.", "--networks")
    dim: int = setting(24, "Width of the first stage.", "--dim", least=8)
    mults: tuple[int, ...] = setting((1, 2, 4), "Widths of the stages as multiples of dim, such as 1,2,4.", "--mults")
    channels: int = setting(3, "Channels of an image.", least=1)
    objective: str = setting("pred_res", "What the networks predict; with auto, AOSA decides.", "--objective")
    loss_type: Literal["l1", "l2"] = setting("l1", "l1 or l2.", "--loss")
    schedule: Literal["triangular", "power", "ddim"] = setting(
        "triangular", "triangular, power or ddim, as published.", "--schedule"
    )
    timesteps: int = setting(1000, "T, the number of times.", least=1, most=1_000_000)
    sum_scale: float = setting(0.01, "Variance of the noise at the last time.", "--sum-scale", least=0)
    path_independent: bool = setting(False, "Whether the networks see alpha_bar_t T and beta_bar_t T as their times.")
    self_condition: bool = setting(False, "Whether the networks see their previous estimate.")
    clip_res: float = setting(2.0, "Half-width of the residual's clamp.")
    sampling_timesteps: int = setting(3, "Steps in which the model samples.", "--sampling-timesteps", least=1)
    image_size: int | None = setting(None, "Side of a generated image; if left out, that of the data.", least=1)
    start_from: str | None = setting(
        None, "Start from the weights of this model: a folder or a name, of the same networks.", "--start-from"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mults or min(self.mults) < 1:
            raise SettingsError(f"model.mults is {list(self.mults)}: write whole numbers from 1, such as [1, 2, 4]")


@documented
@dataclass(frozen=True)
class DataSettings(Settings):
    """What to train on: photographs, pairs of images, images alone (to generate), or scikit-learn's digits."""

    section = "data"

    photos: str | None = setting(None, "Folder of clean photographs, which are degraded as they are read.", "--photos")
    degradation: str = setting(
        "rain",
        "With photos: rain, lowlight, noise, blur, jpeg, shadow or mask, or wide-rain and so on, which mix many of a "
        "kind, from none to strong. With photos, target or digits, to restore by Cold Diffusion: cold:blur, "
        "cold:resolution, cold:fade, cold:snow or cold:decolour; cold:blur:50 has 50 levels.",
        "--degradation",
    )
    input: str | None = setting(None, "Degraded images: a folder, .flist, pattern or CSV.", "--input")
    target: str | None = setting(None, "Ground truth, matched to input by name; to generate, the images.", "--target")
    mask: str | None = setting(None, "Masks, matched to input by name.", "--mask")
    digits: bool = setting(False, "To generate: scikit-learn's handwritten digits.", "--digits")
    patch: int | None = setting(64, "Side of a random patch in pixels.", "--patch", least=8)
    size: int | None = setting(
        None, "Side to which whole images are resized instead, whatever their shape, as published.", "--size", least=8
    )
    flip: bool = setting(True, "Mirror half of the images left to right.")
    equalize_input: bool = setting(
        False, "Equalise the histogram of each channel of the input, as published for low light."
    )

    @property
    def side(self) -> int | None:
        """Side of the training images, in pixels."""
        return self.size or self.patch


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run: `model`, `data` and `train`."""

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    train: TrainSettings = field(default_factory=TrainSettings)

    @classmethod
    def of(cls, *layers: Mapping[str, Any]) -> RunSettings:
        """Merge mappings of the file's form; later ones override earlier ones."""
        merged: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "train": {}}
        for layer in layers:
            for section, values in layer.items():
                if section not in merged:
                    raise SettingsError(
                        f"there is no section {quoted_value(section)}: choose one of {', '.join(merged)}"
                    )
                if not isinstance(values, Mapping):
                    raise SettingsError(
                        f"{section} is {quoted_value(values)}: it must be a section of names and values"
                    )
                merged[section].update(values)
        return cls(
            ModelSettings.of(merged["model"]), DataSettings.of(merged["data"]), TrainSettings.of(merged["train"])
        )

    def as_mapping(self) -> dict[str, dict[str, Any]]:
        """The settings in the file's form, ready for JSON."""
        return json.loads(json.dumps(asdict(self)))

    def text(self, form: str = "yaml") -> str:
        """The settings as a file that `read_settings` reads; `form` is "yaml" or "json"."""
        if form == "json":
            return json.dumps(self.as_mapping(), indent=2) + "\n"
        return require("yaml", "train").safe_dump(self.as_mapping(), sort_keys=False)


def read_settings(path: str | PathLike[str]) -> dict[str, Any]:
    """Read a settings file, JSON if its name ends in .json, else YAML.

    Raises SettingsError if it is missing or holds no names and values.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SettingsError(f"{path}, line {line}: not UTF-8 text") from None
    content = _json(text, str(path)) if path.suffix.lower() == ".json" else _yaml(text, str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path} holds no settings: write sections such as 'train:' with names and values")
    return content


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{name}, line {error.lineno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits, or too many brackets
        raise SettingsError(f"{name} is not understood: {one_line(error)}") from error


def _yaml(text: str, name: str) -> Any:
    yaml = require("yaml", "train")
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = name if mark is None else f"{name}, line {mark.line + 1}"
        raise SettingsError(f"{place}: not YAML: {quoted(error.problem or error.context)}") from error
    except Exception as error:  # PyYAML lets through what Python raises of a date, a number or a nested value
        raise SettingsError(f"{name} is not YAML: {quoted(one_line(error))}") from error


def setting_of(text: str) -> dict[str, dict[str, Any]]:
    """Parse `SECTION.NAME=VALUE`, the value in YAML, into the file's form."""
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise SettingsError(f"{quoted_value(text)} is not a setting: write SECTION.NAME=VALUE, such as train.warmup=10")
    return {section: {key: _yaml(value, f"the value of {quoted(name)}")}}
