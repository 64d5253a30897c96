"""The facts of a published source that make it one experiment or another, read from its syntax tree."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...theory.families import increments
from ...theory.schedule import BUFFER_NAMES, Schedule
from .reader import Constant, Reader, Record, methods_of
from .values import NotKnown, Thing

TIMESTEPS = 1000
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
FORMS = {True: "share_encoder", False: "num_unet"}


@dataclass(frozen=True)
class Literal:
    """A number or a name in the source, and its line."""

    value: Any
    line: int


@dataclass(frozen=True)
class Coefficients:
    """The arguments of a call of gen_coefficients, and its form: "power", "triangular" or "" for neither."""

    shape: str
    ratio: float
    form: str
    line: int

    def __str__(self) -> str:
        return f"{self.shape}, ratio {self.ratio:g}" if self.form == "power" else self.shape


@dataclass(frozen=True)
class ScheduleFacts:
    """The schedule that a method makes.

    Attributes:
        schedule: the recipe that gives its tables; a schedule of its tables if no recipe does.
        buffers: the published buffers, as the method registers them.
        line: where it is made.
        beta_schedule, beta_start, beta_end: the literals of a schedule that is converted from DDIM; None elsewhere.
        alpha, beta2: the calls of gen_coefficients that make it; None if it is converted from DDIM.
        delta_start, delta_end: the ends of DiffUIR's delta; None elsewhere.
        lines: the line on which each buffer was assigned.
    """

    schedule: Schedule
    buffers: dict[str, Tensor]
    line: int
    beta_schedule: Literal | None = None
    beta_start: Literal | None = None
    beta_end: Literal | None = None
    alpha: Coefficients | None = None
    beta2: Coefficients | None = None
    delta_start: Literal | None = None
    delta_end: Literal | None = None
    lines: dict[str, int] = field(default_factory=dict)

    @property
    def family(self) -> str:
        return "ddim" if self.alpha is None else self.alpha.form or "unknown"


@dataclass(frozen=True)
class SourceFacts:
    """What distinguishes one published source from another.

    Attributes:
        generation: "share_encoder" or "num_unet", the argument of its UnetRes.
        schedule: the schedule of the constructor.
        rebuilt: the schedule of `init()`; None without `init()`.
        test_init: whether `Trainer.test()` calls `init()`, and where; None without a Trainer.
        delta: whether it has DiffUIR's delta.
        alpha_res: whether it has AOSA's parameter.
        optimiser, optimisers: the classes that train one network and two; None if the source does not say.
        eta_is_0: whether the constructor sets eta to 0 where the model restores.
        sum_scale: the variance of the starting noise when none is passed: restoring, generating.
        translation: whether the constructor takes img_to_img_translation.
        eta_line, sum_scale_line: the lines on which they are assigned.
    """

    generation: str | None
    schedule: ScheduleFacts
    rebuilt: ScheduleFacts | None
    test_init: Literal | None
    delta: bool
    alpha_res: bool
    optimiser: Literal | None
    optimisers: Literal | None
    eta_is_0: bool
    sum_scale: tuple[float, float]
    translation: bool = False
    eta_line: int = 0
    sum_scale_line: int = 0


def class_named(tree: ast.Module, name: str) -> ast.ClassDef | None:
    """Return the last class of this name, or None."""
    found = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return found[-1] if found else None


def built(tree: ast.Module, cls: ast.ClassDef, timesteps: int, sum_scale: float | None, **options: Any) -> Reader:
    """Return a reader that has followed the constructor for these arguments.

    Raises:
        NotKnown: the constructor needs something that the reader does not know.
    """
    reader = Reader(tree, cls)
    reader.overrides["register_buffer"] = lambda name, value, *rest, **named: _register(reader, name, value)
    network = {"channels": 3, "out_dim": 3, "self_condition": False, "random_or_learned_sinusoidal_cond": False}
    arguments = {"image_size": 8, "timesteps": timesteps, "sum_scale": sum_scale, **options}
    reader.method("__init__", Thing(dict(network)), **arguments)
    return reader


def _register(reader: Reader, name: str, value: Any) -> None:
    reader.me.attributes[name] = value
    reader.lines[name] = reader.at


def facts_of(tree: ast.Module, timesteps: int = TIMESTEPS, sum_scale: float = 1.0) -> SourceFacts:
    """Read the facts of a source.

    Args:
        tree: its syntax tree; it has a class ResidualDiffusion.
        timesteps, sum_scale: the arguments for which its schedule is read.

    Raises:
        NotKnown: the constructor or `init()` holds something that is not known; it names the line.
    """
    cls = class_named(tree, "ResidualDiffusion")
    assert cls is not None
    reader = built(tree, cls, timesteps, sum_scale, condition=True, ddim_sampling_eta=0.5)
    schedule = _schedule_facts(reader, "__init__", sum_scale)
    eta = reader.me.attributes.get("ddim_sampling_eta")
    rebuilt = None
    if "init" in reader.methods:
        reader.method("init")
        rebuilt = _schedule_facts(reader, "init", sum_scale)
    scales = tuple(
        float(built(tree, cls, 8, None, condition=condition).me.attributes.get("sum_scale", 0))
        for condition in (True, False)
    )
    automatic = built(tree, cls, 8, sum_scale, condition=True, objective="auto_res_noise")
    one, two = _optimisers(class_named(tree, "Trainer"))
    return SourceFacts(
        generation=_generation(class_named(tree, "UnetRes")),
        schedule=schedule,
        rebuilt=rebuilt,
        test_init=_test_init(class_named(tree, "Trainer")),
        delta="delta_cumsum" in schedule.buffers,
        alpha_res="alpha_res" in automatic.me.attributes,
        optimiser=one,
        optimisers=two,
        eta_is_0=eta == 0,
        sum_scale=(scales[0], scales[1]),
        translation=any(a.arg == "img_to_img_translation" for a in reader.methods["__init__"].args.kwonlyargs),
        eta_line=reader.lines.get("ddim_sampling_eta", 0),
        sum_scale_line=reader.lines.get("sum_scale", 0),
    )


def _generation(networks: ast.ClassDef | None) -> str | None:
    if networks is None or "__init__" not in methods_of(networks):
        return None
    spec = methods_of(networks)["__init__"].args
    names = {argument.arg for argument in (*spec.args, *spec.kwonlyargs)}
    return next((name for name in FORMS.values() if name in names), None)


def _test_init(trainer: ast.ClassDef | None) -> Literal | None:
    test = None if trainer is None else methods_of(trainer).get("test")
    if test is None:
        return None
    for node in ast.walk(test):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "init":
            return Literal(True, node.lineno)
    return Literal(False, test.lineno)


def _optimisers(trainer: ast.ClassDef | None) -> tuple[Literal | None, Literal | None]:
    """Return the classes of the optimisers in Trainer.__init__, for one network and for two."""
    found: dict[int, Literal] = {}
    method = None if trainer is None else methods_of(trainer).get("__init__")

    def walk(statements: list[ast.stmt], networks: tuple[int, ...]) -> None:
        for node in statements:
            match node:
                case ast.If(
                    test=ast.Compare(left=left, ops=[ast.Eq()], comparators=[ast.Constant(value=int(count))])
                ) if "num_unet" in ast.unparse(left):
                    walk(node.body, (count,))
                    walk(node.orelse, tuple(n for n in networks if n != count))
                case ast.If():
                    walk(node.body, networks)
                    walk(node.orelse, networks)
                case ast.Assign(targets=[ast.Attribute(attr="opt" | "opt0" | "opt1")], value=ast.Call(func=func)):
                    name = ast.unparse(func).split(".")[-1]
                    for count in networks:
                        before = found.get(count)
                        names = {*(before.value.split(" and ") if before else ()), name}
                        found[count] = Literal(" and ".join(sorted(names)), node.lineno)

    if method is not None:
        walk(method.body, (1, 2))
    return found.get(1), found.get(2)


# -- the schedule ---------------------------------------------------------------------------------------------


def _schedule_facts(reader: Reader, method: str, sum_scale: float) -> ScheduleFacts:
    attributes = reader.me.attributes
    buffers = {
        name: value
        for name in (*BUFFER_NAMES, "delta", "delta_cumsum")
        if isinstance(value := attributes.get(name), Tensor)
    }
    node = reader.methods[method]
    for name in ("alphas_cumsum", "betas2_cumsum"):
        if name not in buffers:
            value = attributes.get(name)
            line = getattr(value, "line", node.lineno)
            raise NotKnown(line, f"{method}() makes no table {name} that is known")
    delta = buffers.get("delta_cumsum")
    records = [record for record in reader.records if record.inside == method]
    constants = [*_defaults(reader), *(constant for constant in reader.constants if constant.inside == method)]
    delta_start, delta_end, delta_line = (
        _ends(records, constants, attributes.get("delta")) if delta is not None else 3 * (None,)
    )
    coefficients = [record for record in records if record.name.split(".")[-1] == "gen_coefficients"]
    alpha = _coefficients(coefficients, buffers["alphas_cumsum"])
    beta2 = _coefficients(coefficients, buffers["betas2_cumsum"])
    facts: dict[str, Any] = {"delta_start": delta_start, "delta_end": delta_end}
    line = node.lineno
    if alpha is not None and beta2 is not None:
        facts.update(alpha=alpha, beta2=beta2)
        line = alpha.line
    else:
        start, end, line_ = _ends(records, constants, None, besides=delta_line)
        named = [c for c in constants if c.value in BETA_SCHEDULES]
        facts.update(beta_start=start, beta_end=end)
        facts["beta_schedule"] = Literal(named[-1].value, named[-1].line) if named else None
        line = line_ or (named[-1].line if named else line)
    switch = [c for c in reader.constants if c.inside == method and isinstance(c.value, bool)]
    lines = {name: reader.lines[name] for name in buffers if name in reader.lines}
    return ScheduleFacts(
        _recipe(buffers, facts, sum_scale), buffers, switch[-1].line if switch else line, lines=lines, **facts
    )


def _defaults(reader: Reader) -> list[Constant]:
    """Return the defaults of the constructor's keywords."""
    spec = reader.methods["__init__"].args
    return [
        Constant(argument.arg, default.value, default.lineno, "__init__")
        for argument, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
        if isinstance(default, ast.Constant)
    ]


def _coefficients(calls: list[Record], cumulated: Tensor) -> Coefficients | None:
    """Return the call whose result, cumulated, is this table."""
    for record in reversed(calls):
        values = record.result
        if not isinstance(values, Tensor) or len(values) != len(cumulated):
            continue
        if not torch.allclose(values.double().cumsum(0).clip(0, 1), cumulated.double(), atol=3e-6):
            continue
        names = ("timesteps", "schedule", "sum_scale", "ratio")
        given = {**dict(zip(names, record.arguments, strict=False)), **record.named}
        shape, ratio = str(given.get("schedule", "increased")), float(given.get("ratio", 1))
        scale = float(given.get("sum_scale", 1))
        for form in ("triangular", "power"):
            try:
                made = increments(len(values), shape, form=form, ratio=ratio, sum_scale=scale)
            except ValueError:  # another shape is the average, as published
                made = increments(len(values), "average", sum_scale=scale)
            if torch.allclose(made, values.double(), rtol=1e-4, atol=1e-9):
                return Coefficients(shape, ratio, form, record.line)
        return Coefficients(shape, ratio, "", record.line)
    return None


def _ends(
    records: list[Record], constants: list[Constant], table: Tensor | None, besides: int | None = None
) -> tuple[Literal | None, Literal | None, int | None]:
    """Return the ends of the linspace that makes `table`, or of the first one, each with its line, and its own line."""
    for record in records:
        if record.name != "torch.linspace" or record.line == besides or len(record.arguments) < 2:
            continue
        if table is not None and not torch.equal(record.result, table):
            continue
        start, end = (
            next(
                (Literal(c.value, c.line) for c in reversed(constants) if _same(c.value, value)),
                Literal(float(value), record.line),
            )
            for value in record.arguments[:2]
        )
        return start, end, record.line
    return None, None, None


def _same(constant: Any, argument: Any) -> bool:
    """Whether a linspace's end is this constant, or its root (as in scaled_linear)."""
    if isinstance(constant, bool) or not isinstance(constant, (int, float)) or constant <= 0:
        return False
    return float(argument) in (float(constant), float(constant) ** 0.5)


def _recipe(buffers: dict[str, Tensor], facts: dict[str, Any], sum_scale: float) -> Schedule:
    """Return the recipe that gives these tables, or a schedule of the tables."""
    alpha_bar, beta2_bar = (buffers[name].double() for name in ("alphas_cumsum", "betas2_cumsum"))
    delta_bar = buffers["delta_cumsum"].double() if "delta_cumsum" in buffers else None
    T = len(alpha_bar)
    alpha, beta2 = facts.get("alpha"), facts.get("beta2")
    candidates: list[Schedule] = []
    if delta_bar is not None:
        end = facts["delta_end"]
        candidates = [Schedule.diffuir(T, float(buffers["delta"][-1] if end is None else end.value), sum_scale)]
    elif alpha is None or beta2 is None:
        candidates = [Schedule.from_ddim(T, name) for name in BETA_SCHEDULES]
    else:
        try:
            if (alpha.form, beta2.form) == ("triangular", "triangular"):
                candidates = [Schedule.triangular(T, sum_scale, alpha.shape, beta2.shape)]
            candidates.append(
                Schedule.power(T, sum_scale, (alpha.shape, alpha.ratio), (beta2.shape, beta2.ratio)),
            )
        except ValueError:  # a shape of another name
            pass
    for candidate in candidates:
        if same_tables(candidate, alpha_bar, beta2_bar, delta_bar):
            return candidate
    return Schedule.from_tables(alpha_bar, beta2_bar.sqrt(), sum_scale, delta_bar)


def same_tables(schedule: Schedule, alpha_bar: Tensor, beta2_bar: Tensor, delta_bar: Tensor | None) -> bool:
    """Whether a schedule has these tables, to float32's rounding."""
    ours: list[Any] = [schedule.alpha_bar, schedule.beta_bar**2]
    theirs = [alpha_bar, beta2_bar]
    if (schedule.delta_bar is None) != (delta_bar is None):
        return False
    if delta_bar is not None:
        ours.append(schedule.delta_bar)
        theirs.append(delta_bar)
    return all(
        len(a) == len(b) and torch.allclose(torch.from_numpy(a), b, rtol=0, atol=3e-6)
        for a, b in zip(ours, theirs, strict=True)
    )
