"""The noise contract: Philox's published vectors, the same noise everywhere, and that it is normal.

The reference here is written in NumPy from the specification in rddm_fast/ops/noise.py, apart from the package's own.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases.reverse_step import noise_alone as drawn

from rddm_fast.ops import reverse_step
from rddm_fast.ops.networks.conv3x3 import instruction_sets
from rddm_fast.ops.noise import noise, normals_at, philox, signed64

SEEDS = [(0, 0), (1234, 5), (2**63 + 99, 2**64 - 1), (2**32, 2**33)]


def compiled_normals(seed: int, stream: int, first: int, count: int, instruction_set: str = "") -> np.ndarray:
    """What the compiled CPU ops draw, (count,) in float32."""
    op = torch.ops.rddm_fast.normals
    return op(signed64(seed), signed64(stream), first, count, instruction_set).numpy()


def philox_numpy(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox4x32-10 on uint64 arrays (4, n) of 32-bit words, as Salmon et al. (2011) define it."""
    c, k, mask = [x.copy() for x in counter.astype(np.uint64)], list(key), np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p = [np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]]
        high = [x >> np.uint64(32) for x in p]
        c = [high[1] ^ c[1] ^ np.uint64(k[0]), p[1] & mask, high[0] ^ c[3] ^ np.uint64(k[1]), p[0] & mask]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return np.stack(c)


def noise_numpy(elements: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """The normals of logical elements (uint64), in float64."""
    block = elements >> np.uint64(2)
    words = [block & np.uint64(0xFFFFFFFF), block >> np.uint64(32)]
    words += [np.full_like(block, stream % 2**32), np.full_like(block, stream >> 32)]
    w = philox_numpy(np.stack(words), (seed % 2**32, seed >> 32))
    z = []
    for a, b in ((w[0], w[1]), (w[2], w[3])):
        radius = np.sqrt(-2 * np.log(((a >> np.uint64(8)) + np.uint64(1)).astype(np.float64) / 2**24))
        angle = 2 * np.pi * (b >> np.uint64(8)).astype(np.float64) / 2**24
        z += [radius * np.cos(angle), radius * np.sin(angle)]
    return np.choose((elements & np.uint64(3)).astype(int), z)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # Random123's kat_vectors, philox4x32 10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_s_published_vectors(counter: tuple, key: tuple, words: tuple) -> None:
    ours = philox([torch.tensor([c]) for c in counter], key)
    assert tuple(int(word) for word in ours) == words
    numpy = philox_numpy(np.array(counter, dtype=np.uint64)[:, None], key)
    assert tuple(int(word) for word in numpy[:, 0]) == words


@pytest.mark.parametrize(("seed", "stream"), SEEDS)
def test_the_reference_is_the_specification(seed: int, stream: int) -> None:
    elements = np.arange(1003, dtype=np.uint64)
    ours = normals_at(torch.arange(1003), seed, stream)
    np.testing.assert_allclose(ours.numpy(), noise_numpy(elements, seed, stream), rtol=0, atol=1e-12)


@pytest.mark.parametrize("start", [2**32 - 5, 2**34 - 2, 2**40 + 1])
def test_elements_beyond_32_bits(start: int) -> None:
    """The counters of the reference and of the compiled code, for images too large to allocate here."""
    elements = np.arange(start, start + 9, dtype=np.uint64)
    ours = normals_at(torch.arange(start, start + 9), 7, 3)
    np.testing.assert_allclose(ours.numpy(), noise_numpy(elements, 7, 3), rtol=0, atol=1e-12)
    np.testing.assert_allclose(compiled_normals(7, 3, start, 9), noise_numpy(elements, 7, 3), rtol=0, atol=1e-6)
    assert len(set(ours.tolist())) == 9 and not np.allclose(ours.numpy(), noise_numpy(elements % 2**32, 7, 3))


@pytest.mark.parametrize("name", instruction_sets())
@pytest.mark.parametrize("start", [0, 7, 2**34 - 141])
def test_every_instruction_set_draws_any_part(name: str, start: int) -> None:
    """1 to 300 elements, so up to 76 blocks, from any element of a block; 2^34 - 141 is followed by block 2^32."""
    seed, stream = 2**63 + 99, 2**40 + 5
    whole = compiled_normals(seed, stream, start, 304, name)
    expected = noise_numpy(np.arange(start, start + 304, dtype=np.uint64), seed, stream)
    np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-6)
    for count in range(1, 301):
        first = count % 5
        part = compiled_normals(seed, stream, start + first, count, name)
        assert np.array_equal(part, whole[first : first + count]), (first, count)


def test_vectors_of_any_width_draw_the_same_bits() -> None:
    """The instruction sets with multiply-add differ in the width of their vectors alone."""
    draws = [compiled_normals(3, 4, 5, 1000, name) for name in instruction_sets() if name != "baseline"]
    assert all(np.array_equal(draw, draws[0]) for draw in draws)


def test_an_unknown_instruction_set_is_named() -> None:
    with pytest.raises(RuntimeError, match="there is no instruction set mmx"):
        compiled_normals(0, 0, 0, 1, "mmx")


@pytest.mark.parametrize(("seed", "stream"), SEEDS)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 5, 7), (2, 3, 64, 64), (3, 4, 1, 1), (1, 7, 33, 41), (2, 0, 3, 3)])
def test_the_op_draws_the_reference_s_noise(shape: tuple[int, ...], seed: int, stream: int) -> None:
    expected = noise_numpy(np.arange(math.prod(shape), dtype=np.uint64), seed, stream).reshape(shape)
    np.testing.assert_allclose(noise(shape, seed, stream).numpy(), expected, rtol=0, atol=1e-6)
    layouts = [torch.empty(shape)]
    if len(shape) == 4:
        layouts.append(torch.empty(shape).to(memory_format=torch.channels_last))
        layouts.append(torch.empty(shape[::-1]).permute(3, 2, 1, 0))
    for like in layouts:
        for dtype in (torch.float32, torch.float64):
            ours = drawn(like.to(dtype), seed, stream)
            np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=1e-6)
            assert ours.stride() == torch.empty_like(like).stride()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_images_get_float32_noise(dtype: torch.dtype) -> None:
    like = torch.empty(2, 3, 16, 16, dtype=dtype)
    expected = noise(like.shape, 3, 1)
    for layout in (torch.contiguous_format, torch.channels_last):
        error = (drawn(like.to(memory_format=layout), 3, 1).float() - expected).abs()
        assert (error <= torch.finfo(dtype).eps / 2 * expected.abs() + 1e-6).all()


def test_a_part_of_a_parallel_loop_starts_anywhere() -> None:
    """Threads divide an image at any element; 3 * 333 * 331 divides by neither 4 nor 1024 nor the threads."""
    shape = (1, 3, 333, 331)
    expected = noise(shape, 11, 2)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            torch.testing.assert_close(drawn(torch.empty(shape), 11, 2), expected, rtol=0, atol=1e-6)
    finally:
        torch.set_num_threads(threads)


def test_it_is_standard_normal() -> None:
    z = drawn(torch.empty(1, 1, 2000, 1000), 2024, 0).double().flatten()
    n = z.numel()
    assert abs(z.mean()) < 4 / math.sqrt(n)
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((z**3).mean()) < 4 * math.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 4 * math.sqrt(96 / n)
    ordered = z.sort().values
    cdf = 0.5 * (1 + torch.erf(ordered / math.sqrt(2)))
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    ks = max(float((steps[1:] - cdf).max()), float((cdf - steps[:-1]).max()))
    assert ks < 1.63 / math.sqrt(n)  # the 1 % point of Kolmogorov's distribution
    assert 4.5 < z.abs().max() <= math.sqrt(48 * math.log(2))


def test_neighbours_streams_and_seeds_are_uncorrelated() -> None:
    shape = (1, 1, 1000, 1000)
    z = drawn(torch.empty(shape), 5, 0).double().flatten()
    others = [z.roll(lag) for lag in (1, 2, 3, 4, 1000)]
    others += [drawn(torch.empty(shape), seed, stream).double().flatten() for seed, stream in ((5, 1), (6, 0))]
    for other in others:
        assert abs((z * other).mean()) < 4 / math.sqrt(z.numel())


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_of_more_than_64_bits_is_named(seed: int) -> None:
    with pytest.raises(ValueError, match="seeds and streams are 64-bit integers"):
        drawn(torch.empty(4), seed, 0)
    assert torch.equal(drawn(torch.empty(4), 2**64 - 1, 0), drawn(torch.empty(4), -1, 0))


def test_noise_or_a_seed_not_both() -> None:
    x = torch.zeros(4)
    numbers = dict(alpha_bar=0.5, beta_bar=0.5, k_t=1.0, k_res=0.0, k_noise=0.0, k_0=0.0, sigma=1.0)
    with pytest.raises(ValueError, match="noise and seed were both given"):
        reverse_step(x, x, objective="pred_res", noise=x, seed=1, **numbers)
    with pytest.raises(ValueError, match="there is no noise: pass a seed, or a standard normal draw"):
        reverse_step(x, x, objective="pred_res", **numbers)
