"""The loops on two-byte images for AVX2, which a machine with AVX-512 never runs: they give what the ops give."""

import ctypes
import math
import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rddm_fast.ops import range_null_step, reverse_step, spectral_step_, tacos_step
from rddm_fast.ops.inverse.range_null_step import step_numbers
from rddm_fast.theory.objective import Objective, targets

HERE = Path(__file__).parent
CSRC = HERE.parents[2] / "csrc"
FILES = [
    "reverse_step/narrow_steps.cpp",
    "range_null_step/narrow_joined.cpp",
    "tacos_step/tacos_planes.cpp",
    "spectral_step/narrow_spectral.cpp",
    "joint_loss/narrow_losses.cpp",
    "group_norm_silu/narrow_activation.cpp",
]
FLAGS = ["-std=c++20", "-O2", "-fPIC", "-shared", "-mavx2", "-mfma", "-mf16c", "-ffp-contract=fast"]
SET = ["-DRDDM_SET=Avx2", '-DRDDM_SET_NAME="avx2"']
DTYPES = [torch.bfloat16, torch.float16]
SHAPE = (1, 3, 7, 11)  # 77 pixels: 9 vectors of 8 and a rest


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("AVX2 is an instruction set of x86-64")
    built = tmp_path_factory.mktemp("avx2") / "narrow.so"
    sources = [str(HERE / "narrow_avx2.cpp"), *(str(CSRC / name) for name in FILES)]
    command = [os.environ.get("CXX", "c++"), *FLAGS, *SET, "-I", str(CSRC), *sources, "-o", str(built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = ctypes.CDLL(str(built))
    loaded.supported.restype = ctypes.c_bool
    if not loaded.supported():
        pytest.skip("this processor has no AVX2")
    return loaded


def images(count: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator).to(dtype) for _ in range(count)]


def pointers(tensors: list[Tensor | None]) -> ctypes.Array:
    return (ctypes.c_void_p * len(tensors))(*(None if x is None else x.data_ptr() for x in tensors))


def check(found: Tensor, expected: Tensor) -> None:
    """Equal but for sums whose products are rounded in another order: one unit in the last place, seldom."""
    apart = (found.float() - expected.float()).abs()
    assert (apart <= 2 * torch.finfo(found.dtype).eps * expected.float().abs().clamp(min=1e-2)).all()
    assert (apart > 0).float().mean() < 0.05 and found.float().std() > 0.1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("objective", Objective)
def test_reverse_step(library: ctypes.CDLL, objective: Objective, sigma: float, dtype: torch.dtype) -> None:
    I_t, out0, out1, I_in, noise = images(5, dtype)
    second = out1 if objective.outputs == 2 else None
    known = {"alpha_bar": 0.6, "beta_bar": 0.3}
    step = {"k_t": 1.0, "k_res": -0.1, "k_noise": -0.2, "k_0": 0.0, "sigma": sigma}
    given = {"objective": objective, "I_in": I_in, "noise": noise if sigma else None}
    expected = reverse_step(I_t, out0, second, **given, **known, **step)
    numbers = [0.6, -0.4, 0.3, 1 / 0.3, 1 / 0.4, 1.0, -0.1, -0.2, 0.0, 0.0, sigma, 0.0, 1.0, 1.0]
    found = torch.empty_like(I_t)
    library.reverse_step(
        *(int(objective), 2 if sigma else 1, ctypes.c_bool(dtype == torch.bfloat16)),
        (ctypes.c_float * 14)(*numbers),
        pointers([I_t, out0, second, I_in, noise if sigma else None]),
        *(ctypes.c_void_p(found.data_ptr()), ctypes.c_int64(found.numel())),
    )
    check(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masked", [False, True])
def test_range_null_step(library: ctypes.CDLL, masked: bool, dtype: torch.dtype) -> None:
    x_t, epsilon, noise, pinv_y = images(4, dtype)
    mask = torch.rand(SHAPE[2:], generator=torch.Generator().manual_seed(1)) < 0.5 if masked else None
    step = {"root_a_t": 0.5, "sigma_t": 0.87, "n_0": 0.51, "n_e": 0.3, "n_z": 0.7, "r_0": 0.1, "r_e": 0.2, "r_z": 0.6}
    weights, pixels = (0.3, 0.4, 0.3), SHAPE[2] * SHAPE[3]
    given = {"weights": weights, "mask": mask, "noise": noise, **step, "k_y": 0.51}
    expected = range_null_step(x_t, epsilon, pinv_y, **given)
    found = torch.empty_like(x_t)
    library.range_null_step(
        ctypes.c_bool(dtype == torch.bfloat16),
        (ctypes.c_double * 7)(*step_numbers(**step, k_y=0.51)),
        *((ctypes.c_float * 3)(*weights), ctypes.c_float(1 / 0.34)),
        pointers([x_t, epsilon, noise, pinv_y]),
        ctypes.c_void_p(None if mask is None else mask.data_ptr()),
        *(ctypes.c_void_p(found.data_ptr()), ctypes.c_int64(pixels)),
    )
    check(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES])
@pytest.mark.parametrize("kind", ["mix", "grey", "snow"])
def test_tacos_step(library: ctypes.CDLL, kind: str, dtype: torch.dtype) -> None:
    x_s, x_0 = images(2, dtype)
    before, after = (torch.rand(1, 1, *SHAPE[2:], generator=torch.Generator().manual_seed(i)) / 2 for i in (2, 3))
    numbers = {"mix": (-1.0, 1.0), "grey": (0.4, -0.4), "snow": (0.55, 0.6)}[kind]
    layers = {} if kind == "grey" else {"layer_s": before, "layer_to": after}
    expected = tacos_step(x_s, x_0, kind=kind, numbers=numbers, **layers)
    found = torch.empty_like(x_s)
    stored = [torch.float32, torch.bfloat16, torch.float16].index(dtype)
    at = [ctypes.c_void_p(None if kind == "grey" else x.data_ptr()) for x in (before, after)]
    library.tacos_step(
        *(["mix", "grey", "snow"].index(kind), stored, ctypes.c_float(numbers[0]), ctypes.c_float(numbers[1])),
        *(ctypes.c_void_p(x_s.data_ptr()), ctypes.c_void_p(x_0.data_ptr()), *at),
        *(ctypes.c_void_p(found.data_ptr()), ctypes.c_int64(SHAPE[2] * SHAPE[3])),
    )
    check(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_spectral_step(library: ctypes.CDLL, dtype: torch.dtype) -> None:
    """Coordinates of which y says nothing, eta 0.6: x_s = sqrt(a_s) x_0 + 0.8 sigma_s epsilon + 0.6 sigma_s z."""
    x, epsilon, y_bar, noise = (image.flatten(1) for image in images(4, dtype))
    a_t, a_s, n = 0.6, 0.64, x.shape[1]
    s = torch.zeros(1, n)
    expected = spectral_step_(
        x.clone(), epsilon, y_bar, s, noise=noise, a_t=a_t, a_s=a_s, sigma_y=0.4, eta=0.6, eta_b=0.9
    )
    terms = [torch.full((n,), k) for k in (a_s**0.5, 0.8 * 0.6, 0.0, 0.6 * 0.6)]
    found = torch.empty_like(x)
    library.spectral_step(
        *(ctypes.c_bool(dtype == torch.bfloat16), ctypes.c_float((1 - a_t) ** 0.5), ctypes.c_float(a_t**-0.5)),
        *(pointers([x, epsilon, y_bar, noise]), pointers(terms)),
        *(ctypes.c_void_p(found.data_ptr()), ctypes.c_int64(n)),
    )
    check(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("objective", Objective)
def test_joint_loss(library: ctypes.CDLL, objective: Objective, squared: bool, dtype: torch.dtype) -> None:
    I_0, I_in, noise, *outs = images(5, dtype)
    wanted = targets(objective, I_0.float(), I_in.float() - I_0.float(), noise.float())
    apart = [out.float() - target for out, target in zip(outs, wanted, strict=False)]
    scales, sums = (0.25, 0.75), (ctypes.c_double * 2)()
    found = [torch.empty_like(I_0) for _ in outs]
    library.joint_loss(
        *(int(objective), ctypes.c_bool(squared), ctypes.c_bool(dtype == torch.bfloat16)),
        *((ctypes.c_float * 2)(*scales), pointers([I_0, I_in, noise, outs[0], outs[1] if len(apart) > 1 else None])),
        *(pointers(list(found)), sums, ctypes.c_int64(I_0.numel())),
    )
    for d, scale, derivative, total in zip(apart, scales, found, sums, strict=False):
        check(derivative, (scale * (2 * d if squared else d.sign())).to(dtype))
        assert total == pytest.approx(float((d * d if squared else d.abs()).double().sum()), rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("residual", [False, True])
def test_activation_of_group_norm_silu(library: ctypes.CDLL, residual: bool, dtype: torch.dtype) -> None:
    x, rest, factors, terms = images(4, dtype)
    x[0, 0, 0, :4] = torch.tensor([100.0, -100.0, math.inf, math.nan])  # exp(-x) is 0, infinite, 0 and NaN
    factors, terms = factors.float(), terms.float()
    factors[0, 0, 0, :4] = 1
    expected = F.silu(factors * x.float() + terms) + (rest.float() if residual else 0)
    y = torch.empty_like(x)
    at = [None if image is None else ctypes.c_void_p(image.data_ptr()) for image in (rest if residual else None, y)]
    library.group_norm_silu(
        ctypes.c_bool(dtype == torch.bfloat16),
        *(ctypes.c_void_p(image.data_ptr()) for image in (x, factors, terms)),
        *(*at, ctypes.c_int64(x.numel())),
    )
    torch.testing.assert_close(y, expected.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-6, equal_nan=True)
