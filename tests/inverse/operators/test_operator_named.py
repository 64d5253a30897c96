"""The operators by their names on the command line, and the sentence that each bad input gets."""

from collections.abc import Callable

import pytest
import torch
from operator_values import noise

from rddm_fast.inverse.operator import Operator
from rddm_fast.inverse.operators import (
    AnisotropicBlur,
    Bicubic,
    BlockSensing,
    Colourisation,
    Composition,
    Denoising,
    FourierBlur,
    Function,
    GaussianBlur,
    General,
    Inpainting,
    OldPhotograph,
    Separable,
    SeparableBlur,
    SuperResolution,
    UniformBlur,
    WalshHadamard,
    listing,
    named,
    random_mask,
)


@pytest.mark.parametrize(
    ("spec", "kind", "measured"),
    [
        ("denoising", Denoising, (3, 32, 64)),
        ("inpaint", Inpainting, (3, 32, 64)),
        ("sr:4", SuperResolution, (3, 8, 16)),
        ("bicubic:2", Bicubic, (3, 16, 32)),
        ("blur:uniform", UniformBlur, (3, 32, 64)),
        ("blur:gauss", GaussianBlur, (3, 32, 64)),
        ("blur:aniso", AnisotropicBlur, (3, 32, 64)),
        ("color", Colourisation, (1, 32, 64)),
        ("cs:0.25", WalshHadamard, (3, 512)),
        ("cs-block:0.125", BlockSensing, (3, 2, 128)),
        ("old:2", OldPhotograph, (1, 16, 32)),
    ],
)
def test_an_operator_has_a_name(spec: str, kind: type[Operator], measured: tuple[int, ...]) -> None:
    op = named(spec, (3, 32, 64))
    assert type(op) is kind
    assert op.measured == measured
    assert spec.split(":")[0] in {form.split(":")[0] for form, _ in listing()}


def test_a_name_takes_a_mask_and_a_seed() -> None:
    image, x = (1, 6, 8), noise(1, 1, 6, 8)
    mask = random_mask(image, 0.2, seed=9)
    assert torch.equal(named("inpaint", image, mask=mask).A(x), Inpainting(image, mask).A(x))
    assert torch.equal(named("old:2", image, mask=mask).A(x), OldPhotograph(image, 2, mask).A(x))
    assert torch.equal(named("inpaint", image, seed=5).A(x), Inpainting(image, random_mask(image, 0.5, 5)).A(x))


def test_the_list_has_one_line_for_each_operator() -> None:
    assert [form for form, _ in listing()] == [
        "denoising",
        "inpaint",
        "sr:F",
        "bicubic:F",
        "blur:KIND",
        "color",
        "cs:RATIO",
        "cs-block:RATIO",
        "old:F",
    ]
    assert all(line and "\n" not in line for _, line in listing())


# Sentences.

IMAGE = (3, 32, 64)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: named("haze", IMAGE), "unknown operator 'haze': choose denoising, inpaint, sr:F, "),
        (lambda: named("sr", IMAGE), "sr needs an argument, sr:F: write for example 'sr:4'"),
        (lambda: named("sr:x", IMAGE), "sr:x: 'x' is not a whole number: write for example 'sr:4'"),
        (lambda: named("sr:-2", IMAGE), "sr:-2: '-2' is not a whole number: write for example 'sr:4'"),
        (lambda: named("cs:many", IMAGE), "cs:many: 'many' is not a number: write for example 'cs:0.25'"),
        (lambda: named("blur:box", IMAGE), "'box' is not one of uniform, gauss, aniso: write for example 'blur:gauss'"),
        (lambda: named("color:3", IMAGE), "color takes no argument: write 'color', not 'color:3'"),
        (lambda: named("sr:4", IMAGE, mask=torch.ones(32, 64)), "sr:4 has no use for a mask: leave it out, or choose"),
        (
            lambda: SuperResolution(IMAGE, 5),
            "must be multiples of factor 5, but it is 32 × 64: crop it to 30 × 60",
        ),
        (lambda: SuperResolution(IMAGE, 0), "factor is 0: it must be a positive integer"),
        (lambda: Bicubic(IMAGE, 64), "factor is 64, larger than the image of 32 × 64: choose a smaller one"),
        (lambda: Denoising((3, 0, 4)), "image is (3, 0, 4): give the shape of one image as three positive integers"),
        (lambda: Inpainting(IMAGE, torch.ones(64, 32)), "the mask has shape (64, 32) and the image is 32 × 64: give a"),
        (lambda: Inpainting(IMAGE, torch.full((32, 64), 0.5)), "the mask has values other than 0 and 1: round it, or"),
        (
            lambda: Inpainting(IMAGE, torch.ones(2, 32, 64)).A(torch.ones(3, *IMAGE)),
            "the operator has 2 masks and the batch has 3 images: give one mask, or 3",
        ),
        (lambda: random_mask(IMAGE, 1.0), "missing is 1.0: it is the share of the pixels to leave out, from 0 to less"),
        (lambda: Colourisation(IMAGE, [1.0]), "there are 1 weights and 3 channels: give one weight for each channel"),
        (lambda: Colourisation(IMAGE, [0.0] * 3), "weights are (0.0, 0.0, 0.0): they must be finite and not all 0"),
        (lambda: Separable(IMAGE, torch.ones(8, 8), torch.ones(8, 64)), "the matrix 'down' has shape (8, 8), but the"),
        (lambda: UniformBlur(IMAGE, threshold=2.0), "all singular values are below the threshold 2.0: choose a lower"),
        (lambda: UniformBlur(IMAGE, threshold=-1.0), "threshold is -1.0: it must be 0 or more"),
        (lambda: UniformBlur(IMAGE, 0), "taps is 0: it must be a positive integer"),
        (lambda: GaussianBlur(IMAGE, sigma=0.0), "sigma is 0.0: it must be positive"),
        (lambda: SeparableBlur(IMAGE, []), "the kernel has shape (0,): give a list of one or more finite numbers"),
        (lambda: FourierBlur(IMAGE, torch.ones(5)), "the kernel has shape (5,): give a matrix (h, w) of finite"),
        (
            lambda: WalshHadamard((1, 12, 8)),
            "needs a height and width that are powers of 2, but the image is 12 × 8: c",
        ),
        (lambda: WalshHadamard((1, 8, 8), 2.0), "ratio is 2.0: it is the share that is measured, above 0 and at most"),
        (lambda: WalshHadamard((1, 8, 8), selected=torch.tensor([3, 3])), "selected must be a list of different int"),
        (lambda: WalshHadamard((1, 8, 8), selected=torch.tensor([64])), "selected must be integers from 0 to 63"),
        (lambda: BlockSensing(IMAGE, rows=torch.ones(4, 1024)), "the rows are not orthonormal, by 1.0e+03: pass the r"),
        (lambda: BlockSensing((1, 40, 64)), "must be multiples of the block's size 32, but it is 40 × 64: crop it to"),
        (
            lambda: General((1, 2, 2), torch.ones(3, 5)),
            "the matrix has shape (3, 5): give (rows, 4) for an image (1, 2",
        ),
        (
            lambda: Function(IMAGE, lambda x: x.clamp(0, 1)),
            "the function is not linear, A(2 x - 3 x') differs from 2 A",
        ),
        (lambda: Function(IMAGE, lambda x: x + 1), "the function is not linear, A(0) is not 0: subtract its constant"),
        (lambda: Function(IMAGE, lambda x: x - x.mean()), "the function mixes the images of a batch: it must measure"),
        (lambda: Function(IMAGE, lambda x: x.sum()), "the function returns () for images (2, 3, 32, 64): it must retu"),
        (lambda: Function(IMAGE, lambda x: x / 0), "the function returns infinite numbers or NaN for a finite image"),
        (lambda: Function(IMAGE, lambda x: x @ torch.ones(3, 3)), "the function raised RuntimeError for images (2, 3,"),
        (lambda: Function(IMAGE, lambda x: x, max_iterations=0), "max_iterations is 0: it must be 1 or more"),
        (lambda: Composition(), "a composition needs at least one operator"),
        (
            lambda: Composition(SuperResolution(IMAGE, 2), SuperResolution(IMAGE, 2)),
            "takes images (3, 32, 64), but SuperResolution before it measures (3, 16, 32): make the outer one for that",
        ),
    ],
)
def test_bad_input_gets_one_sentence(wrong: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        wrong()
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)
