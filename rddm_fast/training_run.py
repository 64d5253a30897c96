"""From settings to a trainer: the data set, the model and the run that `rddm_fast.settings.RunSettings` describes."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ._extras import require
from .aosa import AUTO, AutoObjective
from .data import Item, PairedImages, PhotoPatches
from .diffusion import ResidualDiffusion
from .digits import Digits
from .image_files import find_images
from .pairs import find_pairs
from .schedule import Schedule
from .settings import DataSettings, ModelSettings, RunSettings, SettingsError
from .unet import ResidualUnets

if TYPE_CHECKING:
    from .train import Trainer

SHRINK = 2.0
"""Greatest factor by which photographs are scaled down to patches."""
WITH_MASK = ("shadow", "mask")
"""The degradations that come with a mask."""


def equalized(image: Tensor) -> Tensor:
    """(C, H, W) in [0, 1] with the histogram of each channel equalised in 8 bits, as published for low light."""
    cv2 = require("cv2", "images")
    channels = (image * 255).round().to(torch.uint8).numpy()
    return torch.from_numpy(np.stack([cv2.equalizeHist(np.ascontiguousarray(c)) for c in channels])).float() / 255


def resized(image: Tensor, side: int) -> Tensor:
    """(C, H, W) in [0, 1] to (C, side, side), bicubic with antialiasing; the shape is lost, as published."""
    if image.shape[-2:] == (side, side):
        return image
    return F.interpolate(image[None], (side, side), mode="bicubic", antialias=True)[0].clamp(0, 1)


class Prepared(Dataset[Item]):
    """`items` with what training on them wants done to each.

    size: side that the images are resized to; None leaves them.
    equalize_input: `equalized` of the input.
    input_is_target: for data of images alone, which are read as inputs: the item holds `target` in its place.
    """

    def __init__(
        self,
        items: Dataset[Item],
        *,
        size: int | None = None,
        equalize_input: bool = False,
        input_is_target: bool = False,
    ) -> None:
        self.items, self.size = items, size
        self.equalize_input, self.input_is_target = equalize_input, input_is_target

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Item:
        item = dict(self.items[index])
        if self.input_is_target:
            item["target"] = item.pop("input")
        if self.equalize_input:
            item["input"] = equalized(item["input"])
        if self.size is not None:
            side = self.size
            item = {key: resized(value, side) if isinstance(value, Tensor) else value for key, value in item.items()}
        return item


def dataset_of(data: DataSettings, kind: str, grey: bool, length: int, seed: int) -> tuple[Dataset[Item], bool]:
    """The data set of `length` items, and whether they have masks."""
    sources = [name for name in ("photos", "input", "digits") if getattr(data, name)]
    if kind == "generate":
        if data.digits == (data.target is not None) or data.photos or data.input:
            raise SettingsError("to generate, pass either --target, images to learn from, or --digits")
        if data.digits:
            return Digits(data.side or 16, length=length, seed=seed), False
        pairs = find_pairs(str(data.target))
    elif len(sources) != 1 or data.digits:
        raise SettingsError("pass either --photos, photographs to degrade, or --input and --target, pairs of images")
    elif data.photos:
        if data.patch is None:
            raise SettingsError("photographs are degraded in patches: pass --patch, their side in pixels")
        options: dict[str, Any] = {"patch": data.patch, "length": length, "seed": seed, "flip": data.flip}
        patches = PhotoPatches(find_images(data.photos), data.degradation, shrink=SHRINK, **options)
        return _prepared(patches, data, kind), data.degradation in WITH_MASK
    else:
        pairs = find_pairs(str(data.input), data.target, data.mask)
        if any(pair.target is None for pair in pairs):
            raise SettingsError("training needs the ground truth: pass --target")
    if data.patch is not None and data.size is not None:
        raise SettingsError("pass data.patch, random patches, or data.size, whole images resized, not both")
    flip = 0.5 if data.flip else 0.0
    images = PairedImages(pairs, patch=data.patch, flip=flip, length=length, grey=grey, seed=seed)
    return _prepared(images, data, kind), any(pair.mask is not None for pair in pairs)


def _prepared(items: Dataset[Item], data: DataSettings, kind: str) -> Dataset[Item]:
    generating = kind == "generate"
    if data.size is None and not data.equalize_input and not generating:
        return items
    equalize = data.equalize_input and not generating
    return Prepared(items, size=data.size, equalize_input=equalize, input_is_target=generating)


def schedule_of(model: ModelSettings) -> Schedule:
    """The schedule of a model's settings."""
    if model.schedule == "ddim":
        if model.sum_scale != 1:
            raise SettingsError(
                f"a schedule converted from DDIM ends at beta_bar_T = 1: pass model.sum_scale 1, not {model.sum_scale}"
            )
        return Schedule.from_ddim(model.timesteps)
    if model.schedule == "power":
        return Schedule.power(model.timesteps, model.sum_scale)
    return Schedule.triangular(model.timesteps, model.sum_scale)


def model_of(model: ModelSettings, masked: bool, side: int | None) -> ResidualDiffusion | AutoObjective:
    """The untrained model, its weights drawn from torch's generator; `side` of a generated image if none is set."""
    if model.mask is not None and model.mask != masked:
        raise SettingsError(
            "this model takes a mask: pass --mask" if model.mask else "this model takes no mask: leave --mask out"
        )
    conditional = model.kind != "generate"
    network = ResidualUnets(
        model.dim,
        networks=model.networks,
        dim_mults=list(model.mults),
        channels=model.channels,
        self_condition=model.self_condition,
        condition=conditional,
        input_condition=masked,
        img_to_img_translation=model.kind == "translate",
    )
    diffusion = ResidualDiffusion(
        network,
        schedule_of(model),
        objective="pred_res" if model.objective == AUTO else model.objective,
        condition=conditional,
        input_condition=masked,
        img_to_img_translation=model.kind == "translate",
        input_condition_mask=masked,
        path_independent=model.path_independent,
        loss_type=model.loss_type,
        clip_res=model.clip_res,
        sampling_timesteps=model.sampling_timesteps,
        image_size=model.image_size or (None if conditional else side),
    )
    return AutoObjective(diffusion) if model.objective == AUTO else diffusion


def trainer_of(run: RunSettings, folder: str | PathLike[str]) -> Trainer:
    """The trainer of a run in `folder`, where an interrupted run is gone on with.

    Raises SettingsError for settings that do not go together, DataError and ImageError for images that cannot be used.
    """
    from .train import Trainer

    model, data, train = run.model, run.data, run.train
    length = train.steps * train.batch_size * train.accumulate
    dataset, masked = dataset_of(data, model.kind, model.channels == 1, length, train.seed)
    torch.manual_seed(train.seed)
    untrained = model_of(model, masked, data.side)
    task = data.degradation if data.photos else {"generate": "generation"}.get(model.kind, "pairs")
    return Trainer(untrained, dataset, folder, train, info={"task": task})
