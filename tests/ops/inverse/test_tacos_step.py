"""tacos_step: Algorithm 2 written out in float64, on the backends that a machine without a GPU has."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from cases import SLOW
from cases.inverse.tacos_step import FORMS, arguments, case, few
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ALL_DTYPES, F32, F64, LAYOUTS, check
from torch._subclasses.fake_tensor import FakeTensorMode

from rddm_fast.ops import BackendUnavailable, tacos_step

SHAPES = [(2, 3, 5, 7), (1, 3, 40, 40), (3, 1, 1, 1), (1, 4, 33, 32), (2, 2, 1, 6), (2, 0, 4, 4), (0, 3, 2, 2)]
SNOW_SUMS = 2e-6
"""Per unit: snow doubles the difference of two values in [0, 1], in which grey and brightness were rounded."""


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_it_is_algorithm_2(form: str, dtype: torch.dtype) -> None:
    layouts = itertools.cycle(itertools.product(LAYOUTS, ("contiguous", "channels_last")))
    for shape, layers in itertools.product(SHAPES, ("each", "one")):
        if shape[1] or FORMS[form]["kind"] == "mix":  # the mean of no channels is no number
            call = arguments(shape, dtype, form, *next(layouts), layers)
            check(case(call, f"{shape} {layers}"), None, relative=SNOW_SUMS * (FORMS[form]["kind"] == "snow"))


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_channels_last_images(form: str, dtype: torch.dtype) -> None:
    """Tiles that are whole and not, with the kernel's own loop for three channels, and more channels than it takes."""
    others = itertools.cycle(("channels_last", "contiguous", "sliced channels_last", "unaligned"))
    for shape in ((2, 3, 31, 33), (1, 5, 37, 29), (2, 64, 5, 7), (1, 65, 4, 3)):
        call = arguments(shape, dtype, form, "channels_last", next(others), "one")
        check(case(call, str(shape)), None, relative=SNOW_SUMS * (FORMS[form]["kind"] == "snow"))
        assert tacos_step(**call, impl="cpp").stride() == call["x_s"].stride()


@pytest.mark.parametrize("backend", SLOW)
def test_the_cpu_passes_the_slow_backends_grids(backend: str) -> None:
    for one in few(backend):
        check(one, None, relative=SNOW_SUMS)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(0, 70), st.integers(0, 70)),
    dtype=st.deferred(lambda: st.sampled_from(ALL_DTYPES)),
    form=st.sampled_from(list(FORMS)),
    layouts=st.tuples(st.sampled_from(list(LAYOUTS)), st.sampled_from(list(LAYOUTS))),
    layers=st.sampled_from(("each", "one")),
    seed=st.integers(0, 2**32),
)
def test_any_shape_and_mixture_of_layouts(
    shape: tuple[int, ...], dtype: torch.dtype, form: str, layouts: tuple[str, str], layers: str, seed: int
) -> None:
    check(case(arguments(shape, dtype, form, *layouts, layers, seed)), None, relative=SNOW_SUMS)


@pytest.mark.parametrize("impl", ["cpp", "reference"])
@pytest.mark.parametrize("form", [form for form in FORMS if FORMS[form]["kind"] == "snow"])
def test_a_step_there_and_back_is_the_image(form: str, impl: str) -> None:
    """Though snow clips: what is subtracted in one step is added in the other."""
    call = arguments((2, 3, 9, 8), F32, form)
    start = call.pop("x_s")
    there = tacos_step(start, **call, impl=impl)
    swapped = {**call, "numbers": call["numbers"][::-1]}
    swapped |= {"layer_s": call.get("layer_to"), "layer_to": call.get("layer_s")}
    assert not torch.equal(there, start)
    torch.testing.assert_close(tacos_step(there, **swapped, impl=impl), start, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["mix", "grey", "snow"])
def test_nan_and_infinity_come_out_where_the_reference_has_them(kind: str) -> None:
    forms = [form for form in FORMS if FORMS[form]["kind"] == kind]
    for form, bad, name in itertools.product(forms, (math.nan, math.inf, -math.inf), ("x_s", "x_0")):
        call = arguments((2, 3, 6, 6), F32, form)
        call[name][1, 2, 3, 4] = bad
        ours, plain = (tacos_step(**call, impl=impl) for impl in ("cpp", "reference"))
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-6, equal_nan=True)
        assert ours[0].isfinite().all() and (name == "x_0" or not ours[1, 2, 3, 4].isfinite())


def test_opcheck_and_one_graph() -> None:
    op = torch.ops.rddm_fast.tacos_step.default
    forms = ("fade to a colour", "decolour", "the last snow")
    for form, layout in zip(forms, ("channels_last", "sliced", "transposed"), strict=True):
        call = arguments((2, 3, 4, 5), F32, form, layout)
        kind = ("mix", "grey", "snow").index(call["kind"])
        optional = [call.get(name) for name in ("x_end", "layer_s", "layer_to")]
        tensors = [call["x_s"], call["x_0"], *optional]
        torch.library.opcheck(op, (*tensors, kind, list(call["numbers"])))
        with FakeTensorMode() as mode:
            fake = op(*(t if t is None else mode.from_tensor(t) for t in tensors), kind, list(call["numbers"]))
        assert fake.stride() == op(*tensors, kind, list(call["numbers"])).stride()
    call = arguments((2, 3, 4, 5), F32, "far end by rows")
    compiled = torch.compile(lambda c: tacos_step(**c) * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(call), tacos_step(**call) * 2)


X, LAYER = torch.zeros(2, 3, 4, 5), torch.zeros(1, 1, 4, 5)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"kind": "fog"}, ValueError, "unknown kind 'fog': choose one of mix, grey, snow"),
        ({"x_s": X.long()}, TypeError, "convert it to float32, bfloat16 or float16"),
        ({"x_s": X[0]}, ValueError, r"x_s has shape \(3, 4, 5\): pass images \(B, C, H, W\)"),
        ({"x_0": X[:1]}, ValueError, r"x_0 has shape \(1, 3, 4, 5\) and x_s has \(2, 3, 4, 5\)"),
        ({"x_0": X.half()}, TypeError, "x_0 is torch.float16 and x_s is torch.float32"),
        ({"x_end": X, "kind": "grey"}, ValueError, "x_end is the far end of 'mix': leave it out of 'grey'"),
        ({"x_end": X[:, :2]}, ValueError, r"x_end has shape \(2, 2, 4, 5\): it must broadcast to x_s"),
        ({"x_end": X.half()}, TypeError, "x_end is torch.float16 and x_s is torch.float32: convert x_end"),
        ({"x_end": X.to("meta")}, ValueError, "x_end is on meta and x_s on cpu"),
        ({"layer_s": LAYER}, ValueError, "only one of layer_s and layer_to was given: 'mix' takes both or none"),
        ({"layer_s": X, "layer_to": LAYER}, ValueError, r"layer_s has shape .*: pass \(2 or 1, 1, 4, 5\)"),
        ({"layer_s": LAYER.double(), "layer_to": LAYER}, TypeError, "layer_s is torch.float64 beside images of"),
        ({"x_0": X.clone().requires_grad_()}, RuntimeError, "tacos_step has no gradient"),
        ({"impl": "cuda"}, BackendUnavailable, "cuda: "),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        tacos_step(**{"x_s": X, "x_0": X, "kind": "mix", "numbers": (0.1, 0.2), **change})


def test_the_op_itself_refuses_what_it_cannot_read() -> None:
    op = torch.ops.rddm_fast.tacos_step.default
    good: dict[str, Any] = dict(x_s=X, x_0=X, x_end=X, layer_s=LAYER, layer_to=LAYER, kind=0, numbers=[0.1, 0.2])
    op(**good)
    for change, sentence in (
        (dict(x_0=X.half()), "x_0 has the wrong dtype"),
        (dict(x_end=X[:, :, :1]), r"x_end must be \(B or 1, C or 1\) planes or numbers"),
        (dict(kind=1), "only kind 0 has an x_end"),
        (dict(kind=3), "kind 3 is not one of 0 to 2"),
        (dict(layer_s=None), "pass both layers or none"),
        (dict(layer_s=LAYER.double()), "layer_s must be"),
        (dict(numbers=[0.1]), "a step has 2 numbers, not 1"),
    ):
        with pytest.raises(RuntimeError, match=sentence):
            op(**{**good, **change})


def test_the_reference_is_differentiable() -> None:
    call = arguments((2, 3, 4, 5), F64, "decolour")
    call["x_0"].requires_grad_()
    tacos_step(**call, impl="reference").sum().backward()
    # Each channel's mean gives back what the channel itself loses.
    torch.testing.assert_close(call["x_0"].grad, torch.zeros_like(X, dtype=F64), rtol=0, atol=1e-12)
