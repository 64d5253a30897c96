"""The values and functions that `reader` knows: images as linear forms, tables of coefficients, a few functions."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MOST = 100_000
"""Entries of the largest table that is made."""


class NotKnown(Exception):
    """Something that the reading needs is not known; `line` is where it stands, `what` a clause that says what."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(f"line {line}: {what}" if line else what)
        self.line, self.what = line, what


class Raised(NotKnown):
    """The source raises an error here."""


@dataclass
class Opaque:
    """A value that is not known, by its text in the source."""

    text: str
    line: int


@dataclass
class Thing:
    """An object of the source: its attributes, and what calling it does."""

    attributes: dict[str, Any] = field(default_factory=dict)
    call: Callable[..., Any] | None = None


def named_tuple(fields: list[Any]) -> Callable[..., Thing]:
    """Return the constructor of a named tuple."""
    return lambda *values, **named: Thing({**dict(zip(fields, values, strict=False)), **named})


class Image:
    """A linear form of named images, such as 1 I_t - 0.2 res0.

    `clamps` is shared by the images of one reading: a clamped image is a new named image, the same for the same form.
    """

    shape = (1, 3, 8, 8)

    def __init__(self, terms: dict[str, float], clamps: list[tuple[dict[str, float], float, float]]) -> None:
        self.terms = {name: value for name, value in terms.items() if value != 0}
        self.clamps = clamps
        self.line = 0

    def _with(self, other: Any, sign: float) -> Image:
        terms = dict(self.terms)
        for name, value in (other.terms if isinstance(other, Image) else {"1": number(other)}).items():
            terms[name] = terms.get(name, 0.0) + sign * value
        return Image(terms, self.clamps)

    def __add__(self, other: Any) -> Image:
        return self._with(other, 1.0)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Image:
        return self._with(other, -1.0)

    def __rsub__(self, other: Any) -> Image:
        return (-self) + other

    def __neg__(self) -> Image:
        return self * -1.0

    def __mul__(self, factor: Any) -> Image:
        return Image({name: value * number(factor) for name, value in self.terms.items()}, self.clamps)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Image:
        return Image({name: value / number(divisor) for name, value in self.terms.items()}, self.clamps)

    def clamp(self, min: float = -math.inf, max: float = math.inf) -> Image:
        for i, (terms, low, high) in enumerate(self.clamps):
            if (low, high) == (min, max) and not differing(terms, self.terms):
                return Image({f"clamped{i}": 1.0}, self.clamps)
        self.clamps.append((self.terms, min, max))
        return Image({f"clamped{len(self.clamps) - 1}": 1.0}, self.clamps)


def differing(a: dict[str, float], b: dict[str, float]) -> list[str]:
    """Return the names of the images whose coefficients differ by more than float32's rounding."""
    names = sorted({*a, *b})
    return [name for name in names if not math.isclose(a.get(name, 0), b.get(name, 0), rel_tol=2e-4, abs_tol=2e-5)]


def number(value: Any) -> float:
    """Return a number, or a table of one entry, as a float; raises TypeError for anything else."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if isinstance(value, (int, float)):
        return float(value)
    raise TypeError(f"{type(value).__name__} is not a number")


def binary(op: Callable[[Any, Any], Any], left: Any, right: Any, line: int) -> Any:
    """Return `op` of two values; raises NotKnown for a pair that has no meaning here."""
    if isinstance(left, Image) or isinstance(right, Image):
        known = (
            op in (operator.add, operator.sub)
            or (op is operator.mul and not (isinstance(left, Image) and isinstance(right, Image)))
            or (op is operator.truediv and not isinstance(right, Image))
        )
        if not known:
            raise NotKnown(line, "an image that is multiplied by another, or put to a power, is not known")
        # A tensor would try to hold the image: let the image's own operator see a float.
        left, right = (number(x) if isinstance(x, Tensor) else x for x in (left, right))
        return op(left, right)
    for value in (left, right):
        if not isinstance(value, (int, float, Tensor, list, tuple)) or isinstance(value, str):
            raise NotKnown(line, f"arithmetic with {type(value).__name__} is not known")
    sequences = [isinstance(value, (list, tuple)) for value in (left, right)]
    if any(sequences) and not (all(sequences) and op is operator.add):
        raise NotKnown(line, "arithmetic with a list is not known")
    if all(sequences) and len(left) + len(right) > MOST:
        raise NotKnown(line, f"a list of more than {MOST} entries is not known")
    if any(isinstance(value, Tensor) and value.dim() > 1 for value in (left, right)):
        raise NotKnown(line, "a table of two dimensions is not known")
    # Floats cannot grow without end, as a hostile source could let an integer.
    left, right = (float(x) if isinstance(x, int) and abs(x) > MOST**2 else x for x in (left, right))
    if op is operator.pow and not isinstance(left, Tensor) and not isinstance(right, Tensor):
        whole = isinstance(left, int) and isinstance(right, int) and 0 <= right <= 8 and abs(left) <= MOST
        return left**right if whole else float(left) ** right
    return op(left, right)


def _linspace(start: float, stop: float, num: int = 50, dtype: Any = np.float64) -> Tensor:
    return torch.from_numpy(np.linspace(start, stop, num, dtype=dtype))


def _torch_linspace(start: float, end: float, steps: int, **options: Any) -> Tensor:
    return torch.linspace(float(start), float(end), int(steps), **options)


def _full(size: Any, fill_value: Any, **options: Any) -> Tensor:
    return torch.full(
        tuple(size), number(fill_value) if options.get("dtype") is not torch.long else int(fill_value), **options
    )


def _root(value: Any) -> Any:
    return value.sqrt() if isinstance(value, Tensor) else math.sqrt(value)


def _clamp(value: Any, min: float = -math.inf, max: float = math.inf) -> Any:
    return value.clamp(min, max)


def _cat(parts: Any, dim: int = 0) -> tuple[Any, ...]:
    return tuple(parts)


def _extract(table: Tensor, t: Tensor, shape: Any) -> Tensor:
    return table[int(t)]


def _default(value: Any, otherwise: Any) -> Any:
    if value is not None:
        return value
    return otherwise() if callable(otherwise) else otherwise


def _same(value: Any, *rest: Any, **named: Any) -> Any:
    return value


def _is_instance(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) if isinstance(kind, type) else False


_MATH = {
    f"math.{name}": getattr(math, name) for name in ("cos", "sin", "exp", "log", "pi", "e", "floor", "ceil", "pow")
}
NATIVE: dict[str, Any] = {
    **_MATH,
    **{
        f"{module}.{name}": getattr(np, name)
        for module in ("np", "numpy")
        for name in ("pi", "e", "float32", "float64")
    },
    **{f"torch.{name}": getattr(torch, name) for name in ("float32", "float64", "long", "int64", "float", "double")},
    **{
        f"torch.{name}": getattr(torch, name)
        for name in ("cumprod", "cumsum", "flip", "log", "exp", "ones", "zeros", "tensor")
    },
    **{f"{module}.pad": F.pad for module in ("F", "torch.nn.functional", "nn.functional")},
    **{f"{module}.linspace": _linspace for module in ("np", "numpy")},
    **{f"{module}.sqrt": _root for module in ("np", "numpy", "torch", "math")},
    **{
        name: _same
        for name in ("torch.from_numpy", "torch.nn.Parameter", "nn.Parameter", "tqdm", "tqdm.tqdm", "identity")
    },
    "torch.linspace": _torch_linspace,
    "torch.full": _full,
    "torch.clamp": _clamp,
    "torch.clip": _clamp,
    "torch.cat": _cat,
    "torch.randn": _same,
    "torch.randn_like": _same,
    "partial": _same,
    "functools.partial": _same,
    "extract": _extract,
    "default": _default,
    "exists": lambda value: value is not None,
    "normalize_to_neg_one_to_one": _same,
    "unnormalize_to_zero_to_one": _same,
    "print": lambda *values, **named: None,
    "isinstance": _is_instance,
    "ModelResPrediction": named_tuple(["pred_res", "pred_noise", "pred_x_start"]),
    **{
        f.__name__: f
        for f in (abs, enumerate, float, int, len, list, max, min, range, reversed, round, sum, tuple, zip)
    },
}
"""What is known by its name in the source. `torch.randn` and its sister are the reader's own, `partial` too."""

TENSOR_METHODS = (
    *(
        "abs",
        "clamp",
        "clip",
        "clone",
        "cpu",
        "cumprod",
        "cumsum",
        "detach",
        "double",
        "exp",
        "flip",
        "float",
        "gather",
    ),
    *("int", "item", "log", "long", "mean", "pow", "reshape", "sqrt", "sum", "to", "tolist"),
)
LIST_METHODS = ("append", "pop", "reverse")
HARMLESS = ("super", "super().__init__", "sys.stdout.flush", "print", "torch.no_grad", "torch.manual_seed")
BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
