"""The settings of a training run: checked when they are made, read from YAML or JSON, written back as either.

    model: {dim: 24, mults: [1, 2, 4], objective: pred_res}
    data:  {photos: photos, degradation: rain}
    train: {steps: 4500, lr: 4e-4}

Each section is a dataclass, whose fields are the names in the file and of `rddm-fast train --set SECTION.NAME=VALUE`.
What is left out keeps its default; a name or a value that is not understood is an error of one sentence.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..system.extras import require


class SettingsError(ValueError):
    """A setting that is not understood; one sentence that names it and what it may be."""


S = TypeVar("S", bound="Settings")


class Settings:
    """Base of the sections: every field is checked against its type, also where a section is made in Python."""

    section = ""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = _checked(getattr(self, name), hint, f"{self.section}.{name}")
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls: type[S], values: Mapping[str, Any]) -> S:
        """The section with these fields; SettingsError for an unknown name or a wrong value."""
        names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        if unknown := [name for name in values if name not in names]:
            raise SettingsError(f"there is no setting {cls.section}.{unknown[0]}: choose one of {', '.join(names)}")
        return cls(**values)

    def _at_least(self, least: float, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= least):
                raise SettingsError(f"{self.section}.{name} is {value}: it must be at least {least}")

    def _between(self, low: float, high: float, *names: str) -> None:
        for name in names:
            if not low <= getattr(self, name) <= high:
                raise SettingsError(
                    f"{self.section}.{name} is {getattr(self, name)}: it must be between {low} and {high}"
                )


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "nothing"}


def _checked(value: Any, hint: Any, name: str) -> Any:
    """`value` as the type `hint` says, or SettingsError."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in parts:
            raise SettingsError(f"{name} is {value!r}: choose one of {', '.join(parts)}")
        return value
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (inner,) = (part for part in parts if part is not type(None))
        return _checked(value, inner, name)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise SettingsError(f"{name} is {value!r}: write a list, such as [1, 2, 4]")
        if parts[-1] is not Ellipsis and len(value) != len(parts):
            raise SettingsError(f"{name} has {len(value)} numbers: it takes {len(parts)}")
        return tuple(_checked(entry, parts[0], name) for entry in value)
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 4e-4, which lacks a point, as a text
        except ValueError:
            pass
    if hint is str and isinstance(value, PathLike):
        return str(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise SettingsError(f"{name} is {value!r}: it must be {_WORDS[hint]}")
    return value


_FREE = {"free": True}  # a checkpoint may be gone on with under another value: the weights do not depend on it


@dataclass(frozen=True)
class TrainSettings(Settings):
    """How to train.

    steps: optimiser steps in all, those before an interruption included; AOSA's selection has as many of its own.
    batch_size: images that a gradient is of, over all processes together.
    accumulate: batches whose gradients make one step.
    lr: the (peak) learning rate.
    lr_schedule: "cosine" (it rises over `warmup` steps and then falls to 0) or "constant" after the rise.
    warmup: steps of the rise.
    optimizer: "adam", "adamw" or "radam".
    optimizers: "one", or one for "each" of two networks, as in the path-independent experiment.
    betas, weight_decay: the optimiser's.
    lam: weight of the first output's loss, of two: the loss is 2 (lam L_res + (1 - lam) L_eps), which at 1/2 is the
        published sum of both.
    grad_clip: greatest norm of the gradient; 0 for any.
    ema: the rule of the averaged weights, "warmup" or "published" (see `rddm_fast.training.ema`).
    ema_decay: greatest decay of the average.
    ema_every: steps between averages of the published rule.
    precision: "float32", "bfloat16" or "float16"; None for what `accelerate launch` was told, float32 without it.
    compile: compile the networks (torch.compile).
    faster: compute the same steps by `fast.training.for_training` and a fused optimiser, to rounding the same; with
        `compile` it only lays weights and images out with channels last.
    seed: of the draws of time and noise, and of AOSA's second set of weights.
    workers: processes that read images; 0 reads them in this one.
    save_every: seconds between checkpoints.
    keep: checkpoints to keep.
    log_every: steps between lines of log.jsonl.
    sample_every: steps between sheets of sampled images; 0 for none.
    samples: images on a sheet.
    plot: draw loss.png from the log when training ends.
    tensorboard: write the log for TensorBoard too.

    Raises SettingsError, in one sentence, for a value of another type or out of range.
    """

    steps: int = 4500
    batch_size: int = 8
    accumulate: int = 1
    lr: float = 4e-4
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = 100
    optimizer: Literal["adam", "adamw", "radam"] = "adam"
    optimizers: Literal["one", "each"] = "one"
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    lam: float = 0.5
    grad_clip: float = 1.0
    ema: Literal["warmup", "published"] = "warmup"
    ema_decay: float = 0.999
    ema_every: int = 10
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    compile: bool = False
    faster: bool = True
    seed: int = 0
    workers: int = field(default=0, metadata=_FREE)
    save_every: float = field(default=60.0, metadata=_FREE)
    keep: int = field(default=2, metadata=_FREE)
    log_every: int = field(default=10, metadata=_FREE)
    sample_every: int = field(default=0, metadata=_FREE)
    samples: int = field(default=4, metadata=_FREE)
    plot: bool = field(default=True, metadata=_FREE)
    tensorboard: bool = field(default=False, metadata=_FREE)

    section = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "steps", "batch_size", "accumulate", "ema_every", "keep", "log_every", "samples")
        self._at_least(0, "lr", "warmup", "weight_decay", "grad_clip", "seed", "workers", "sample_every")
        self._between(0, 1, "lam", "ema_decay")
        if not self.save_every >= 0:
            raise SettingsError(f"train.save_every is {self.save_every}: it is seconds, at least 0")

    def lr_at(self, step: int) -> float:
        """The factor on `lr` at `step`, 0 to 1."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.lr_schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))))

    def changed(self, others: Mapping[str, Any]) -> list[str]:
        """The names of the settings on which the weights depend and that differ from a checkpoint's."""
        ours = asdict(self)
        bound = [f.name for f in fields(self) if not f.metadata.get("free")]
        return [name for name in bound if name not in others or ours[name] != _as_tuple(others[name])]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class ModelSettings(Settings):
    """What to train.

    kind: "restore", "translate" (starts from the degraded image, which the network does not see) or "generate".
    mask: whether the network is given a mask; None for whether the data has masks.
    networks: "one", "two" or "shared".
    dim, mults: width of the first stage, and of all as multiples of it.
    channels: of an image.
    objective: a name in `rddm_fast.theory.objective.Objective`, or "auto", which AOSA decides.
    loss_type: "l1" or "l2".
    schedule: "triangular", "power" or "ddim", the families as published.
    timesteps, sum_scale: T, and the variance of the noise at the last time.
    path_independent: the networks see alpha_bar_t T and beta_bar_t T as their times.
    self_condition: the networks see their previous estimate.
    clip_res: half-width of the residual's clamp.
    sampling_timesteps: steps that the model samples in.
    image_size: side of a generated image; that of the data if None.
    """

    kind: Literal["restore", "translate", "generate"] = "restore"
    mask: bool | None = None
    networks: str = "one"
    dim: int = 24
    mults: tuple[int, ...] = (1, 2, 4)
    channels: int = 3
    objective: str = "pred_res"
    loss_type: Literal["l1", "l2"] = "l1"
    schedule: Literal["triangular", "power", "ddim"] = "triangular"
    timesteps: int = 1000
    sum_scale: float = 0.01
    path_independent: bool = False
    self_condition: bool = False
    clip_res: float = 2.0
    sampling_timesteps: int = 3
    image_size: int | None = None

    section = "model"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "dim", "channels", "timesteps", "sampling_timesteps", "image_size")
        self._at_least(0, "sum_scale")
        if not self.mults or min(self.mults) < 1:
            raise SettingsError(f"model.mults is {list(self.mults)}: write whole numbers from 1, such as [1, 2, 4]")


@dataclass(frozen=True)
class DataSettings(Settings):
    """What to train on: photographs, pairs of images, images alone (to generate), or scikit-learn's digits.

    photos, degradation: a folder of clean photographs, and what they are degraded by as they are read.
    input, target, mask: degraded images, their ground truth and masks: folders, .flist, patterns or a CSV.
        To generate, `target` alone.
    digits: handwritten digits, to generate.
    patch: side of random patches in pixels.
    size: side that whole images are resized to instead, whatever their shape, as the published code does.
    flip: mirror half of the images left to right.
    equalize_input: equalise the input's histogram, each channel by itself, as published for low light.
    """

    photos: str | None = None
    degradation: str = "rain"
    input: str | None = None
    target: str | None = None
    mask: str | None = None
    digits: bool = False
    patch: int | None = 64
    size: int | None = None
    flip: bool = True
    equalize_input: bool = False

    section = "data"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "patch", "size")

    @property
    def side(self) -> int | None:
        """Side of what the model is trained on, in pixels."""
        return self.size or self.patch


@dataclass(frozen=True)
class RunSettings:
    """All of a run: `model`, `data` and `train`."""

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    train: TrainSettings = field(default_factory=TrainSettings)

    @classmethod
    def of(cls, *layers: Mapping[str, Any]) -> RunSettings:
        """Sections from mappings of the file's form, later ones over earlier ones."""
        merged: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "train": {}}
        for layer in layers:
            for section, values in layer.items():
                if section not in merged:
                    raise SettingsError(f"there is no section {section!r}: choose one of {', '.join(merged)}")
                if not isinstance(values, Mapping):
                    raise SettingsError(f"{section} is {values!r}: it must be a section of names and values")
                merged[section].update(values)
        return cls(
            ModelSettings.of(merged["model"]), DataSettings.of(merged["data"]), TrainSettings.of(merged["train"])
        )

    def as_mapping(self) -> dict[str, dict[str, Any]]:
        """The settings in the file's form, ready for JSON."""
        return json.loads(json.dumps(asdict(self)))

    def text(self, form: str = "yaml") -> str:
        """The settings as a file of `form`, "yaml" or "json", that `read_settings` reads."""
        if form == "json":
            return json.dumps(self.as_mapping(), indent=2) + "\n"
        return require("yaml", "train").safe_dump(self.as_mapping(), sort_keys=False)


def read_settings(path: str | PathLike[str]) -> dict[str, Any]:
    """The content of a settings file, .json or YAML; SettingsError if it is missing or holds no names and values."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    if path.suffix.lower() == ".json":
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise SettingsError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error
    else:
        yaml = require("yaml", "train")
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path} holds no settings: write sections such as 'train:' with names and values")
    return content


def setting(text: str) -> dict[str, dict[str, Any]]:
    """`SECTION.NAME=VALUE`, the value as YAML writes it, in the file's form."""
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise SettingsError(f"{text!r} is no setting: write SECTION.NAME=VALUE, such as train.warmup=10")
    return {section: {key: require("yaml", "train").safe_load(value)}}
