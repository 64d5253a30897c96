"""What a model folder's config.json may hold: the type and the range of each field, checked before a model is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..system.typed import check_range, checked


@dataclass(frozen=True)
class Field:
    """A field's type, as `system.typed.checked` takes it, its range (a `least` of None is any), and if it is needed."""

    hint: Any
    least: float | None = None
    most: float | None = None
    needed: bool = False


_FLAG = Field(bool)
_SIZE = Field(int, 1, 1_000_000)  # a greater one is a mistake that would fill the memory
_OR_DEFAULT = Field(int | None, 1, 1_000_000)
_NUMBER = Field(float, 0)
NETWORK = {
    "dim": Field(int, 1, 1_000_000, needed=True),
    "networks": Field(str),
    "init_dim": _OR_DEFAULT,
    "out_dim": _OR_DEFAULT,
    "dim_mults": Field(tuple[int, ...], 1, 1_000_000),
    "channels": _SIZE,
    "self_condition": _FLAG,
    "resnet_block_groups": _SIZE,
    "condition": _FLAG,
    "input_condition": _FLAG,
    "img_to_img_translation": _FLAG,
    "padding_factor": _OR_DEFAULT,
}
"""The arguments of `ResidualUnets`."""
DIFFUSION = {
    "condition": _FLAG,
    "input_condition": _FLAG,
    "input_condition_mask": _FLAG,
    "img_to_img_translation": _FLAG,
    "path_independent": _FLAG,
    "official_two_pass": _FLAG,
    "test_res_or_noise": Field(str | None),
    "loss_type": Field(str),
    "sampling_timesteps": _OR_DEFAULT,
    "eta": Field(float, 0, 1),
    "clip_res": _NUMBER,
    "image_size": _OR_DEFAULT,
    "mask_marks": Field(str | None),
    "first_guess": Field(str | None),
    "clean_without": Field(str | None),
    "global_exposure": _FLAG,
}
"""The settings of `ResidualDiffusion` that are saved under these names."""
_CURVE = {"shape": Field(str), "ratio": _NUMBER}
_SCHEDULE: dict[str, Field | dict[str, Field]] = {
    "family": Field(str, needed=True),
    "form": Field(str),
    "timesteps": _SIZE,
    "alpha": _CURVE,
    "beta2": _CURVE,
    "beta_schedule": Field(str),
    "boundary": Field(str),
    "sum_scale": _NUMBER,
    "delta_end": _NUMBER,
    "kappa": _NUMBER,
    "power": _NUMBER,
    "min_noise_level": _NUMBER,
    "max_sigma": _NUMBER,
    "eps": _NUMBER,
}
"""A recipe of `theory.families`; each family has some of these."""
_COLD = {"name": Field(str, needed=True), "T": Field(int, 1, 1_000_000, needed=True)}
RDDM: dict[str, Any] = {"objective": Field(str), "network": NETWORK, "schedule": _SCHEDULE, "diffusion": DIFFUSION}
COLD: dict[str, Any] = {"loss_type": Field(str), "network": NETWORK, "degradation": _COLD}
"""The degradation's other settings are checked by `inverse.cold.recipes`, which knows them."""
_OPEN = ("degradation",)
"""The groups that may hold more names than are told here."""


def checked_config(config: Mapping[str, Any], form: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a config.json that `form`, `RDDM` or `COLD`, describes.

    Raises:
        KeyError: the field of this name is missing.
        ValueError: a field is unknown, of another type or out of its range; one sentence with its name.
    """
    return {name: _checked(config[name], part, name) for name, part in form.items()}


def _checked(value: Any, part: Field | Mapping[str, Any], name: str) -> Any:
    if isinstance(part, Field):
        found = checked(value, part.hint, name)
        check_range(found, part.least, part.most, name)
        return list(found) if isinstance(found, tuple) else found
    values = checked(value, dict, name)
    more = {key: entry for key, entry in values.items() if key not in part}
    if more and name not in _OPEN:
        raise ValueError(f"{name}.{min(more)} is not known: update rddm_fast, or leave it out")
    for key, inner in part.items():
        if key in values:
            more[key] = _checked(values[key], inner, f"{name}.{key}")
        elif isinstance(inner, Field) and inner.needed:
            raise KeyError(f"{name}.{key}")
    return more
