"""The linear operators: against the published codes, against dense matrices, at any size, and what they store."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden import Golden, golden_cases
from operator_values import Image, far, kernel, matrix, noise
from torch import Tensor

from rddm_fast.inverse.operator import Operator, SpectralOperator
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
    PublishedBlur,
    Separable,
    SeparableBlur,
    SuperResolution,
    UniformBlur,
    WalshHadamard,
    check,
    random_mask,
)
from rddm_fast.inverse.operators.arguments import Constant
from rddm_fast.inverse.operators.separable import bicubic_matrix

RECORDED = golden_cases("operator", "inverse")
GOLDEN = [c for c in RECORDED if not c.values[0].case["args"].get("published")]
PUBLISHED_BLURS = [c for c in RECORDED if c.values[0].case["args"].get("published")]
"""The published deblurring, which is no blur (section 5 of the reference)."""


# The published codes.


def of_golden(case: dict[str, Any], tensors: dict[str, Tensor]) -> Operator:
    """The operator of a recorded case."""
    image, args = (case["channels"], case["image_size"], case["image_size"]), case["args"]
    make: dict[str, Callable[[], Operator]] = {
        "denoising": lambda: Denoising(image),
        "inpainting": lambda: Inpainting(image, tensors["mask"]),
        "sr_averagepooling": lambda: SuperResolution(image, args["factor"]),
        "sr_bicubic": lambda: Bicubic(image, args["factor"]),
        "colorization": lambda: Colourisation(image),
        "cs_walshhadamard": lambda: WalshHadamard(
            image, selected=tensors["perm"][: image[1] * image[2] // args["ratio"]]
        ),
        "cs_blockbased": lambda: BlockSensing(image, rows=tensors["rows"]),
        "deblur_uni": lambda: UniformBlur(image, args["taps"]),
        "deblur_gauss": lambda: GaussianBlur(image, args["taps"], args["sigma"]),
        "deblur_aniso": lambda: AnisotropicBlur(image, args["taps"], args["sigma_rows"], args["sigma_columns"]),
        "general": lambda: General(image, tensors["matrix"]),
    }
    return make[case["operator"]]()


def to_ours(op: Operator, case: dict[str, Any], tensors: dict[str, Tensor], y: Tensor) -> Tensor:
    """A recorded measurement, flat in the order of the golden README, in our shape."""
    channels = case["channels"]
    if case["operator"] == "inpainting":  # pixel by pixel, channels innermost
        kept = tensors["mask"].bool()
        ours = torch.zeros(len(y), *op.image)
        ours[:, :, kept] = y.view(len(y), -1, channels).mT
        return ours
    if case["operator"] == "cs_walshhadamard":  # channels innermost
        return y.view(len(y), -1, channels).mT.contiguous()
    return y.view(len(y), *op.measured)


@pytest.mark.parametrize("golden", GOLDEN)
def test_an_operator_is_the_published_one(golden: Golden) -> None:
    case, tensors = golden.case, golden.tensors
    op = of_golden(case, tensors)
    assert isinstance(op, SpectralOperator)
    x, y = tensors["x"], to_ours(op, case, tensors, tensors["y"])

    assert far(op.A(x), to_ours(op, case, tensors, tensors["H_x"])) <= 1e-5
    assert far(op.At(y), tensors["Ht_y"]) <= 1e-5
    assert far(op.pinv(y), tensors["H_pinv_y"]) <= 1e-5
    assert far(op.project(x), tensors["H_pinv_H_x"]) <= 1e-5

    singulars = op.singulars(x)[0].sort(descending=True).values.expand(op.Vt(x).shape[1])
    recorded = tensors["singulars_sorted"].sort(descending=True).values
    assert far(singulars[: len(recorded)], recorded) <= 1e-5
    assert int((singulars > 0).sum()) == case["rank"]


@pytest.mark.parametrize("golden", PUBLISHED_BLURS)
def test_the_published_blurs_with_both_defects(golden: Golden) -> None:
    """Equal products of 1-D singular values come in the order that the published sort left them in."""
    case, tensors = golden.case, golden.tensors
    image = c, size, _ = (case["channels"], case["image_size"], case["image_size"])
    kernels = [tensors[name] for name in ("kernel", "kernel_rows", "kernel_columns") if name in tensors]
    ours = PublishedBlur(image, *kernels)

    # z lies in the published order, V_z is V z: which of our coefficients is each of its entries, up to signs?
    z = tensors["z"][0].view(size * size, c).abs()
    coefficients = ours.Vt(tensors["V_z"][:1])[0].view(size * size, c).abs()
    distance, place = torch.cdist(z, coefficients, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert distance.max() < 2e-4
    order = torch.arange(size * size)[ours.order][place]
    op = PublishedBlur(image, *kernels, order=order)

    x, y = tensors["x"], tensors["y"].view(-1, *image)
    assert far(op.A(x).flatten(1), tensors["H_x"]) <= 1e-5
    assert far(op.At(y), tensors["Ht_y"]) <= 1e-5
    assert far(op.pinv(y), tensors["H_pinv_y"]) <= 1e-5
    assert far(op.project(x), tensors["H_pinv_H_x"]) <= 1.2e-5  # float64 is 1.1e-5 from the recorded float32 of aniso
    assert far(op.singulars(x)[0], tensors["singulars"]) <= 1e-6
    assert int((op.singulars(x) > 0).sum()) == case["rank"]


def test_an_order_of_singular_values_is_checked() -> None:
    with pytest.raises(ValueError, match="order must be the integers 0 to 15, by descending singular value"):
        PublishedBlur((1, 4, 4), [0.2, 0.6, 0.2], order=torch.arange(16))


def test_recorded_operators_of_every_kind_are_in_the_repository() -> None:
    assert {c.id for c in GOLDEN} >= {
        f"operator_{name}"
        for name in (
            "colorization",
            "cs_walshhadamard",
            "deblur_aniso",
            "general",
            "inpainting",
            "sr_averagepooling",
            "sr_bicubic",
        )
    }


# The laws, at any size.

SIZES = ((12, 20), (8, 4), (20, 36))
KINDS: dict[str, tuple[tuple[tuple[int, int], ...], Callable[[Image], Operator]]] = {
    "denoising": (SIZES, Denoising),
    "inpainting": (SIZES, lambda image: Inpainting(image, random_mask(image, 0.4))),
    "super-resolution": (SIZES, lambda image: SuperResolution(image, 4)),
    "old photograph": (SIZES, lambda image: OldPhotograph(image, 2, random_mask(image, 0.6))),
    "colour": (SIZES, Colourisation),
    "colour, a negative weight first": (SIZES, lambda image: Colourisation(image, [-0.5, 1.0, 0.0, 2.0][: image[0]])),
    "bicubic": (SIZES, lambda image: Bicubic(image, 2)),
    "bicubic 1": (((7, 3), (5, 8), (2, 9)), lambda image: Bicubic(image, 1)),
    "bicubic 3": (((6, 9), (3, 12), (15, 6)), lambda image: Bicubic(image, 3)),
    "uniform": (((13, 17), (8, 5), (20, 36)), UniformBlur),
    "gauss": (((13, 17), (8, 5), (20, 36)), GaussianBlur),
    "aniso": (((13, 17), (8, 5), (20, 36)), AnisotropicBlur),
    "more measurements than pixels": (
        ((5, 7), (4, 3), (6, 5)),
        lambda image: Separable(image, noise(9, image[1]), noise(2, image[2], seed=1)),
    ),
    "fourier": (((13, 17), (8, 5), (20, 36)), lambda image: FourierBlur(image, kernel(5, 4))),
    "fourier, larger than the image": (((3, 4), (4, 3), (5, 6)), lambda image: FourierBlur(image, kernel(9, 8))),
    "fourier with zeros": (((13, 17), (8, 5), (20, 36)), lambda image: FourierBlur(image, torch.ones(3, 5) / 15, 0.1)),
    "walsh–hadamard": (((8, 16), (32, 4), (2, 1)), lambda image: WalshHadamard(image, 0.5, seed=3)),
    "blocks": (SIZES, lambda image: BlockSensing(image, 0.25, block=4)),
    "blocks, all of it": (SIZES, lambda image: BlockSensing(image, 1.0, block=4)),
    "general": (((4, 6), (2, 3), (3, 2)), lambda image: General(image, noise(17, image[0] * image[1] * image[2]))),
    "function": (((4, 6), (2, 3), (3, 5)), lambda image: Function(image, lambda x: x[..., 1:, :] - 2 * x[..., :-1, :])),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_operator_keeps_its_laws(kind: str) -> None:
    sizes, make = KINDS[kind]
    for height, width in sizes:
        for channels in (1, 2, 3, 4):
            op = make((channels, height, width))
            for batch in (1, 3):
                for dtype in (torch.float32, torch.float64):
                    assert check(op, dtype, batch=batch) == [], (op.image, batch, dtype)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_an_operator_works_on_the_gpu_and_in_a_graph(kind: str) -> None:
    sizes, make = KINDS[kind]
    op = make((3, *sizes[0]))
    assert check(op, device="cuda") == []
    assert check(op, torch.float32, device="cuda") == []
    if kind == "function":  # its pinv looks at the residual
        return
    x = noise(2, *op.image, dtype=torch.float32).cuda()
    graph = torch.cuda.CUDAGraph()
    expected = op.project(x)  # the first call brings the constants
    with torch.cuda.graph(graph):
        captured = op.project(x)
    graph.replay()
    assert far(captured, expected) <= 1e-6


@pytest.mark.parametrize("make", [Inpainting, lambda image, mask: OldPhotograph(image, 2, mask)])
def test_each_image_may_have_its_own_mask(make: Callable[[Image, Tensor], Operator]) -> None:
    image = (3, 6, 10)
    masks = torch.stack([random_mask(image, seed=seed) for seed in range(3)])
    together, x = make(image, masks), noise(3, *image)

    assert check(together) == []
    assert check(Composition(Denoising(together.measured), together)) == []  # type: ignore[arg-type]
    for i in range(3):
        alone = make(image, masks[i])
        assert torch.equal(together.A(x)[i], alone.A(x[i : i + 1])[0])
        assert torch.equal(together.project(x)[i], alone.project(x[i : i + 1])[0])


# What an operator computes.


DENSE: list[Callable[[Image], Operator]] = [
    lambda i: SuperResolution(i, 2),
    lambda i: OldPhotograph(i, 2, random_mask(i, 0.7)),
    Colourisation,
    lambda i: Bicubic(i, 2),
    UniformBlur,
    AnisotropicBlur,
    lambda i: FourierBlur(i, torch.ones(2, 3) / 6),
    lambda i: WalshHadamard(i, 0.25),
    lambda i: Function(i, lambda x: x.cumsum(-1)[..., ::3], dtype=torch.float64),
    lambda i: Composition(SuperResolution(i, 2), Inpainting(i, random_mask(i, 0.6))),
    lambda i: Composition(Colourisation((3, 2, 4)), SuperResolution(i, 2)),
]


@pytest.mark.parametrize("make", DENSE)
def test_adjoint_pseudo_inverse_and_singular_values_are_those_of_the_matrix(make: Callable[[Image], Operator]) -> None:
    op = make((3, 4, 8))
    A, y = matrix(op), noise(2, *op.measured)

    assert far(op.At(y).flatten(1), y.flatten(1) @ A) <= 1e-12
    assert far(op.pinv(y).flatten(1), y.flatten(1) @ torch.linalg.pinv(A, rtol=1e-10).T) <= 1e-9
    if isinstance(op, SpectralOperator):
        ours = op.singulars(y)[0].sort(descending=True).values
        exact = torch.linalg.svdvals(A)
        assert far(ours[: len(exact)], exact) <= 1e-12
        assert not ours[len(exact) :].any()


def test_a_separable_blur_is_a_convolution_with_zeros_outside() -> None:
    down, along = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25]).double(), torch.tensor([0.5, 0.2, 0.3]).double()
    op, x = SeparableBlur((2, 9, 7), down, along, threshold=0.0), noise(1, 2, 9, 7)
    weight = (down[:, None] * along).flip(0, 1).expand(2, 1, 5, 3)  # conv2d correlates
    assert far(op.A(x), torch.nn.functional.conv2d(x, weight, padding=(2, 1), groups=2)) <= 1e-12


def test_a_fourier_blur_is_a_circular_convolution() -> None:
    k, x = kernel(3, 4), noise(1, 2, 5, 7)
    expected = sum(k[m, n] * x.roll((m - 1, n - 2), (2, 3)) for m in range(3) for n in range(4))
    assert isinstance(expected, Tensor)
    assert far(FourierBlur((2, 5, 7), k).A(x), expected) <= 1e-12


def test_both_blurs_spread_a_point_alike_inside_the_image() -> None:
    point, taps = torch.zeros(1, 1, 9, 9, dtype=torch.float64), torch.tensor([0.1, 0.6, 0.2, 0.1]).double()
    point[..., 4, 4] = 1.0
    separable = SeparableBlur((1, 9, 9), taps, threshold=0.0).A(point)
    assert far(FourierBlur((1, 9, 9), taps[:, None] * taps, threshold=0.0).A(point), separable) <= 1e-12


def test_walsh_hadamard_is_the_sylvester_matrix() -> None:
    H = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(5):
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    op, x = WalshHadamard((1, 4, 8), selected=torch.arange(32)), noise(1, 1, 4, 8)
    assert far(op.A(x)[0, 0], H @ x.flatten() / 32**0.5) <= 1e-12


def test_walsh_hadamard_measures_a_share_drawn_by_seed() -> None:
    x = noise(1, 3, 8, 16)
    first, again, other = (WalshHadamard((3, 8, 16), 0.3, seed=seed) for seed in (1, 1, 2))
    assert first.measured == (3, 38)  # ⌊0.3 · 128⌋
    assert torch.equal(first.A(x), again.A(x))
    assert not torch.equal(first.A(x), other.A(x))


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_bicubic_keeps_constants_and_is_symmetric(factor: int) -> None:
    A = bicubic_matrix(12, factor)
    assert far(A.sum(1), torch.ones(12 // factor, dtype=torch.float64)) <= 1e-14
    assert far(A.flip(0, 1), A) <= 1e-14


def test_the_threshold_decides_what_a_blur_keeps() -> None:
    def singulars(threshold: float) -> Tensor:
        return SeparableBlur((1, 16, 12), [0.25, 0.5, 0.25], threshold=threshold).singulars(noise(1, 1))

    whole = singulars(0.0)
    few, fewer = ((whole > 0).sum() - (singulars(t) > 0).sum() for t in (3e-2, 0.3))
    assert bool((whole > 0).all())
    assert 0 < few < fewer < whole.numel()
    assert float(singulars(0.3).max()) == float(whole.max())


def test_inpainting_ignores_what_stands_at_missing_pixels() -> None:
    mask = random_mask((2, 4, 4))
    op, x = Inpainting((2, 4, 4), mask), noise(1, 2, 4, 4)
    broken = torch.where(mask, x, float("nan"))
    assert torch.equal(op.pinv(broken), op.pinv(x))
    assert torch.equal(op.Ut(broken), op.Ut(x))


def test_a_random_mask_misses_its_share_by_seed() -> None:
    image = (1, 10, 7)
    assert int(random_mask(image, 0.3).sum()) == 49
    assert torch.equal(random_mask(image, seed=4), random_mask(image, seed=4))
    assert not torch.equal(random_mask(image, seed=4), random_mask(image, seed=5))


# What it costs.


def test_inpainting_of_a_million_pixels_is_made_at_once() -> None:
    mask = random_mask((3, 1024, 1024))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        Inpainting((3, 1024, 1024), mask)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1


def stored(value: object) -> int:
    """The bytes of the tensors that an operator holds, each storage once."""
    found: dict[int, int] = {}

    def visit(v: object) -> None:
        if isinstance(v, Tensor):
            found[v.untyped_storage().data_ptr()] = v.untyped_storage().nbytes()
        elif isinstance(v, Constant) or type(v).__module__.startswith("rddm_fast.inverse.operators"):
            for part in vars(v).values():
                visit(part)

    visit(value)
    return sum(found.values())


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda: Denoising((3, 64, 64)), 0),
        (lambda: SuperResolution((3, 64, 64), 4), 0),
        (lambda: Colourisation((3, 64, 64)), 3 * 8),
        (lambda: Inpainting((3, 64, 64), random_mask((3, 64, 64))), 64 * 64),
        (lambda: OldPhotograph((3, 64, 64), 2, random_mask((3, 64, 64))), 64 * 64 + 3 * 8),
        (lambda: UniformBlur((3, 64, 64)), (2 * 64 * 64 + 64) * 8),  # one U, s, V for both sides
        (lambda: Bicubic((3, 64, 64), 4), (64 * 64 + 16 * 16 + 16) * 8),
        (lambda: AnisotropicBlur((3, 64, 64)), 2 * (2 * 64 * 64 + 64) * 8),
        (lambda: FourierBlur((3, 64, 64), torch.ones(21, 21)), 64 * 64 * 16),
        (lambda: WalshHadamard((3, 64, 64), 0.25), 64 * 64 // 4 * 8),
        (lambda: BlockSensing((3, 64, 64), 0.25), 256 * 1024 * 8),
    ],
)
def test_an_operator_stores_no_more_than_it_must(make: Callable[[], Operator], most: int) -> None:
    assert stored(make()) <= most
