"""What a source's sampling loops compute with its tables.

Each loop is followed with images as linear forms, and its steps are held against `theory.steps.few_steps` with the
source's own tables. So neither formatting, nor names, nor the order of terms matters.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ...theory.schedule import Schedule
from ...theory.steps import Step, few_steps
from .differences import Difference, Part
from .networks import ETA, STEPS, TIMESTEPS, check_forward, check_read_out, diffusion_reader, row, times
from .reader import Constant, Reader
from .values import Image, NotKnown, Thing, differing

STEP_TYPES = ("use_pred_noise", "use_x_start", "special_eta_0", "special_eta_1")
WORDS = {
    "res": "residual",
    "noise": "noise",
    "clean": "clean image",
    "x_input": "degraded image",
    "I": "image",
    "1": "1",
}


@dataclass(frozen=True)
class LoopFacts:
    """What the methods do, where experiments differ.

    Attributes:
        path_independent: whether the networks see the coefficients as their times; None if it is neither they nor t.
        time_line: the line of the networks' call.
        passes: how often `ddim_sample` walks its time pairs; None if the loop is not known.
        passes_line: the line of its last loop.
        eta: the eta that its steps have; None if it is the constructor's.
        eta_line: the line that sets it.
        problems: what differs from every published source.
    """

    path_independent: bool | None
    time_line: int
    passes: int | None
    passes_line: int
    eta: float | None
    eta_line: int
    problems: tuple[Difference, ...]


def loops_of(tree: ast.Module, cls: ast.ClassDef) -> LoopFacts:
    """Read the methods of a source's ResidualDiffusion.

    What is not known in a method becomes one of the problems, with its line.
    """
    problems: list[Difference] = []

    def tried(ask: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return ask()
        except NotKnown as unknown:
            problems.append(Difference(Part.arithmetic, unknown.line, unknown.what))
            return otherwise

    path_independent, time_line = tried(lambda: times(tree, cls, problems), (None, 0))
    tried(lambda: check_read_out(tree, cls, problems), None)
    tried(lambda: check_forward(tree, cls, problems), None)
    passes, passes_line, eta, eta_line = tried(lambda: _few_steps(tree, cls, problems), (None, 0, None, 0))
    tried(lambda: _check_ancestral(tree, cls, problems), None)
    unique = tuple({str(problem): problem for problem in problems}.values())
    return LoopFacts(path_independent, time_line, passes, passes_line, eta, eta_line, unique)


@dataclass
class _Visit:
    """One call of model_predictions by a loop."""

    t: int
    image: Image
    predicted: Thing
    line: int


def _visited(reader: Reader) -> list[_Visit]:
    """Let model_predictions return new images at each call; return the list of its calls."""
    visits: list[_Visit] = []

    def call(x_input: Any, x: Any, t: Any, *rest: Any, **named: Any) -> Thing:
        k = len(visits)
        words = {"pred_res": f"res{k}", "pred_noise": f"noise{k}", "pred_x_start": f"clean{k}"}
        predicted = Thing({name: reader.image(word) for name, word in words.items()})
        visits.append(_Visit(int(t), x, predicted, reader.at))
        return predicted

    reader.overrides["model_predictions"] = call
    return visits


def _sampled(reader: Reader, method: str, restoring: bool) -> list[Image]:
    """Return the images that a loop makes, the first one included."""
    given = [reader.image("x_input")] if restoring else [0]
    found = reader.method(method, given, (1, 3, 8, 8), last=False)
    if not isinstance(found, list) or not all(isinstance(image, Image) for image in found):
        raise NotKnown(reader.methods[method].lineno, f"what {method}() returns is not known")
    return found if restoring else [Image({"z0": 1.0}, reader.clamps), *found]


def _few_steps(tree: ast.Module, cls: ast.ClassDef, problems: list[Difference]) -> tuple[int, int, float | None, int]:
    """Return the passes of ddim_sample and its eta, each with its line; check every step."""
    reader = diffusion_reader(tree, cls, restoring=False)
    reader.me.attributes["ddim_sampling_eta"] = ETA
    visits = _visited(reader)
    images = _sampled(reader, "ddim_sample", restoring=False)
    passes, loop_line = max(1, len(reader.loops)), reader.loops[-1] if reader.loops else 0
    literal = _eta(reader)
    eta = ETA if reader.draws > 1 else 0.0
    if literal is not None and reader.draws > 1:
        eta = float(literal.value)
    for restoring in (False, True):
        reader = diffusion_reader(tree, cls, restoring=restoring)
        reader.me.attributes["ddim_sampling_eta"] = ETA
        visits = _visited(reader)
        images = _sampled(reader, "ddim_sample", restoring)
        if visits:
            _check_start(reader, visits[0].image, restoring, "ddim_sample", problems)
        _check_steps(reader, _expected_steps(reader, passes, eta), visits, images, restoring, problems)
    for constant in reader.constants:
        if constant.value in STEP_TYPES[1:]:
            what = f"the step is of type {constant.value!r}, published 'use_pred_noise'"
            problems.append(Difference(Part.arithmetic, constant.line, what))
    line = literal.line if literal is not None else loop_line
    return passes, loop_line, None if eta == ETA else eta, line


def _eta(reader: Reader) -> Constant | None:
    """Return the assignment of a number to the variable that holds `self.ddim_sampling_eta` in the loop."""
    names: set[str] = set()
    for node in ast.walk(reader.methods["ddim_sample"]):
        if isinstance(node, ast.Assign):
            pairs = [(node.targets[0], node.value)]
            if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(node.targets[0].elts, node.value.elts, strict=False))
            names.update(
                target.id
                for target, value in pairs
                if isinstance(target, ast.Name)
                and isinstance(value, ast.Attribute)
                and value.attr == "ddim_sampling_eta"
            )
    names = names or {"eta"}
    found = [c for c in reader.constants if c.inside == "ddim_sample" and c.name in names]
    return found[-1] if found and isinstance(found[-1].value, (int, float)) else None


def _expected_steps(reader: Reader, passes: int, eta: float) -> list[Step]:
    """Return the steps that the package takes with the source's own tables."""
    tables = reader.me.attributes
    schedule = Schedule.from_tables(tables["alphas_cumsum"], tables["betas_cumsum"], 1.0, tables.get("delta_cumsum"))
    steps = few_steps(schedule, STEPS, eta)
    if schedule.delta_bar is not None:
        steps = [
            step
            if step.s < 0
            else replace(step, k_noise=0.0, k_in=schedule.delta_bar_at(step.t) - schedule.delta_bar_at(step.s))
            for step in steps
        ]
    if passes == 2:
        steps = [*(replace(step, k_noise=0.0) for step in steps), *(replace(step, k_res=0.0) for step in steps)]
    return steps


def _check_start(reader: Reader, start: Image, restoring: bool, method: str, problems: list[Difference]) -> None:
    delta = row(reader, -1)[3] if method == "ddim_sample" else 0.0
    root = math.sqrt(float(reader.me.attributes.get("sum_scale", 1.0)))
    expected = {"x_input": 1 - delta, "z0": root} if restoring else {"z0": 1.0}
    if differing(start.terms, expected):
        line = start.line or reader.methods[method].lineno
        problems.append(
            Difference(Part.arithmetic, line, f"{method}() starts from another image than the published code")
        )


def _check_steps(
    reader: Reader,
    steps: list[Step],
    visits: list[_Visit],
    images: list[Image],
    restoring: bool,
    problems: list[Difference],
) -> None:
    """Check each step of ddim_sample from the image that it starts from."""
    line = reader.methods["ddim_sample"].lineno
    if [visit.t for visit in visits] != [step.t for step in steps] or len(images) != len(steps) + 1:
        what = f"ddim_sample() visits the times {[visit.t for visit in visits]}, published {[step.t for step in steps]}"
        problems.append(Difference(Part.arithmetic, visits[0].line if visits else line, what))
        return
    ratios: dict[tuple[str, int], set[float]] = {}
    draws = 1
    for k, (step, visit, after) in enumerate(zip(steps, visits, images[1:], strict=True)):
        if differing(visit.image.terms, images[k].terms):
            problems.append(
                Difference(Part.arithmetic, visit.line, "a step does not start from the image of the one before")
            )
        noise = reader.image(f"z{draws}")
        draws += step.draws
        expected = (
            visit.image * step.k_t + noise * step.sigma + reader.image("x_input") * (step.k_in if restoring else 0.0)
        )
        words = {f"res{k}": step.k_res, f"noise{k}": step.k_noise, f"clean{k}": step.k_0}
        for word, factor in words.items():
            expected = expected + reader.image(word) * factor
        for name in differing(after.terms, expected.terms):
            # By how much, against what this step adds to the image that it starts from.
            before = visit.image.terms.get(name, 0.0) * (step.k_t if step.k_t else 1.0)
            published, found = (terms.terms.get(name, 0.0) - before for terms in (expected, after))
            ratio = round(found / published, 3) if published else math.inf
            ratios.setdefault((name.rstrip("0123456789"), after.line or line), set()).add(ratio)
    for (name, at), found_ratios in ratios.items():
        what = WORDS.get(name, "random image" if name == "z" else name)
        if len(found_ratios) == 1 and math.isfinite(ratio := found_ratios.copy().pop()):
            sentence = f"the step takes {ratio:g} times the published part of the {what}"
        else:
            sentence = f"the step takes another part of the {what} than the published one"
        problems.append(Difference(Part.arithmetic, at, sentence))


def _check_ancestral(tree: ast.Module, cls: ast.ClassDef, problems: list[Difference]) -> None:
    """Check p_sample_loop, the loop of as many steps as times: the posterior of the source's own tables."""
    for restoring in (True, False):
        reader = diffusion_reader(tree, cls, restoring=restoring, sampling_timesteps=TIMESTEPS)
        visits = _visited(reader)
        images = _sampled(reader, "p_sample_loop", restoring)
        line = reader.methods["p_sample_loop"].lineno
        if [visit.t for visit in visits] != list(reversed(range(TIMESTEPS))) or len(images) != TIMESTEPS + 1:
            problems.append(Difference(Part.arithmetic, line, "p_sample_loop() does not visit every time once"))
            return
        _check_start(reader, images[0], restoring, "p_sample_loop", problems)
        tables = reader.me.attributes
        for k, (visit, after) in enumerate(zip(visits, images[1:], strict=True)):
            t = visit.t
            alpha, beta2 = float(tables["alphas"][t]), float(tables["betas2"][t])
            beta2_bar = float(tables["betas2_cumsum"][t])
            before, alpha_before = (
                (float(tables[name][t - 1]) if t else 0.0) for name in ("betas2_cumsum", "alphas_cumsum")
            )
            expected = reader.image(f"clean{k}")
            if t:
                mean = (before / beta2_bar, (beta2 * alpha_before - before * alpha) / beta2_bar, beta2 / beta2_bar)
                sigma = math.sqrt(beta2 * before / beta2_bar)
                expected = visit.image * mean[0] + reader.image(f"res{k}") * mean[1] + expected * mean[2]
                expected = expected + reader.image(f"z{k + 1}") * sigma
            if differing(after.terms, expected.terms):
                at = reader.methods.get("p_sample", reader.methods["p_sample_loop"]).lineno
                problems.append(
                    Difference(Part.arithmetic, at, "p_sample() draws from another posterior than published")
                )
                return
