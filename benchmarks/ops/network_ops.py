"""The networks' own ops against the published modules' arithmetic in plain torch, and torch.compile of that.

    rddm-fast bench network_ops [--quick] [--json FILE] [--csv FILE] [--plot STEM]

group_norm_silu (three images moved: read for the statistics, read again, written; four with the residual),
channel_norm (two), linear_attention of 4 heads of 32 features (four: queries, keys and values read, a result
written) and attention_layer, which is linear attention with its norms, projections and residual (three: read for the
context, read again, written), on the shapes of the published U-Net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rddm_fast.ops import (
    attention_layer,
    backends,
    channel_norm,
    group_norm_silu,
    linear_attention,
    pack_attention_layer,
)
from rddm_fast.ops.networks.attention_layer import ATTENTION_LAYER, DTYPES_OF
from rddm_fast.ops.networks.channel_norm import CHANNEL_NORM
from rddm_fast.ops.networks.group_norm_silu import GROUP_NORM_SILU
from rddm_fast.ops.networks.linear_attention import LINEAR_ATTENTION

from ..harness import Case, Op, Work, our_backends
from ..report import main as run

GROUPS, HEADS, FEATURES = 8, 4, 32
EPS = 1e-5


def cases(quick: bool, device: torch.device) -> Iterator[Case]:
    """The stages of a U-Net of width 64, for an image of 256 x 256 and for 16 of them."""
    stages = [(1, 64, 256, 256), (1, 128, 128, 128), (1, 256, 64, 64), (1, 512, 32, 32)]
    for shape in stages[:1] if quick else [*stages, (16, 64, 256, 256)]:
        for dtype in ("bfloat16", "float32"):
            yield Case(shape, dtype, "channels_last")


def attention_cases(quick: bool, device: torch.device) -> Iterator[Case]:
    """The heads' features at the same stages; the queries, keys and values are three such images."""
    for case in cases(quick, device):
        yield Case((case.shape[0], HEADS * FEATURES, *case.shape[2:]), case.dtype, case.layout)


def group_norm_eager(x: Tensor, x_bias: Tensor, weight: Tensor, bias: Tensor, row: Tensor, residual: Tensor) -> Tensor:
    """The convolution's bias, group norm, the time's scale and shift, SiLU and the residual, in x's dtype."""
    x = x + x_bias.to(x.dtype).view(1, -1, 1, 1)
    y = F.group_norm(x, GROUPS, weight.to(x.dtype), bias.to(x.dtype), EPS)
    scale, shift = row.to(x.dtype)[..., None, None].chunk(2, dim=1)
    return F.silu(y * (scale + 1) + shift) + residual


def channel_norm_eager(x: Tensor, g: Tensor) -> Tensor:
    """The published layer norm over the channels."""
    mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    return (x - mean) * (variance + EPS).rsqrt() * g.to(x.dtype).view(1, -1, 1, 1)


def linear_attention_eager(qkv: Tensor) -> Tensor:
    """The published module's arithmetic between its two projections."""
    b, _, h, w = qkv.shape
    q, k, v = (part.reshape(b, HEADS, FEATURES, h * w) for part in qkv.chunk(3, dim=1))
    q = q.softmax(dim=-2) * FEATURES**-0.5
    context = torch.einsum("bhdn,bhen->bhde", k.softmax(dim=-1), v / (h * w))
    return torch.einsum("bhde,bhdn->bhen", context, q).reshape(b, -1, h, w)


def layer_eager(x: Tensor, norm_g: Tensor, to_qkv: Tensor, to_out: Tensor, bias: Tensor, g: Tensor) -> Tensor:
    """The published module's arithmetic with its norms and residual, in x's dtype."""
    qkv = F.conv2d(channel_norm_eager(x, norm_g), to_qkv.to(x.dtype)[:, :, None, None])
    y = F.conv2d(linear_attention_eager(qkv), to_out.to(x.dtype)[:, :, None, None], bias.to(x.dtype))
    return channel_norm_eager(y, g) + x


layer_compiled = torch.compile(layer_eager, dynamic=False)
group_norm_compiled = torch.compile(group_norm_eager, dynamic=False)
channel_norm_compiled = torch.compile(channel_norm_eager, dynamic=False)
linear_attention_compiled = torch.compile(linear_attention_eager, dynamic=False)


def _ours(
    ours: Callable[[str], Tensor], op: backends.Op, device: torch.device
) -> dict[str, Callable[[], Sequence[Tensor]]]:
    return {name: (lambda name=name: [ours(name)]) for name in our_backends(device, op)}  # type: ignore[misc]


def group_norm_work(case: Case, device: torch.device, seed: int) -> Work:
    generator = torch.Generator(device).manual_seed(seed)
    x, residual = (case.image(generator, device) for _ in range(2))
    channels = case.shape[1]
    x_bias, weight, bias = (torch.randn(channels, generator=generator, device=device) for _ in range(3))
    row = torch.randn(1, 2 * channels, generator=generator, device=device)
    inputs = (x, x_bias, weight, bias, row, residual)

    def ours(impl: str) -> Tensor:
        given = {"eps": EPS, "x_bias": x_bias, "scale_shift": row, "residual": residual}
        return group_norm_silu(x, weight, bias, GROUPS, **given, impl=impl)  # type: ignore[arg-type]

    calls = _ours(ours, GROUP_NORM_SILU, device)
    calls["eager"] = lambda: [group_norm_eager(*inputs)]
    calls["compile"] = lambda: [group_norm_compiled(*inputs)]
    return Work(calls, lambda: [group_norm_eager(*(t.double() for t in inputs))])  # type: ignore[arg-type]


def channel_norm_work(case: Case, device: torch.device, seed: int) -> Work:
    generator = torch.Generator(device).manual_seed(seed)
    x, g = case.image(generator, device), torch.randn(case.shape[1], generator=generator, device=device)
    calls = _ours(lambda impl: channel_norm(x, g, EPS, impl=impl), CHANNEL_NORM, device)
    calls["layer norm"] = lambda: [channel_norm(x, g, EPS, impl="torch")]
    calls["eager"] = lambda: [channel_norm_eager(x, g)]
    calls["compile"] = lambda: [channel_norm_compiled(x, g)]
    return Work(calls, lambda: [channel_norm_eager(x.double(), g.double())])


def linear_attention_work(case: Case, device: torch.device, seed: int) -> Work:
    generator = torch.Generator(device).manual_seed(seed)
    wide = Case((case.shape[0], 3 * case.shape[1], *case.shape[2:]), case.dtype, case.layout)
    qkv = wide.image(generator, device)
    calls = _ours(lambda impl: linear_attention(qkv, HEADS, impl=impl), LINEAR_ATTENTION, device)
    calls["eager"] = lambda: [linear_attention_eager(qkv)]
    calls["compile"] = lambda: [linear_attention_compiled(qkv)]
    return Work(calls, lambda: [linear_attention_eager(qkv.double())])


def layer_work(case: Case, device: torch.device, seed: int) -> Work:
    generator = torch.Generator(device).manual_seed(seed)
    x, channels, inner = case.image(generator, device), case.shape[1], HEADS * FEATURES
    shapes = ((channels,), (3 * inner, channels), (channels, inner), (channels,), (channels,))
    norm_g, to_qkv, to_out, *rows = (torch.randn(s, generator=generator, device=device) / channels**0.5 for s in shapes)
    weights = (norm_g, to_qkv, to_out, rows[0], rows[1])

    def prepared(impl: str) -> Callable[[], Sequence[Tensor]]:
        dtype = x.dtype if impl == "triton" else None
        packed = pack_attention_layer(norm_g, to_qkv, to_out, HEADS, dtype=dtype)
        return lambda: [attention_layer(x, *weights, HEADS, eps=EPS, packed=packed, impl=impl)]

    served = [name for name in our_backends(device, ATTENTION_LAYER) if x.dtype in DTYPES_OF.get(name, ())]
    calls = {name: prepared(name) for name in served}
    calls["eager"] = lambda: [layer_eager(x, *weights)]
    calls["compile"] = lambda: [layer_compiled(x, *weights)]
    return Work(calls, lambda: [layer_eager(x.double(), *(w.double() for w in weights))])


OPS = [
    Op("group_norm_silu", images_moved=4, images_kept=3, work=group_norm_work, cases=cases),
    Op("channel_norm", images_moved=2, images_kept=2, work=channel_norm_work, cases=cases),
    Op("linear_attention", images_moved=4, images_kept=4, work=linear_attention_work, cases=attention_cases),
    Op("attention_layer", images_moved=3, images_kept=2, work=layer_work, cases=cases),
]


def main(argv: Sequence[str] | None = None) -> None:
    """These ops' benchmarks, with the options of `report.main`."""
    run(OPS, __doc__, argv)
