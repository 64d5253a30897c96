"""What the tests of all ops and backends share: dtypes, layouts, and the one judgement of a result.

Tolerances have no constants of their own: a backend may lose twice what plain torch loses against float64 in the same
dtype, and one rounding of that dtype at the result's magnitude. Whatever a test allows beyond that, it derives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

F32, BF16, F16, F64 = torch.float32, torch.bfloat16, torch.float16, torch.float64
DTYPES = [F32, BF16, F16]
PAIRS = [(F32, F32), (F32, BF16), (F32, F16), (BF16, BF16), (F16, F16)]
"""The dtypes of the images and of the networks' outputs. Every backend has these."""
ALL_DTYPES = [*DTYPES, F64]
ALL_PAIRS = [*PAIRS, (F64, F64)]
"""The same with float64, which the CPU alone has."""


def pair_name(pair: Sequence[torch.dtype]) -> str:
    return "-".join(str(dtype).removeprefix("torch.") for dtype in pair)


def strided(x: Tensor, *, gap: bool = False, order: Iterable[int] | None = None, offset: int = 0) -> Tensor:
    """A copy of `x` whose dimensions lie in memory in `order`, with unused elements between and before."""
    order = list(order or range(x.dim()))
    shape = [x.shape[d] + (3 if gap and d == order[-1] else 0) for d in order]
    flat = x.new_zeros(math.prod(shape) + offset)[offset:].view(shape)
    view = flat.permute([order.index(d) for d in range(x.dim())])
    for d in range(x.dim()):
        view = view.narrow(d, 0, x.shape[d])
    return view.copy_(x)


def _pixels_first(x: Tensor) -> list[int]:
    return [0, 2, 3, 1] if x.dim() == 4 else list(range(x.dim()))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: strided(x),
    "channels_last": lambda x: strided(x, order=_pixels_first(x)),
    "transposed": lambda x: strided(x, order=(3, 1, 0, 2) if x.dim() == 4 else reversed(range(x.dim()))),
    "sliced": lambda x: strided(x, gap=True),
    "sliced channels_last": lambda x: strided(x, gap=True, order=_pixels_first(x)),
    "unaligned": lambda x: strided(x, offset=1),
}
"""Ways to lie in memory. Those of images are as they are for tensors of other than four dimensions."""


def assert_as_exact_as_torch(
    ours: Tensor,
    plain: Tensor,
    exact: Tensor,
    *,
    roundings: int = 1,
    relative: float = 0.0,
    absolute: float = 0.0,
    subnormal: bool = False,
) -> None:
    """Assert that `ours` loses at most twice what plain torch loses, and NaN and infinity are where plain torch's are.

    Args:
        ours, plain: an op's result, and plain torch's in the same dtype.
        exact: the same in float64.
        roundings: how often the result may be rounded to its dtype beyond that.
        relative: what else may be lost, per unit of the largest exact value.
        absolute: what else may be lost.
        subnormal: also allow the smallest subnormal of the dtype; float16 holds small values in few bits.
    """
    assert ours.shape == plain.shape == exact.shape
    info, ours, plain = torch.finfo(ours.dtype), ours.double(), plain.double()
    finite = plain.isfinite() & exact.isfinite()
    assert torch.equal(ours[~finite].nan_to_num(7.0), plain[~finite].nan_to_num(7.0))
    if not finite.any():
        return
    ours, plain, exact = ours[finite], plain[finite], exact[finite]
    allowed = 2 * (plain - exact).abs().max() + (roundings * info.eps + relative) * exact.abs().max() + absolute
    assert (ours - exact).abs().max() <= allowed + subnormal * info.tiny * info.eps


@dataclass(frozen=True)
class Case:
    """One call of an op.

    Attributes:
        name: what is called with what.
        run: the call by a backend; its results.
        exact: its results in float64.
        like: a tensor like which `torch.empty_like` lays out the results, if there is one.
        sums: whether float32 rounds on the way: sums in another order, or sine and logarithm of drawn noise.
        cancellation: what float32 may lose where a group has one value, so that nothing else is left of it.
    """

    name: str
    run: Callable[[str | None], Sequence[Tensor]]
    exact: Callable[[], Sequence[Tensor]]
    like: Tensor | None = None
    sums: bool = False
    cancellation: float = 0.0


def check(case: Case, impl: str | None, **allowed: float) -> int:
    """Judge dtype, strides and values of every result of a case; return how many results there are."""
    results = list(zip(case.run(impl), case.run("reference"), case.exact(), strict=True))
    for ours, plain, exact in results:
        assert ours.dtype == plain.dtype and ours.stride() == plain.stride(), case.name
        assert case.like is None or ours.stride() == torch.empty_like(case.like).stride(), case.name
        assert_as_exact_as_torch(ours, plain, exact, **allowed)
    return len(results)
