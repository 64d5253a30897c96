"""Operators by the names of the command line: `named("sr:4", image)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..operator import Operator
from .arguments import check_image, random_mask
from .blocks import OldPhotograph, SuperResolution
from .pixelwise import Colourisation, Denoising, Inpainting
from .sensing import BlockSensing, WalshHadamard
from .separable import AnisotropicBlur, Bicubic, GaussianBlur, UniformBlur

Image = tuple[int, int, int]
_BLURS: dict[str, Callable[[Image], Operator]] = {
    "uniform": UniformBlur,
    "gauss": GaussianBlur,
    "aniso": AnisotropicBlur,
}


class _Unreadable(Exception):
    """An argument that cannot be read; the message says what it should be."""


def _integer(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise _Unreadable("a whole number")
    if not 1 <= len(text.lstrip("0")) <= 6:
        raise _Unreadable("a whole number from 1 to 999999")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _Unreadable("a number") from None


def _blur(kind: str) -> str:
    if kind not in _BLURS:
        raise _Unreadable(f"one of {', '.join(_BLURS)}")
    return kind


@dataclass(frozen=True)
class _Row:
    """An operator's name on the command line: how its argument is read, and how it is made from that."""

    form: str
    example: str
    line: str
    make: Callable[[Image, Any, Tensor | None, int], Operator]
    argument: Callable[[str], int | float | str] | None = None
    masked: bool = False

    @property
    def name(self) -> str:
        return self.form.split(":")[0]


def _inpaint(image: Image, _: None, mask: Tensor | None, seed: int) -> Operator:
    return Inpainting(image, random_mask(image, 0.5, seed) if mask is None else mask)


def _old(image: Image, factor: int, mask: Tensor | None, seed: int) -> Operator:
    return OldPhotograph(image, factor, random_mask(image, 0.2, seed) if mask is None else mask)


_ROWS = [
    _Row("denoising", "denoising", "the picture with noise", lambda image, *_: Denoising(image)),
    _Row("inpaint", "inpaint", "missing pixels: those of --mask, or a random half of them", _inpaint, masked=True),
    _Row(
        "sr:F",
        "sr:4",
        "F times smaller, by the mean of F × F pixels",
        lambda image, factor, *_: SuperResolution(image, factor),
        _integer,
    ),
    _Row(
        "bicubic:F",
        "bicubic:4",
        "F times smaller, by bicubic interpolation",
        lambda image, factor, *_: Bicubic(image, factor),
        _integer,
    ),
    _Row(
        "blur:KIND",
        "blur:gauss",
        "blur: uniform (9 × 9), gauss (5 × 5, sigma 10), aniso (9 × 9, sigma 1 down and 20 along)",
        lambda image, kind, *_: _BLURS[kind](image),
        _blur,
    ),
    _Row("color", "color", "missing colour: the grey of each pixel", lambda image, *_: Colourisation(image)),
    _Row(
        "cs:RATIO",
        "cs:0.25",
        "compressed sensing: the share RATIO of the Walsh–Hadamard coefficients, drawn at random",
        lambda image, ratio, _, seed: WalshHadamard(image, ratio, seed=seed),
        _number,
    ),
    _Row(
        "cs-block:RATIO",
        "cs-block:0.25",
        "compressed sensing: 1024 RATIO random projections of each block of 32 × 32 pixels",
        lambda image, ratio, _, seed: BlockSensing(image, ratio, seed=seed),
        _number,
    ),
    _Row(
        "old:F",
        "old:2",
        "an old photograph: grey, F times smaller, torn by --mask, or a random fifth",
        _old,
        _integer,
        masked=True,
    ),
]
_TABLE = {row.name: row for row in _ROWS}


def listing() -> list[tuple[str, str]]:
    """Return the form of each operator's name, such as "sr:F", and one line that says what it does."""
    return [(row.form, row.line) for row in _ROWS]


def example_of(form: str) -> str:
    """Return a name of a form of `listing`: "sr:4" of "sr:F"."""
    return next(row.example for row in _ROWS if row.form == form)


def parsed(spec: str) -> tuple[str, int | float | str | None]:
    """Return the name and the argument of a name such as "sr:4": ("sr", 4), or ("inpaint", None).

    Raises:
        ValueError: an unknown name, or a wrong argument.
    """
    row, argument = _read(spec)
    return row.name, argument


def named(spec: str, image: Sequence[int], *, mask: Tensor | None = None, seed: int = 0) -> Operator:
    """Make the operator of a name such as "sr:4", "blur:gauss" or "inpaint".

    Args:
        spec: a name of `listing`, with its argument.
        image: (C, H, W).
        mask: for "inpaint" and "old", as for `Inpainting`; drawn by `seed` if None.
        seed: of what is drawn: the mask, the coefficients, the projections.

    Raises:
        ValueError: an unknown name, a wrong argument, a mask of no use to the operator, or a size that does not fit.
    """
    row, argument = _read(spec)
    if mask is not None and not row.masked:
        raise ValueError(f"{spec} has no use for a mask: leave it out, or choose inpaint or old:F")
    return row.make(check_image(image), argument, mask, seed)


def _read(spec: str) -> tuple[_Row, int | float | str | None]:
    """Return the row of a name and its argument; raise a sentence for what cannot be read."""
    name, colon, text = spec.partition(":")
    row = _TABLE.get(name)
    if row is None:
        raise ValueError(f"unknown operator {spec!r}: choose {', '.join(form for form, _ in listing())}")
    if row.argument is None:
        if colon:
            raise ValueError(f"{name} takes no argument: write {name!r}, not {spec!r}")
        return row, None
    if not text:
        raise ValueError(f"{name} needs an argument, {row.form}: write for example {row.example!r}")
    try:
        return row, row.argument(text)
    except _Unreadable as error:
        raise ValueError(f"{spec}: {text!r} is not {error}: write for example {row.example!r}") from None
