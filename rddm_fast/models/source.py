"""Which published experiment a source is: `residual_denoising_diffusion_pytorch.py`, or DiffUIR's `src/model.py`.

The source is parsed and never imported or run, so an edited one is read as safely as the published one. Its
schedule, time input, read-out and loops are followed and held against the rows of `theory.experiments`.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from ..system.errors import one_line
from ..theory.experiments import DDIM_CONVERSION, DIFFUIR, EXPERIMENTS, Experiment
from ..theory.schedule import Schedule
from .errors import ModelError
from .reading.differences import Difference, Part
from .reading.facts import TIMESTEPS, SourceFacts, class_named, facts_of
from .reading.loops import LoopFacts, loops_of
from .reading.rows import differences_from
from .reading.values import NotKnown

WITHOUT_EFFECT = (Part.optimiser,)
"""The parts that `ResidualDiffusion` does not have."""


@dataclass(frozen=True)
class Diagnosis:
    """What a source is.

    Attributes:
        path: the file.
        experiment: the experiment that it is, or the nearest one.
        exact: whether nothing differs from it.
        differences: what differs, in the order of their lines.
        keywords: the keywords of `compat.ResidualDiffusion` that reproduce it; None if none do.
        reason: why none do; "" if some do.
        compared: whether its arithmetic was compared. Folder 1's scheduler is known by a method's name alone.
    """

    path: Path
    experiment: Experiment
    exact: bool
    differences: tuple[Difference, ...]
    keywords: dict[str, Any] | None
    reason: str
    compared: bool = True


def from_source(path: str | PathLike[str], *, timesteps: int = TIMESTEPS, sum_scale: float = 1.0) -> dict[str, Any]:
    """Return the keywords of `compat.ResidualDiffusion` that reproduce a published, possibly edited, source.

    Args:
        path: the source; it is read and never run.
        timesteps, sum_scale: the arguments that it is used with. They count where a schedule is one of the keywords.

    Raises:
        ModelError: (a ValueError) no keywords reproduce it; the sentence says what stands in the way.
    """
    found = diagnosis(path, timesteps=timesteps, sum_scale=sum_scale)
    if found.keywords is None:
        raise ModelError(f"{path}: {found.reason}")
    return found.keywords


def diagnosis(path: str | PathLike[str], *, timesteps: int = TIMESTEPS, sum_scale: float = 1.0) -> Diagnosis:
    """Find out which published experiment a source is, and what differs in it.

    Raises:
        ModelError: the file is no Python, has no class ResidualDiffusion, or makes its schedule in a way that is not
            known; one sentence.
    """
    path = Path(path)
    tree = parsed(path)
    cls = class_named(tree, "ResidualDiffusion")
    if cls is None:
        if any(isinstance(node, ast.FunctionDef) and node.name == "set_config_res" for node in ast.walk(tree)):
            what = f"experiment {DDIM_CONVERSION} samples pipelines of diffusers, without ResidualDiffusion: "
            return Diagnosis(path, DDIM_CONVERSION, False, (), None, what + "run rddm-fast ddim FOLDER", compared=False)
        raise ModelError(
            f"{path} has no class ResidualDiffusion: pass RDDM's residual_denoising_diffusion_pytorch.py or DiffUIR's "
            "model.py"
        )
    try:
        facts = facts_of(tree, timesteps, sum_scale)
    except NotKnown as unknown:
        raise ModelError(f"{path}, {unknown}") from None
    loops = loops_of(tree, cls)
    found = [
        _against(path, row, facts, loops, differences_from(row, facts, loops, timesteps, sum_scale))
        for row in EXPERIMENTS.values()
        if row is not DDIM_CONVERSION
    ]
    return min(found, key=lambda diagnosis: _distance(diagnosis, facts))


def _against(
    path: Path, row: Experiment, facts: SourceFacts, loops: LoopFacts, differences: list[Difference]
) -> Diagnosis:
    ordered = tuple(sorted(differences, key=lambda difference: difference.line))
    keywords, reason = None, ""
    try:
        keywords = _keywords(facts, loops, row, ordered)
    except ModelError as error:
        reason = str(error)
    return Diagnosis(path, row, not ordered, ordered, keywords, reason)


def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file; raises ModelError if it is not Python."""
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"{path} is not Python source: {one_line(error)}") from None


_WEIGHTS = {Part.generation: 4.0, Part.rebuilt: 0.5, Part.optimiser: 0.5}
"""How much a part counts, if not 1, in finding the nearest experiment."""


def _distance(found: Diagnosis, facts: SourceFacts) -> tuple[float, bool, bool, int]:
    """Return how far a source is from an experiment. Between two as near, the folder's name decides, then keywords."""
    parts = {difference.part for difference in found.differences}
    row = found.experiment
    # Folders 4 and 5 alone take img_to_img_translation, which changes no image that is made without it.
    hint = 0.25 * (facts.translation != (row.number in (4, 5)))
    return (
        sum(_WEIGHTS.get(part, 1.0) for part in parts) + hint,
        row.folder not in found.path.resolve().parts,
        found.keywords is None,
        len(found.keywords or ()),
    )


# -- the keywords ---------------------------------------------------------------------------------------------


def _keywords(
    facts: SourceFacts, loops: LoopFacts, row: Experiment, differences: tuple[Difference, ...]
) -> dict[str, Any]:
    """Return the keywords that reproduce a source; raises ModelError with one sentence if there are none."""
    parts = {difference.part: difference for difference in differences if difference.part not in WITHOUT_EFFECT}
    for part in (Part.arithmetic, Part.generation):
        if part in parts:
            raise ModelError(f"no keyword of ResidualDiffusion expresses this edit: {parts[part]}")
    options: dict[str, Any] = {}
    if parts.pop(Part.eta, None) is not None:
        # Where a model restores, eta is 0 whatever a loop says, unless the loop sets another number.
        if loops.eta and row.condition:
            raise ModelError(f"no keyword of ResidualDiffusion samples with eta={loops.eta:g} where a model restores")
        if loops.eta is not None:
            options["ddim_sampling_eta"] = loops.eta
    tested = _tested(facts, row)
    if not parts.keys() - {Part.rebuilt, Part.test_init, Part.schedule}:
        named = _of_experiment(facts, row, Part.schedule in parts, tested)
        if named is not None:
            return {**named, **options}
    if row is DIFFUIR:
        raise ModelError("DiffUIR's class takes delta_end alone, not the other edits of this source")
    made = facts.schedule.schedule
    if not _alike(tested, made):
        line = facts.rebuilt.line if facts.rebuilt is not None else 0
        raise ModelError(
            f"test() samples with another schedule than the model is trained with (line {line}), which no keyword of "
            "ResidualDiffusion says: pass that schedule to the model's init()"
        )
    options["path_independent"] = bool(loops.path_independent)
    if loops.passes == 2:
        options["official_two_pass"] = True
    recipe = made.recipe
    if recipe["family"] == "ddim" and recipe["beta_schedule"] == "linear":
        options["convert_to_ddim"] = True
    else:
        options["schedule"] = made
    return options


def _tested(facts: SourceFacts, row: Experiment) -> Schedule:
    """Return the schedule that test() samples with."""
    calls = facts.test_init.value if facts.test_init is not None else row.test_init
    return facts.rebuilt.schedule if calls and facts.rebuilt is not None else facts.schedule.schedule


def _of_experiment(facts: SourceFacts, row: Experiment, edited: bool, tested: Schedule) -> dict[str, Any] | None:
    """Return the experiment's name, with its schedule if that is edited; None if test() would sample with another."""
    made = facts.schedule.schedule
    keywords: dict[str, Any] = {"experiment": row.name}
    schedule = row.schedule(made.timesteps, made.sum_scale)
    if edited:
        only_delta_end = _but_delta_end(made) == _but_delta_end(schedule)
        if row is DIFFUIR and not only_delta_end:
            return None
        keywords |= {"delta_end": made.recipe["delta_end"]} if row is DIFFUIR else {"schedule": made}
        schedule = made
    reproduced = row.rebuilt(schedule) if row.test_init and row.rebuilt is not None else schedule
    return keywords if _alike(tested, reproduced) else None


def _but_delta_end(schedule: Schedule) -> dict[str, Any]:
    return {name: value for name, value in schedule.recipe.items() if name not in ("delta_end", "boundary")}


def _alike(a: Schedule, b: Schedule) -> bool:
    """Whether two schedules have the same tables."""
    if len(a.alpha_bar) != len(b.alpha_bar) or (a.delta_bar is None) != (b.delta_bar is None):
        return False
    pairs = [(a.alpha_bar, b.alpha_bar), (a.beta_bar**2, b.beta_bar**2)]
    if a.delta_bar is not None and b.delta_bar is not None:
        pairs.append((a.delta_bar, b.delta_bar))
    return all(abs(x - y).max() <= 3e-6 for x, y in pairs)
