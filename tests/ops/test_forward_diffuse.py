"""forward_diffuse: the paper's equation 7, sample by sample, on the backends that a machine without a GPU has."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cases import SLOW
from cases.forward_diffuse import TABLES, arguments, case, few
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ALL_DTYPES, LAYOUTS, check
from torch._subclasses.fake_tensor import FakeTensorMode

from rddm_fast.ops import BackendUnavailable, forward_diffuse, noise

SHAPES = [(2, 3, 5, 7), (3, 3, 40, 40), (4, 1, 1, 1), (7,), (2, 0, 4, 4), (0, 3, 2, 2)]


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_equation_7(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for restoring, layout in itertools.product((True, False), LAYOUTS.values()):
        c = arguments(shape, dtype)
        c = {name: layout(x) if name in ("I_0", "noise") else x for name, x in c.items()}
        check(case({**c, "I_in": c["I_in"] if restoring else None}), None)


@pytest.mark.parametrize("backend", SLOW)
def test_the_cpu_passes_the_slow_backends_grids(backend: str) -> None:
    for one in few(backend):
        check(one, None, relative=1e-6 * one.sums)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 9), min_size=1, max_size=5).map(tuple),
    dtype=st.deferred(lambda: st.sampled_from(ALL_DTYPES)),
    layouts=st.lists(st.sampled_from(list(LAYOUTS)), min_size=3, max_size=3),
    seed=st.integers(0, 2**32),
)
def test_any_shape_and_mixture_of_layouts(
    shape: tuple[int, ...], dtype: torch.dtype, layouts: list[str], seed: int
) -> None:
    c = arguments(shape, dtype, seed)
    for name, layout in zip(("I_0", "I_in", "noise"), layouts, strict=True):
        c[name] = LAYOUTS[layout](c[name])
    check(case(c), None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_drawn_noise_is_the_seed_s(layout: str) -> None:
    c = arguments((3, 3, 33, 20), torch.float32)
    c["I_0"] = LAYOUTS[layout](c["I_0"])
    given = {name: x for name, x in c.items() if name != "noise"}
    drawn = forward_diffuse(**given, seed=2**64 - 3, stream=17)
    expected = forward_diffuse(**{**given, "noise": noise((3, 3, 33, 20), 2**64 - 3, 17)})
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-6)
    assert not torch.equal(drawn, forward_diffuse(**given, seed=2**64 - 3, stream=18))


def test_nan_and_infinity_stay_where_they_are() -> None:
    c = arguments((2, 3, 8, 8), torch.float32)
    c["I_0"][0, 0, 0, 0], c["I_in"][1, 2, 7, 7], c["noise"][1, 0, 3, 3] = math.nan, math.inf, -math.inf
    ours = forward_diffuse(**c)
    assert (~ours.isfinite()).sum() == 3
    assert torch.allclose(ours, forward_diffuse(**c, impl="reference"), equal_nan=True)


def test_opcheck_and_one_graph() -> None:
    c = arguments((2, 3, 4, 5), torch.float32)
    op = torch.ops.rddm_fast.forward_diffuse.default
    for layout in ("contiguous", "channels_last", "sliced"):
        I_0 = LAYOUTS[layout](c["I_0"])
        torch.library.opcheck(op, (I_0, c["I_in"], c["t"], *TABLES, c["noise"], None, 0))
        torch.library.opcheck(op, (I_0, None, c["t"], *TABLES, None, 5, 1))
        with FakeTensorMode() as mode:
            fake = op(*(mode.from_tensor(x) for x in (I_0, c["I_in"], c["t"], *TABLES)), None, 5, 1)
        assert fake.stride() == op(I_0, c["I_in"], c["t"], *TABLES, None, 5, 1).stride()

    compiled = torch.compile(lambda c: forward_diffuse(**c) * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(c), forward_diffuse(**c) * 2)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"I_0": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "convert it to float32, bfloat16 or float16"),
        ({"I_0": torch.zeros(())}, ValueError, "I_0 has no batch dimension"),
        ({"I_in": torch.zeros(2, 3, 4, 4)}, ValueError, r"I_in has shape \(2, 3, 4, 4\) and I_0 has"),
        ({"I_in": torch.zeros(2, 3, 4, 5).half()}, TypeError, "I_in is torch.float16 and I_0 is torch.float32"),
        ({"t": torch.zeros(3, dtype=torch.int64)}, ValueError, "t must be 2 int64 indices, one per sample"),
        ({"t": torch.zeros(2)}, ValueError, "t must be 2 int64 indices"),
        ({"beta_bar": torch.zeros(3)}, ValueError, "must be tables"),
        ({"alpha_bar": TABLES[0].double()}, TypeError, "convert them to float32"),
        ({"noise": None}, ValueError, "pass either noise, .* or a seed"),
        ({"seed": 1}, ValueError, "pass either noise, .* or a seed"),
        ({"noise": torch.zeros(2, 3, 4, 5, device="meta")}, ValueError, "noise is on meta and I_0 on cpu"),
        ({"I_0": torch.zeros(2, 3, 4, 5, requires_grad=True)}, RuntimeError, "forward_diffuse has no gradient"),
        ({"impl": "cuda"}, BackendUnavailable, "cuda: "),
        ({"t": torch.tensor([0, 1000])}, RuntimeError, r"t\[1\] is 1000, and the tables have 1000 entries"),
        ({"t": torch.tensor([-1, 0])}, RuntimeError, r"t\[0\] is -1"),
    ],
)
def test_mistakes_are_named(change: dict, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        forward_diffuse(**{**arguments((2, 3, 4, 5), torch.float32), **change})


def test_the_reference_is_differentiable() -> None:
    c = arguments((2, 3, 4, 5), torch.float64)
    c["I_0"].requires_grad_()
    forward_diffuse(**c, impl="reference").sum().backward()
    expected = (1 - TABLES[0][c["t"]].double())[:, None, None, None].expand(2, 3, 4, 5)
    torch.testing.assert_close(c["I_0"].grad, expected)
