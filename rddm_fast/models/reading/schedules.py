"""What differs between the schedule of a source and a published one, by its literals where they tell."""

from __future__ import annotations

from typing import Any

import torch

from ...theory.schedule import BUFFER_NAMES, Schedule
from .differences import Difference, Part
from .facts import ScheduleFacts, same_tables

DDIM = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
DELTA_START = 1e-6
WORDS = {
    "beta_schedule": "the beta schedule is",
    "beta_start": "the beta schedule starts at",
    "beta_end": "the beta schedule ends at",
}


def schedule_differences(found: ScheduleFacts, published: Schedule, part: Part) -> list[Difference]:
    """Return what differs between a source's schedule and a published one; `part` is the method that makes it."""
    where = "in init(), " if part is Part.rebuilt else ""
    same = same_tables(
        published,
        found.buffers["alphas_cumsum"].double(),
        found.buffers["betas2_cumsum"].double(),
        found.buffers["delta_cumsum"].double() if "delta_cumsum" in found.buffers else None,
    )
    told = [Difference(part, line, where + what) for line, what in _literals(found, published)]
    if same:
        return _buffers(found, published, part, where)
    if told:
        return told
    T, steps = published.timesteps, len(found.buffers["alphas_cumsum"])
    if steps != T:
        return [Difference(part, found.line, f"{where}the schedule has {steps} steps, published {T}")]
    line = found.lines.get("alphas_cumsum", found.line)
    return [Difference(part, line, f"{where}the coefficients are computed in another way than in the published code")]


def _buffers(found: ScheduleFacts, published: Schedule, part: Part, where: str) -> list[Difference]:
    """Return the buffers that differ although the cumulated tables are the published ones."""
    expected = published.buffers()
    differences = []
    for name in BUFFER_NAMES:
        if name not in found.buffers:
            differences.append(Difference(part, found.line, f"{where}the buffer {name} is missing"))
            continue
        # The logarithm's floor, 1e-20, is below float32's rounding of the variance.
        a, b = (
            x.double().exp() if name.endswith("clipped") else x.double() for x in (found.buffers[name], expected[name])
        )
        if not torch.allclose(a, b, rtol=1e-3, atol=2e-5):
            line = found.lines.get(name, found.line)
            differences.append(Difference(part, line, f"{where}the buffer {name} is not the published one"))
    return differences


def _literals(found: ScheduleFacts, published: Schedule) -> list[tuple[int, str]]:
    """Return the lines and sentences of the literals that differ."""
    recipe, told = published.recipe, []
    if recipe["family"] == "ddim" and found.alpha is None:
        for name, value in DDIM.items():
            literal = getattr(found, name)
            if literal is not None and literal.value != value:
                told.append((literal.line, f"{WORDS[name]} {_text(literal.value)}, published {_text(value)}"))
        if "delta_end" in recipe:
            for name, value in (("delta_start", DELTA_START), ("delta_end", recipe["delta_end"])):
                literal = getattr(found, name)
                if literal is not None and literal.value != value:
                    end = "starts" if name == "delta_start" else "ends"
                    told.append((literal.line, f"delta {end} at {_text(literal.value)}, published {_text(value)}"))
    elif recipe["family"] == "ddim":
        told.append((found.line, f"the schedule is {_described(found)}, published converted from DDIM"))
    elif found.alpha is None or found.beta2 is None:
        text = ", ".join(
            f"{name} {_recipe_text(recipe, key)}" for name, key in (("alpha", "alpha"), ("beta^2", "beta2"))
        )
        told.append((found.line, f"the schedule is converted from DDIM, published gen_coefficients ({text})"))
    else:
        for name, call, key in (("alpha", found.alpha, "alpha"), ("beta^2", found.beta2, "beta2")):
            form = recipe["family"]
            if call.form != form and not (call.shape == recipe[key]["shape"] == "average"):
                made = call.form or "unknown"
                told.append((call.line, f"gen_coefficients makes the {made} form of {name}, published the {form} one"))
            elif call.shape != recipe[key]["shape"]:
                told.append((call.line, f"{name} is {call.shape}, published {recipe[key]['shape']}"))
            elif form == "power" and call.ratio != recipe[key]["ratio"]:
                told.append((call.line, f"the ratio of {name} is {call.ratio:g}, published {recipe[key]['ratio']:g}"))
    return told


def _described(found: ScheduleFacts) -> str:
    return f"gen_coefficients (alpha {found.alpha}; beta^2 {found.beta2})"


def _recipe_text(recipe: dict[str, Any], key: str) -> str:
    ratio = recipe[key].get("ratio")
    return recipe[key]["shape"] + (f", ratio {ratio:g}" if ratio is not None else "")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
