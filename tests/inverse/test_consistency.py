"""Without noise the restored image fits y: ||A x - y|| <= 1e-5, on every operator, at sizes that are not square."""

from collections.abc import Callable

import pytest
import torch
from recorded_prior import white_prior

from rddm_fast.inverse import operators as ops
from rddm_fast.inverse.operator import Operator, SpectralOperator
from rddm_fast.inverse.restore import restore

Size = tuple[int, int]
SIZES: list[Size] = [(24, 40), (40, 16), (8, 56)]
POWERS_OF_2: list[Size] = [(16, 32), (64, 16), (8, 128)]
BLOCKS_OF_32: list[Size] = [(32, 64), (96, 32), (64, 128)]


def mask(size: Size, *batch: int) -> torch.Tensor:
    return (torch.rand(*batch, *size, generator=torch.Generator().manual_seed(7)) < 0.6).float()


def kernel(h: int, w: int) -> torch.Tensor:
    """A kernel of no symmetry, whose response has no zero near it."""
    drawn = torch.rand(h, w, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return drawn / drawn.sum()


OPERATORS: dict[str, tuple[Callable[[Size], Operator], list[Size]]] = {
    "denoising": (lambda s: ops.Denoising((3, *s)), SIZES),
    "inpaint": (lambda s: ops.Inpainting((3, *s), mask(s)), SIZES),
    "inpaint, a mask for each image": (lambda s: ops.Inpainting((3, *s), mask(s, 2)), SIZES),
    "sr:4": (lambda s: ops.SuperResolution((3, *s), 4), SIZES),
    "sr:8": (lambda s: ops.SuperResolution((1, *s), 8), SIZES),
    "bicubic:4": (lambda s: ops.Bicubic((3, *s), 4), SIZES),
    "blur:uniform": (lambda s: ops.UniformBlur((3, *s)), SIZES),
    "blur:gauss": (lambda s: ops.GaussianBlur((3, *s)), SIZES),
    "blur:aniso": (lambda s: ops.AnisotropicBlur((3, *s)), SIZES),
    "any separable kernel": (lambda s: ops.SeparableBlur((3, *s), [0.1, 0.5, 0.3, 0.1, 0.0], [0.2, 0.6, 0.2]), SIZES),
    "any kernel": (lambda s: ops.FourierBlur((3, *s), kernel(5, 7)), SIZES),
    "color": (lambda s: ops.Colourisation((3, *s)), SIZES),
    "color of 4 channels": (lambda s: ops.Colourisation((4, *s)), SIZES),
    "cs:0.25": (lambda s: ops.WalshHadamard((3, *s), 0.25), POWERS_OF_2),
    "cs-block:0.25": (lambda s: ops.BlockSensing((2, *s), 0.25), BLOCKS_OF_32),
    "old:4": (lambda s: ops.OldPhotograph((3, *s), 4, mask(s)), SIZES),
    "any matrix": (lambda s: ops.General((1, *s), torch.randn(s[0] * s[1] // 3, s[0] * s[1]) / s[1]), SIZES),
    "grey after block mean": (
        lambda s: ops.Composition(ops.Colourisation((3, s[0] // 4, s[1] // 4)), ops.SuperResolution((3, *s), 4)),
        SIZES,
    ),
    "block mean after a mask": (
        lambda s: ops.Composition(ops.SuperResolution((3, *s), 2), ops.Inpainting((3, *s), mask(s))),
        SIZES,
    ),
    "any function": (lambda s: ops.Function((3, *s), lambda x: x[..., ::2, :] + 0.5 * x[..., 1::2, :].flip(-1)), SIZES),
}


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("name", OPERATORS)
def test_without_noise_the_result_fits_y(name: str, number: int) -> None:
    make, sizes = OPERATORS[name]
    torch.manual_seed(number)
    height, width = sizes[number]
    assert height != width
    operator = make((height, width))
    x_true = torch.rand(2, *operator.image) * 2 - 1
    y = operator.A(x_true)
    methods = ("ddrm", "ddnm", "ddnm+") if isinstance(operator, SpectralOperator) else ("ddnm",)
    for method in methods:
        x = restore(y, operator, white_prior, method, 0.0, 10)
        assert x.dtype == torch.float32
        assert (operator.A(x) - y).abs().max() <= 1e-5, method
