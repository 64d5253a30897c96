"""conv3x3 against torch's convolution in float64: every instruction set, tile and shape, layouts, threads, mistakes.

The Triton kernel is tested in tests/kernels/test_conv3x3_kernel.py; its weights' packing is here.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import BF16, F16, F32, F64, LAYOUTS
from torch import Tensor

from rddm_fast.ops import BackendUnavailable, backends, conv3x3, pack_conv3x3, pack_conv3x3_taps
from rddm_fast.ops.networks.conv3x3 import instruction_sets, serves, tiles

SETS = instruction_sets()
TILES = sorted(tiles())
WAYS = [(tile, None if tile == 1 else name) for tile in TILES for name in SETS[: 1 if tile == 1 else None]]
"""Each tile with each instruction set of this machine; a tile of 1 has one of its own, AMX."""
EPS = torch.finfo(F32).eps


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights(k: int, c: int, seed: int = 1) -> Tensor:
    """Weights with which images of order 1 give results of order 1."""
    return images(k, c, 3, 3, seed=seed) / (9 * c) ** 0.5


def assert_right(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, tile: int) -> None:
    """The error of float32 sums of c products grows as sqrt(c); a transform multiplies it by its norm.

    A tile of 1 rounds values to 2^-23 of the largest, and drops products of 2^-24 of the largest product.
    """
    exact = F.conv2d(x.to(F64), weight.to(F64), None if bias is None else bias.to(F64), padding=1)
    assert y.shape == exact.shape and y.dtype == F32 and y.is_contiguous(memory_format=torch.channels_last)
    # Of many elements the largest is about 5 standard deviations from the exact result.
    bound = 4e-6 if tile == 1 else 5 * EPS * (2 + weight.shape[1] ** 0.5) * {2: 1, 4: 2.5}[tile]
    assert ((y - exact).abs().max() if y.numel() else 0) <= bound * (1 + exact.abs().max() / 5 if y.numel() else 1)


@pytest.mark.parametrize("tile,instruction_set", WAYS)
def test_it_is_a_convolution(tile: int, instruction_set: str | None) -> None:
    # Fewer channels than a vector's, no multiple of it, several panels; edges of every kind; many and few tiles.
    for b, c, k, h, w in [
        (1, 64, 64, 32, 32),
        (2, 24, 40, 13, 17),
        (1, 3, 5, 9, 2),
        (3, 17, 33, 1, 1),
        (1, 8, 100, 5, 30),
        (1, 300, 256, 12, 11),
        (2, 16, 3, 40, 3),
        (1, 40, 48, 3, 128),
        (1, 1, 1, 7, 7),
    ]:
        x, weight, bias = images(b, c, h, w), weights(k, c), images(k, seed=2)
        packed = pack_conv3x3(weight, tile=tile, instruction_set=instruction_set)
        for given_bias in (bias, None):
            assert_right(conv3x3(x, weight, given_bias, packed=packed), x, weight, given_bias, tile)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(1, 70),
    st.integers(0, 40),
    st.integers(1, 70),
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from(WAYS or [(4, "")]),
    st.sampled_from(list(LAYOUTS)),
)
def test_any_shape_in_one_part_or_two(
    b: int, c: int, c_2: int, k: int, h: int, w: int, way: tuple[int, str | None], layout: str
) -> None:
    tile, instruction_set = way
    x, weight, bias = images(b, c + c_2, h, w), weights(k, c + c_2), images(k, seed=2)
    packed = pack_conv3x3(weight, tile=tile, instruction_set=instruction_set)
    first, second = LAYOUTS[layout](x[:, :c]), x[:, c:] if c_2 else None
    y = conv3x3(first, weight, bias, x_2=second, packed=packed)
    assert_right(y, x, weight, bias, tile)


@pytest.mark.parametrize("shape", [(1, 64, 96, 96), (1, 32, 8, 8), (1, 384, 20, 20), (2, 24, 50, 50)])
def test_the_same_bits_whatever_the_threads(shape: tuple[int, ...]) -> None:
    x, weight = images(*shape), weights(64, shape[1])
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results += [conv3x3(x, weight, packed=pack_conv3x3(weight, tile=tile)) for tile in TILES]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[i % len(TILES)]) for i, result in enumerate(results))


@pytest.mark.parametrize("instruction_set", SETS)
def test_a_large_result_that_is_written_past_the_cache(instruction_set: str) -> None:
    x, weight = images(1, 8, 130, 131), weights(64, 8)
    y = conv3x3(x, weight, packed=pack_conv3x3(weight, tile=4, instruction_set=instruction_set))
    assert y.numel() > 1 << 20
    assert_right(y, x, weight, None, 4)


def test_the_images_of_a_batch_do_not_mix() -> None:
    x, weight = images(5, 16, 6, 7), weights(16, 16)
    packed = pack_conv3x3(weight)
    together = conv3x3(x, weight, packed=packed)
    for i in range(5):
        torch.testing.assert_close(together[i : i + 1], conv3x3(x[i : i + 1], weight, packed=packed), rtol=0, atol=0)


@pytest.mark.parametrize("tile", [2, 4])
def test_a_bad_pixel_reaches_its_tiles_alone(tile: int) -> None:
    x, weight = images(1, 16, 32, 32), weights(16, 16)
    packed = pack_conv3x3(weight, tile=tile)
    plain = conv3x3(x, weight, packed=packed)
    x[0, 3, 13, 14] = torch.nan
    bad = conv3x3(x, weight, packed=packed).isnan().any(1)[0]
    assert bad[12:15, 13:16].all()  # where a direct convolution has it
    assert not bad[:8].any() and not bad[20:].any() and not bad[:, :8].any() and not bad[:, 20:].any()
    torch.testing.assert_close(conv3x3(x, weight, packed=packed)[..., :8, :], plain[..., :8, :], rtol=0, atol=0)


@pytest.mark.skipif(1 not in TILES, reason="this machine has no AMX")
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite_makes_its_rows_nan_in_amx(value: float) -> None:
    """Never a finite result that is wrong; the other images keep their bits."""
    x, weight = images(2, 64, 64, 64), weights(16, 64)
    packed = pack_conv3x3(weight, tile=1)
    plain = conv3x3(x, weight, packed=packed)
    x[1, 3, 33, 14] = value
    y = conv3x3(x, weight, packed=packed)
    assert y[1, :, 32:35].isnan().all() and torch.equal(y[0], plain[0])
    finite = y[1].isfinite().all(0)
    assert torch.equal(y[1, :, finite], plain[1, :, finite])


@pytest.mark.parametrize("channels", [4096, 4097])
def test_as_many_channels_as_fit_and_more(channels: int) -> None:
    """All values are their greatest, so that the sums of AMX's products are, too."""
    x, weight = torch.full((1, channels, 3, 3), 0.5), torch.full((2, channels, 3, 3), -0.25)
    y = conv3x3(x, weight)
    torch.testing.assert_close(y[0, :, 1, 1], torch.full((2,), -9 * channels / 8.0), rtol=2e-5, atol=0)


@pytest.mark.skipif(1 not in TILES, reason="this machine has no AMX")
def test_values_of_every_magnitude_in_amx() -> None:
    weight = weights(24, 70)
    packed = pack_conv3x3(weight, tile=1)
    for scale in (1e-36, 1e-20, 1.0, 1e30):
        x = images(1, 70, 9, 11) * scale
        y, exact = conv3x3(x, weight, packed=packed), F.conv2d(x.to(F64), weight.to(F64), padding=1)
        assert (y - exact).abs().max() <= 4e-6 * max(scale, 1e-31)
    assert not conv3x3(torch.zeros(1, 70, 9, 11), weight, packed=packed).any()
    # A value 1000 times the others costs them 3 of their 7 decimal places.
    x = images(1, 70, 9, 11)
    x[0, 0, 0, 0] = 5000
    y, exact = conv3x3(x, weight, packed=packed), F.conv2d(x.to(F64), weight.to(F64), padding=1)
    assert (y - exact).abs().max() <= 4e-3


def test_no_images_and_no_weights_packed_before() -> None:
    weight = weights(8, 8)
    for shape in ((0, 8, 4, 4), (1, 8, 0, 4), (1, 8, 4, 0)):
        assert conv3x3(torch.zeros(shape), weight).shape == shape
    x = images(1, 8, 9, 9)
    assert torch.equal(conv3x3(x, weight), conv3x3(x, weight, packed=pack_conv3x3(weight)))


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("shape", [(24, 70), (70, 24), (1, 3), (5, 1)])
def test_a_weight_is_packed_from_any_layout_and_turned(tile: int, shape: tuple[int, int]) -> None:
    def packed(weight: Tensor, turned: bool = False) -> Tensor:
        return pack_conv3x3(weight, tile=tile, turned=turned).view(torch.int32)  # digits may look like NaN

    weight = weights(*shape)
    turned = weight.flip(2, 3).transpose(0, 1).contiguous()
    for layout in (torch.contiguous_format, torch.channels_last):
        own = weight.contiguous(memory_format=layout)
        assert torch.equal(packed(own), packed(weight))
        assert torch.equal(packed(own, turned=True), packed(turned))
    sliced = torch.cat((weight, weight), dim=1)[:, : shape[1]]
    assert torch.equal(packed(sliced, turned=True), packed(turned))


def whole_numbers(*shape: int, seed: int) -> Tensor:
    """Values whose sums are exact in every dtype."""
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).float()


def test_packed_taps_are_one_matrix_per_tap() -> None:
    x, weight = whole_numbers(2, 5, 6, 7, seed=0), whole_numbers(3, 5, 3, 3, seed=1)
    packed = pack_conv3x3_taps(weight, BF16)
    assert packed.shape == (9 * 3, 5) and packed.dtype == BF16 and packed.is_contiguous()
    border = F.pad(x, (1, 1, 1, 1))
    taps = packed.float().view(9, 3, 5)
    y = sum(
        torch.einsum("kc,bchw->bkhw", taps[3 * row + column], border[:, :, row : row + 6, column : column + 7])
        for row in range(3)
        for column in range(3)
    )
    assert torch.equal(y, F.conv2d(x, weight, padding=1))


def test_four_small_convolutions_with_packed_taps_enlarge_the_image() -> None:
    x, weight = whole_numbers(2, 5, 4, 3, seed=0), whole_numbers(3, 5, 3, 3, seed=1)
    packed = pack_conv3x3_taps(weight, F16, upsample=True)
    assert packed.shape == (16 * 3, 5) and packed.dtype == F16 and packed.is_contiguous()
    phases = packed.float().view(2, 2, 2, 2, 3, 5).permute(0, 1, 4, 5, 2, 3)  # phase's row, column, K, C, 2, 2
    y = torch.empty(2, 3, 8, 6)
    for a in range(2):
        for b in range(2):  # The zeros lie before the image for even places, after it for odd ones.
            border = F.pad(x, (1 - b, b, 1 - a, a))
            y[:, :, a::2, b::2] = F.conv2d(border, phases[a, b])
    enlarged = F.interpolate(x, scale_factor=2, mode="nearest")
    assert torch.equal(y, F.conv2d(enlarged, weight, padding=1))
    assert torch.equal(y, conv3x3(x, weight, upsample=True, impl="reference"))


def test_summed_taps_are_rounded_once() -> None:
    """1 + 3 x 2^-9 is nearer to 1 + 2^-7 than to 1, where sums in bfloat16 would stay."""
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1:, 1:] = torch.tensor([[1.0, 2.0**-9], [2.0**-9, 2.0**-9]])
    packed = pack_conv3x3_taps(weight, BF16, upsample=True).view(2, 2, 2, 2)
    assert packed[0, 0, 1, 1] == 1 + 2.0**-7


@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("dtype", [BF16, F16])
def test_the_reference_serves_halves_and_has_gradients(dtype: torch.dtype, upsample: bool) -> None:
    x, x_2, weight, bias = images(2, 5, 4, 3), images(2, 3, 4, 3, seed=3), weights(6, 8), images(6, seed=2)
    weight.requires_grad_()
    y = conv3x3(x.to(dtype), weight, bias, x_2=x_2.to(dtype), upsample=upsample, impl="reference")
    both = torch.cat((x, x_2), dim=1)
    both = F.interpolate(both, scale_factor=2, mode="nearest") if upsample else both
    exact = F.conv2d(both, weight, bias, padding=1)
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    # Images, weights, bias and result are rounded, at most about 5 of their standard deviations from zero.
    assert (y - exact).abs().max() <= 4 * 5 * torch.finfo(dtype).eps
    assert torch.autograd.grad(y.sum(), weight)[0].isfinite().all()


def test_a_traced_result_has_the_enlarged_size() -> None:
    x, weight = torch.zeros(2, 16, 4, 3, dtype=F16, device="meta"), torch.zeros(8, 16, 3, 3, device="meta")
    for upsample, size in ((False, (2, 8, 4, 3)), (True, (2, 8, 8, 6))):
        y = torch.ops.rddm_fast.conv3x3(x, None, weight, None, None, upsample)
        assert y.shape == size and y.dtype == F16 and y.is_contiguous(memory_format=torch.channels_last)


def test_what_is_served_is_known_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(backends, "why_not", lambda backend, device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert serves(cpu, F32, [3], 5) and not serves(cpu, F32, [64], 64, upsample=True) and not serves(cpu, F16, [64], 64)
    assert serves(cuda, BF16, [64, 16], 8, upsample=True) and serves(cuda, F16, [512], 512)
    assert not serves(cuda, F32, [64], 64) and not serves(cuda, BF16, [64, 8], 64) and not serves(cuda, BF16, [64], 12)
    monkeypatch.setattr(backends, "why_not", lambda backend, device: "it is not here")
    assert not serves(cpu, F32, [64], 64) and not serves(cuda, BF16, [64], 64)


def test_opcheck_and_one_graph() -> None:
    op, weight, bias = torch.ops.rddm_fast.conv3x3.default, weights(24, 20), images(24)
    packed = pack_conv3x3(weight)
    for layout in ("contiguous", "channels_last", "sliced"):
        x, x_2 = LAYOUTS[layout](images(2, 12, 6, 7)), images(2, 8, 6, 7)
        torch.library.opcheck(op, (x, x_2, weight, packed, bias))
        torch.library.opcheck(op, (torch.cat((x, x_2), 1), None, weight, None, None))
        compiled = torch.compile(
            lambda x, x_2=x_2: conv3x3(x, weight, bias, x_2=x_2, packed=packed) + 1, fullgraph=True, backend="eager"
        )
        got, expected = compiled(x), conv3x3(x, weight, bias, x_2=x_2, packed=packed) + 1
        assert torch.equal(got, expected) and got.stride() == expected.stride()


X, W = torch.zeros(2, 8, 4, 4), torch.zeros(8, 8, 3, 3)
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "dtype": (dict(x=X.half()), TypeError, "x is torch.float16: conv3x3 computes in float32"),
    "dimensions": (dict(x=X[0]), ValueError, r"x must be images \(B, C, H, W\), not of shape \(8, 4, 4\)"),
    "weight": (dict(weight=W[..., :2]), ValueError, r"weight must be of shape \(K, C, 3, 3\), not \(8, 8, 3, 2\)"),
    "weight's dtype": (dict(weight=W.double()), TypeError, "weight is torch.float64"),
    "channels": (dict(x=X[:, :5]), ValueError, "takes 8 channels, and x has 5"),
    "bias": (dict(bias=torch.zeros(3)), ValueError, r"bias must have shape \(8,\), not \(3,\)"),
    "second part": (dict(x_2=X[:, :, :3]), ValueError, "only the channels may differ"),
    "device": (dict(weight=W.to("meta")), ValueError, "weight is on meta and x on cpu"),
    "backend": (dict(impl="cuda"), BackendUnavailable, "cuda: this op has no such kernel"),
    "no Triton": (dict(x=X.half(), impl="triton"), BackendUnavailable, "triton: "),
    "float32 by Triton": (
        dict(impl="triton"),
        TypeError,
        "x is torch.float32: conv3x3 computes in bfloat16 or float16",
    ),
    "parts' dtypes": (
        dict(x=X.half(), x_2=X, impl="reference"),
        TypeError,
        "x_2 is torch.float32: conv3x3 takes x_2 in",
    ),
    "bias's dtype": (
        dict(bias=torch.zeros(8).half()),
        TypeError,
        "bias is torch.float16: conv3x3 takes bias in float32",
    ),
    "enlarged on a CPU": (
        dict(upsample=True),
        ValueError,
        "on a CPU enlarge the images first, or pass impl='reference'",
    ),
    "gradient": (dict(x=X.clone().requires_grad_()), RuntimeError, "conv3x3 has no gradient"),
    "packed": (dict(packed=pack_conv3x3(torch.zeros(8, 7, 3, 3))), RuntimeError, "packed must come from pack_conv3x3"),
    "not packed": (dict(packed=torch.zeros(500)), RuntimeError, "packed must come from pack_conv3x3"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    change, error, sentence = MISTAKES[name]
    with pytest.raises(error, match=sentence):
        conv3x3(**{**dict(x=X, weight=W), **change})


def test_mistakes_in_packing_are_named() -> None:
    with pytest.raises(TypeError, match=r"dtype is torch.float32: choose bfloat16 or float16"):
        pack_conv3x3_taps(W, F32)
    with pytest.raises(TypeError, match=r"weight is torch.float16: conv3x3 takes float32 or bfloat16 here"):
        pack_conv3x3_taps(W.half(), BF16)
    with pytest.raises(ValueError, match=r"weight must be of shape \(K, C, 3, 3\)"):
        pack_conv3x3_taps(W[..., :2], BF16)
    with pytest.raises(ValueError, match=r"tile is 3: this machine has (1, )?4, 2"):
        pack_conv3x3(W, tile=3)
    with pytest.raises(ValueError, match=r"instruction_set is 'mmx': this machine has baseline"):
        pack_conv3x3(W, tile=4, instruction_set="mmx")


@pytest.mark.parametrize("has_amx", [False, True])
def test_a_tile_of_1_is_for_amx_alone(has_amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "build_info", {**(backends.build_info or {}), "amx": has_amx})
    assert tiles() == ((1, 4, 2) if has_amx else (4, 2))
    if has_amx:
        with pytest.raises(ValueError, match="instruction_set is 'baseline': it is for tiles of 4 and 2"):
            pack_conv3x3(W, tile=1, instruction_set="baseline")
        with pytest.raises(ValueError, match="tile is 1: in AMX a weight has at most 4096 channels, and this has 4097"):
            pack_conv3x3(torch.zeros(1, 4097, 3, 3), tile=1)
    else:
        with pytest.raises(ValueError, match=r"tile is 1: this machine has 4, 2 \(1 needs AMX\)"):
            pack_conv3x3(W, tile=1)


def test_the_compiled_op_does_not_enlarge() -> None:
    with pytest.raises(RuntimeError, match="conv3x3: upsample is for a GPU"):
        torch.ops.rddm_fast.conv3x3(X, None, W, None, None, True)
