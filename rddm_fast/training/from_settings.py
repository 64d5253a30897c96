"""From settings to a trainer: builds the data set, the model and the run that `RunSettings` describes."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from os import PathLike
from typing import Any

import torch
from torch.utils.data import Dataset

from ..diffusion.cold_restorer import ColdRestorer
from ..diffusion.residual import ResidualDiffusion
from ..diffusion.residual_unets import ResidualUnets
from ..images.datasets import Item, PairedImages, PhotoPatches
from ..images.degrade import WITH_MASK
from ..images.digits import Digits
from ..images.find import find_images
from ..images.given.learnt import CLEAN_WITHOUT, FIRST_GUESS_OF, MASK_MARKS_OF
from ..images.pairs import find_pairs
from ..images.prepared import Prepared
from ..inverse.cold.recipes import PREFIX, Recipe
from ..models.folder import load_model
from ..system.errors import quoted_value
from ..theory.objective import AUTO
from ..theory.schedule import Schedule
from .aosa import AutoObjective
from .guards.data import fingerprint
from .settings import DataSettings, ModelSettings, RunSettings, SettingsError
from .trainer import Trainer

SHRINK = 2.0
"""Photographs are scaled down by up to this factor before a patch is cut."""
OF_EXPOSURE = ("lowlight", "wide-lowlight")
OF_COLD = ("dim", "mults", "channels", "loss_type")
"""The settings of a model that a restorer of Cold Diffusion has; it takes all others at their defaults."""


def dataset_of(data: DataSettings, kind: str, grey: bool, length: int, seed: int) -> tuple[Dataset[Item], bool]:
    """Build the data set.

    Args:
        data: its settings.
        kind: of the model: "restore", "translate" or "generate".
        grey: whether images have one channel.
        length: the number of items.
        seed: of patches and degradations.

    Returns:
        The data set, and whether its items have masks.

    Raises SettingsError for settings that contradict each other, DataError and ImageError for unusable images.
    """
    generating = kind == "generate"
    if generating and (data.input or [data.digits, bool(data.target), bool(data.photos)].count(True) != 1):
        raise SettingsError("to generate, pass one of --target, images to learn from, --photos and --digits")
    if not generating and (data.digits or bool(data.photos) == bool(data.input)):
        raise SettingsError("pass either --photos, photographs to degrade, or --input and --target, pairs of images")
    if data.digits:
        return Digits(data.side or 16, length=length, seed=seed), False
    if data.photos:
        if data.patch is None:
            raise SettingsError("photographs are read in patches: pass --patch, their side in pixels")
        options: dict[str, Any] = {"patch": data.patch, "length": length, "seed": seed, "flip": data.flip}
        degradation = None if generating else data.degradation
        patches = PhotoPatches(find_images(data.photos), degradation, shrink=SHRINK, **options)
        return patches if generating else _prepared(patches, data, kind), degradation in WITH_MASK
    if generating:
        pairs = find_pairs(str(data.target))
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
    equalize = data.equalize_input and not generating
    if data.size is None and not equalize and not generating:
        return items
    return Prepared(items, size=data.size, equalize_input=equalize, input_is_target=generating)


def schedule_of(model: ModelSettings) -> Schedule:
    """The schedule that the settings name. Raises SettingsError for a sum_scale that it cannot have."""
    if model.schedule == "ddim":
        if model.sum_scale != 1:
            raise SettingsError(
                f"a schedule converted from DDIM ends at beta_bar_T = 1: pass model.sum_scale 1, not {model.sum_scale}"
            )
        return Schedule.from_ddim(model.timesteps)
    if model.schedule == "power":
        return Schedule.power(model.timesteps, model.sum_scale)
    return Schedule.triangular(model.timesteps, model.sum_scale)


def model_of(
    model: ModelSettings, masked: bool, side: int | None, degradation: str | None = None
) -> ResidualDiffusion | AutoObjective:
    """Build the model before training: its weights are drawn from torch's generator, or those of `start_from`.

    Args:
        model: its settings.
        masked: whether the data has masks.
        side: of a generated image in pixels, unless the settings give one.
        degradation: of photographs, a name in `images.degrade.KINDS`; None for other data.

    Raises SettingsError if the model takes a mask that the data lacks, or the other way round, or if the networks of
    `start_from` are others; ModelError if it cannot be loaded.
    """
    if model.mask is not None and model.mask != masked:
        raise SettingsError(
            "this model takes a mask: pass --mask" if model.mask else "this model takes no mask: leave --mask out"
        )
    conditional = model.kind != "generate"
    images: dict[str, Any] = {
        "condition": conditional,
        "input_condition": masked,
        "img_to_img_translation": model.kind == "translate",
    }
    network = _network_of(model, networks=model.networks, self_condition=model.self_condition, **images)
    diffusion = ResidualDiffusion(
        network,
        schedule_of(model),
        objective="pred_res" if model.objective == AUTO else model.objective,
        input_condition_mask=masked,
        path_independent=model.path_independent,
        loss_type=model.loss_type,
        clip_res=model.clip_res,
        sampling_timesteps=model.sampling_timesteps,
        image_size=model.image_size or (None if conditional else side),
        mask_marks=MASK_MARKS_OF.get(degradation or ""),
        first_guess=FIRST_GUESS_OF.get(degradation or "") if conditional else None,
        clean_without=CLEAN_WITHOUT.get(degradation or "") if conditional else None,
        global_exposure=degradation in OF_EXPOSURE,
        **images,
    )
    if model.start_from is not None:
        _take_weights(diffusion, model.start_from)
    return AutoObjective(diffusion) if model.objective == AUTO else diffusion


def _take_weights(diffusion: ResidualDiffusion, folder: str) -> None:
    other = load_model(folder)
    ours, theirs = ({name: tuple(w.shape) for name, w in m.model.state_dict().items()} for m in (diffusion, other))
    if ours != theirs:
        raise SettingsError(
            f"model.start_from {quoted_value(folder)} has other networks than these settings: it has "
            f"{json.dumps(other.model.config)}"
        )
    diffusion.model.load_state_dict(other.model.state_dict())


def _network_of(model: ModelSettings, **options: Any) -> ResidualUnets:
    """Build the networks. Raises SettingsError for sizes that torch cannot have, or not in this machine's memory."""
    try:
        return ResidualUnets(model.dim, dim_mults=list(model.mults), channels=model.channels, **options)
    except (RuntimeError, MemoryError, TypeError, OverflowError) as error:
        sizes = f"model.dim {model.dim}, model.mults {quoted_value(list(model.mults))}, model.channels {model.channels}"
        raise SettingsError(f"there is not enough memory for networks of {sizes}: choose smaller ones") from error


def cold_restorer_of(model: ModelSettings, recipe: Recipe) -> ColdRestorer:
    """Build the untrained restorer, with weights drawn from torch's generator.

    Raises SettingsError for a setting that says nothing to a restorer of Cold Diffusion.
    """
    ours, defaults = asdict(model), asdict(ModelSettings())
    if foreign := [name for name in ours if name not in OF_COLD and ours[name] != defaults[name]]:
        raise SettingsError(
            f"{PREFIX}{recipe.name} trains a restorer of Cold Diffusion, which has no model.{foreign[0]}: leave it out"
        )
    if recipe.name == "decolour" and model.channels == 1:
        raise SettingsError(f"{PREFIX}decolour takes colours away: it needs images of more than one channel")
    return ColdRestorer(_network_of(model, networks="one"), recipe.values(), model.loss_type)


def _cold_recipe(data: DataSettings) -> Recipe | None:
    """The recipe of a degradation cold:NAME, else None. Raises ValueError for data that it cannot be trained on."""
    if not data.degradation.startswith(PREFIX):
        return None
    recipe = Recipe.parsed(data.degradation)
    sources = [bool(data.photos), bool(data.target), data.digits].count(True)
    if data.input or data.mask or data.equalize_input or sources != 1:
        raise SettingsError(
            f"{data.degradation} degrades clean images itself: pass one of --photos, --target and --digits, and "
            "neither --input nor --mask"
        )
    if data.side is None:
        raise SettingsError(f"{data.degradation} is made for one size: pass --patch or --size")
    recipe.made((data.side, data.side), recipe.draw((data.side, data.side), 1))  # a size that does not fit fails here
    return recipe


def trainer_of(run: RunSettings, folder: str | PathLike[str], *, new_data: bool = False) -> Trainer:
    """The trainer of a run in `folder`; it resumes an interrupted run, on other data only with `new_data`.

    Raises SettingsError for settings that contradict each other, DataError and ImageError for unusable images.
    """
    model, data, train = run.model, run.data, run.train
    length = min(train.steps * train.batch_size * train.accumulate, sys.maxsize)
    recipe = _cold_recipe(data)
    # A cold restorer learns from clean images alone, as a generating model does.
    kind = model.kind if recipe is None else "generate"
    dataset, masked = dataset_of(data, kind, model.channels == 1, length, train.seed)
    torch.manual_seed(train.seed)
    degrades = recipe is not None or bool(data.photos)
    degradation = data.degradation if data.photos and kind == "restore" else None
    untrained = model_of(model, masked, data.side, degradation) if recipe is None else cold_restorer_of(model, recipe)
    task = "generation" if model.kind == "generate" else data.degradation if degrades else "pairs"
    found = fingerprint(data, dataset)
    info = {"task": task} if model.start_from is None else {"task": task, "start_from": model.start_from}
    return Trainer(untrained, dataset, folder, train, info=info, data=found, new_data=new_data)
