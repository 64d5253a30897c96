"""What differs between a source and one of the published experiments."""

from __future__ import annotations

from ...theory.experiments import AOSA, DIFFUIR, Experiment
from .differences import Difference, Part
from .facts import SourceFacts
from .loops import LoopFacts
from .schedules import schedule_differences

TIMES = {True: "alpha_bar_t T and beta_bar_t T", False: "t"}
COUNTS = {1: "once", 2: "twice"}


def differences_from(
    row: Experiment, facts: SourceFacts, loops: LoopFacts, timesteps: int, sum_scale: float
) -> list[Difference]:
    """Return what differs between a source and an experiment; `timesteps` and `sum_scale` are those of `facts`."""
    return [
        *loops.problems,
        *_class(row, facts),
        *_schedules(row, facts, timesteps, sum_scale),
        *_sampling(row, facts, loops),
        *_optimisers(row, facts),
    ]


def _class(row: Experiment, facts: SourceFacts) -> list[Difference]:
    found = []
    generation = "num_unet" if row.num_unet else "share_encoder"
    if facts.generation not in (None, generation):
        found.append(Difference(Part.generation, 0, f"UnetRes takes {facts.generation}, published {generation}"))
    for has, published, what in (
        (facts.delta, row is DIFFUIR, "delta, DiffUIR's third coefficient"),
        (facts.alpha_res, row is AOSA, "alpha_res, AOSA's parameter"),
    ):
        if has != published:
            found.append(Difference(Part.generation, 0, f"the source {'has' if has else 'lacks'} {what}"))
    return found


def _schedules(row: Experiment, facts: SourceFacts, timesteps: int, sum_scale: float) -> list[Difference]:
    published = row.schedule(timesteps, sum_scale)
    found = schedule_differences(facts.schedule, published, Part.schedule)
    if facts.rebuilt is not None and row.rebuilt is not None:
        found += schedule_differences(facts.rebuilt, row.rebuilt(published), Part.rebuilt)
    elif facts.rebuilt is not None:
        found.append(Difference(Part.rebuilt, facts.rebuilt.line, "the source has init(), the published one does not"))
    elif row.rebuilt is not None:
        found.append(Difference(Part.rebuilt, 0, "the source has no init(), the published one does"))
    if facts.test_init is not None and facts.test_init.value != row.test_init:
        calls, theirs = ("calls", "does not") if facts.test_init.value else ("does not call", "does")
        what = f"test() {calls} init(), the published one {theirs}"
        found.append(Difference(Part.test_init, facts.test_init.line, what))
    for given, default, where in zip(facts.sum_scale, (0.01, 1.0), ("restore", "generate"), strict=True):
        if given != default:
            what = f"sum_scale is {given:g} if none is passed to {where}, published {default:g}"
            found.append(Difference(Part.arithmetic, facts.sum_scale_line, what))
    return found


def _sampling(row: Experiment, facts: SourceFacts, loops: LoopFacts) -> list[Difference]:
    found = []
    if loops.path_independent is not None and loops.path_independent != row.path_independent:
        what = (
            f"the networks see {TIMES[loops.path_independent]} as their time, published {TIMES[row.path_independent]}"
        )
        found.append(Difference(Part.time, loops.time_line, what))
    if facts.eta_is_0 == (row is DIFFUIR):
        what = f"the constructor {'sets' if facts.eta_is_0 else 'does not set'} eta to 0 where the model restores"
        found.append(Difference(Part.arithmetic, facts.eta_line, f"{what}, unlike the published one"))
    if loops.passes is None:  # The loop is not known, and the problems say so.
        return found
    if loops.passes != 1 + row.two_pass:
        count = COUNTS.get(loops.passes, f"{loops.passes} times")
        what = f"ddim_sample() walks its times {count}, published {COUNTS[1 + row.two_pass]}"
        found.append(Difference(Part.passes, loops.passes_line, what))
    if loops.eta != (0.0 if row.eta_is_0 else None):
        now, published = (
            "the constructor's" if eta is None else f"{eta:g}" for eta in (loops.eta, 0.0 if row.eta_is_0 else None)
        )
        found.append(Difference(Part.eta, loops.eta_line, f"eta is {now} in ddim_sample(), published {published}"))
    return found


def _optimisers(row: Experiment, facts: SourceFacts) -> list[Difference]:
    one = "Adam" if row.adam or not row.num_unet else "RAdam"
    two = one if not row.num_unet or row is DIFFUIR else "RAdam"
    return [
        Difference(Part.optimiser, literal.line, f"{literal.value} trains {networks}, published {name}")
        for literal, name, networks in ((facts.optimiser, one, "one network"), (facts.optimisers, two, "two networks"))
        if literal is not None and literal.value != name
    ]
