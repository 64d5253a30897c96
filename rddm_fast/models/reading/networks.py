"""What a source's networks see, and what it reads out of their outputs.

Each method is followed with images as linear forms, and its result is held against `theory.objective.read_out`. So
neither formatting, nor names, nor the order of terms matters.
"""

from __future__ import annotations

import ast
import contextlib
import math
from typing import Any

import torch
from torch import Tensor

from ...theory.objective import Objective, at_test, read_out
from .differences import Difference, Part
from .facts import built
from .reader import Reader
from .values import Image, NotKnown, Opaque, Raised, Thing, differing

TIMESTEPS, STEPS, ETA, TIME = 7, 3, 0.37, 4
"""T, the number of sampling steps, the eta and the time for which the methods are followed."""
OBJECTIVES = (
    *((objective, mode) for objective in ("pred_res_noise", "pred_x0_noise") for mode in ("res_noise", "res", "noise")),
    *((objective, mode) for objective in ("pred_x0_noise",) for mode in ("x0_noise", "x0")),
    *(
        (objective, "None")
        for objective in ("pred_res_add_noise", "pred_x0_add_noise", "pred_noise", "pred_res", "pred_x0")
    ),
)


def diffusion_reader(tree: ast.Module, cls: ast.ClassDef, *, restoring: bool = True, **options: Any) -> Reader:
    options = {"sampling_timesteps": STEPS, "ddim_sampling_eta": ETA, **options}
    reader = built(tree, cls, TIMESTEPS, 1.0, condition=restoring, **options)
    reader.records.clear()
    reader.constants.clear()
    reader.loops.clear()
    return reader


def row(reader: Reader, t: int) -> tuple[float, float, float, float]:
    """Return alpha_bar, beta_bar, 1 - alpha_bar and delta_bar at t, from the source's tables."""
    names = ("alphas_cumsum", "betas_cumsum", "one_minus_alphas_cumsum", "delta_cumsum")
    tables = [reader.me.attributes.get(name) for name in names]
    a, b, one_minus, d = (float(table[t]) if isinstance(table, Tensor) else 0.0 for table in tables)
    return a, b, one_minus, d


class _Called(Exception):
    """The networks were called, which is all that was to be known."""


def _watch(reader: Reader, *, stop: bool = False) -> list[tuple[Any, Any, int]]:
    """Let the networks of `reader` return the images out0 and out1; return the list of what they are called with."""
    seen: list[tuple[Any, Any, int]] = []

    def call(x: Any, time: Any, *rest: Any, **named: Any) -> list[Image]:
        seen.append((x, time, reader.at))
        if stop:
            raise _Called
        return [reader.image("out0"), reader.image("out1")]

    reader.me.attributes["model"] = Thing(call=call)
    return seen


def times(tree: ast.Module, cls: ast.ClassDef, problems: list[Difference]) -> tuple[bool | None, int]:
    """Return which times the networks see, and where; hold sampling against training, and check the images they see."""
    kinds: list[tuple[bool | None, int]] = []
    parameters = {argument.arg for argument in Reader(tree, cls).methods["__init__"].args.kwonlyargs}
    for restoring, mask in (
        (True, False),
        (False, False),
        *([(True, True)] if "input_condition" in parameters else []),
    ):
        reader = diffusion_reader(tree, cls, restoring=restoring, **({"input_condition": True} if mask else {}))
        seen = _watch(reader, stop=True)
        x, x_input, condition = (reader.image(name) for name in ("I", "x_input", "mask"))
        t = torch.tensor([TIME])
        with contextlib.suppress(_Called):
            reader.method("model_predictions", x_input if restoring else 0, x, t, *([condition] if mask else []))
        if not seen:
            raise NotKnown(reader.methods["model_predictions"].lineno, "model_predictions() does not call the networks")
        given, time, line = seen[0]
        kinds.append((_kind(reader, time), line))
        wanted = [x, *([x_input] if restoring else []), *([condition] if mask else [])]
        images = list(given) if isinstance(given, tuple) else [given]
        if len(images) != len(wanted) or any(
            not isinstance(a, Image) or differing(a.terms, b.terms) for a, b in zip(images, wanted, strict=True)
        ):
            problems.append(
                Difference(Part.arithmetic, line, "the networks see other images than in the published code")
            )
    kind, line = kinds[0]
    if kind is None:
        problems.append(
            Difference(Part.arithmetic, line, "the networks' time is neither t nor alpha_bar_t T and beta_bar_t T")
        )
    reader = diffusion_reader(tree, cls)
    if "p_losses" in reader.methods:
        seen = _watch(reader, stop=True)
        try:
            images = [reader.image("I"), reader.image("x_input"), ["task"]]
            reader.method("p_losses", images, torch.tensor([TIME]), reader.image("eps"))
        except _Called:
            trained, at = _kind(reader, seen[0][1]), seen[0][2]
            if trained != kind:
                problems.append(
                    Difference(Part.arithmetic, at, "training gives the networks another time than sampling")
                )
    return kind, line


def _kind(reader: Reader, time: Any) -> bool | None:
    """Whether these times are the coefficients (True), t (False) or something else (None)."""
    times = list(time) if isinstance(time, (list, tuple)) else [time, time]
    if len(times) != 2 or not all(isinstance(value, Tensor) and value.numel() == 1 for value in times):
        return None
    a, b, _, _ = row(reader, TIME)
    for kind, wanted in ((False, (TIME, TIME)), (True, (a * TIMESTEPS, b * TIMESTEPS))):
        if all(math.isclose(float(x), y, rel_tol=1e-5) for x, y in zip(times, wanted, strict=True)):
            return kind
    return None


def check_read_out(tree: ast.Module, cls: ast.ClassDef, problems: list[Difference]) -> None:
    """Check what residual, noise and clean image are read out of the networks' outputs, for every objective it has."""
    cases: list[tuple[str, str, float | None]] = [(objective, mode, None) for objective, mode in OBJECTIVES]
    cases += [("auto_res_noise", "None", 0.6), ("auto_res_noise", "None", 0.5)]
    known = 0
    spec = Reader(tree, cls).methods["__init__"].args
    has_modes = "test_res_or_noise" in {argument.arg for argument in (*spec.args, *spec.kwonlyargs)}
    for name, mode, alpha_res in cases:
        if not has_modes and mode not in ("None", "res_noise"):
            continue
        reader = diffusion_reader(tree, cls, objective=name, test_res_or_noise=mode)
        if alpha_res is not None:
            if "alpha_res" not in reader.me.attributes:
                continue
            reader.me.attributes["alpha_res"] = torch.tensor([alpha_res])
        _watch(reader)
        x, x_input = reader.image("I"), reader.image("x_input")
        found = _predicted(reader, x_input, x)
        if found is None:  # The source does not have this objective.
            continue
        known += 1
        if alpha_res is not None:
            objective, taken = at_test("pred_res" if alpha_res > 0.5 else "pred_noise", None)
        else:
            objective, taken = at_test(name, mode)
        outputs = [reader.image("out0"), reader.image("out1")]
        out0, *rest = (outputs[i] for i in taken)
        expected = _expected(reader, objective, mode, x, x_input, out0, rest[0] if rest else None)
        # With pred_x0_noise, some of the published sources heed the mode, and some do not.
        both = _expected(reader, Objective[name], "None", x, x_input, *outputs) if name == "pred_x0_noise" else expected
        if not any(differing(a.terms, b.terms) for a, b in zip(found, both, strict=True)):
            continue
        for what, a, b in zip(("residual", "noise", "clean image"), found, expected, strict=True):
            if differing(a.terms, b.terms):
                line = getattr(a, "line", 0) or reader.methods["model_predictions"].lineno
                case = f"{name}, {mode}" if mode != "None" else name
                problems.append(
                    Difference(Part.arithmetic, line, f"the {what} of objective {case} is not the published one")
                )
    if not known:
        line = reader.methods["model_predictions"].lineno
        problems.append(Difference(Part.arithmetic, line, "model_predictions() knows no published objective"))


def _predicted(reader: Reader, x_input: Image, x: Image) -> list[Any] | None:
    """Return residual, noise and clean image as the source reads them out; None if it knows no such objective."""
    try:
        found = reader.method("model_predictions", x_input, x, torch.tensor([TIME]))
    except Raised:
        return None
    images = list(found.attributes.values()) if isinstance(found, Thing) else []
    for image in images:
        # A plain name that nothing was assigned to: no branch is for this objective.
        if isinstance(image, Opaque) and not image.text.isidentifier():
            raise NotKnown(image.line, f"{image.text[:60]} is not known")
    return images if len(images) == 3 and all(isinstance(image, Image) for image in images) else None


def _expected(
    reader: Reader, objective: Objective, mode: str, x: Any, x_input: Any, out0: Any, out1: Any
) -> tuple[Any, Any, Any]:
    """Return residual, noise and clean image as they are published."""
    a, b, one_minus, d = row(reader, TIME)
    residual, noise, clean = read_out(objective, x, out0, out1, x_input, a, b, one_minus)
    if objective is Objective.pred_x0 and mode == "x0":  # As published, the output itself is the clean image here.
        clean = out0.clamp(-1.0, 1.0)
    if d and objective is Objective.pred_res:  # DiffUIR's I_t holds (1 - delta_bar) I_in.
        noise = noise + x_input * (d / b)
    return residual, noise, clean


def check_forward(tree: ast.Module, cls: ast.ClassDef, problems: list[Difference]) -> None:
    """Check I_t of the forward process."""
    reader = diffusion_reader(tree, cls)
    images = {name: reader.image(name) for name in ("I", "res", "x_input", "eps")}
    a, b, _, d = row(reader, TIME)
    given = [images["I"], images["res"], *([images["x_input"]] if d else []), torch.tensor([TIME])]
    found = reader.method("q_sample", *given, noise=images["eps"])
    expected = images["I"] + images["res"] * a + images["eps"] * b - images["x_input"] * d
    if not isinstance(found, Image) or differing(found.terms, expected.terms):
        line = reader.methods["q_sample"].lineno
        problems.append(Difference(Part.arithmetic, line, "q_sample() makes another I_t than the published code"))
