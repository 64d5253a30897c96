"""`rddm_fast::conv3x3`: a 3x3 convolution of channels-last images on the CPU, by a quarter of the multiplications."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends
from ..checks import check_convolution, check_no_gradient


def conv3x3_reference(
    x: Tensor, x_2: Tensor | None, weight: Tensor, packed: Tensor | None, bias: Tensor | None
) -> Tensor:
    """The op's definition in plain torch, with the schema's arguments: torch's convolution. Differentiable."""
    both = x if x_2 is None else torch.cat((x, x_2), dim=1)
    return F.conv2d(both, weight, bias, padding=1).contiguous(memory_format=torch.channels_last)


def _fake(x: Tensor, x_2: Tensor | None, weight: Tensor, packed: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    return x.new_empty(shape).contiguous(memory_format=torch.channels_last)


CONV3X3 = backends.define(
    "conv3x3",
    "(Tensor x, Tensor? x_2, Tensor weight, Tensor? packed, Tensor? bias) -> Tensor",
    reference=conv3x3_reference,
    fake=_fake,
    lacking=("cuda",),
)

backends.library.define("pack_conv3x3(Tensor weight, int tile, int instruction_set) -> Tensor")


def instruction_sets() -> list[str]:
    """Return the instruction sets of this machine that "cpp" is compiled for, the fastest last; none without it."""
    return list(backends.build_info["instruction_sets"]) if backends.build_info else []


def pack_conv3x3(weight: Tensor, *, tile: int = 4, instruction_set: str | None = None) -> Tensor:
    """Transform a weight for `conv3x3` on this machine: in float64, rounded once.

    Args:
        weight: (K, C, 3, 3), float32, on the CPU.
        tile: 4 for F(4x4, 3x3), which takes 1/4 of a direct convolution's multiplications and 4 times its weights'
            memory; 2 for F(2x2, 3x3), which takes 4/9 and 16/9: faster where reading the weights takes the time.
        instruction_set: one of `instruction_sets()`; None takes the fastest.

    Returns:
        packed: float32, of one axis. It serves machines whose vectors are as long as this one's.

    Raises:
        ValueError: a weight of another shape, another tile, an instruction set that is not here.
        TypeError: a weight of another dtype than float32.
        BackendUnavailable: the library is not compiled.
    """
    _check_weight(weight)
    if tile not in (2, 4):
        raise ValueError(f"tile is {tile}: choose 2 or 4")
    backends.check_compiled()
    sets = instruction_sets()
    if instruction_set is not None and instruction_set not in sets:
        raise ValueError(f"instruction_set is {instruction_set!r}: this machine has {', '.join(sets)}")
    chosen = -1 if instruction_set is None else sets.index(instruction_set)
    return torch.ops.rddm_fast.pack_conv3x3(weight.detach(), tile, chosen)


def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    x_2: Tensor | None = None,
    packed: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Convolve images with 3x3 weights, stride 1 and a border of one zero (Winograd's filtering; Lavin and Gray, 2016).

    Args:
        x: images (B, C, H, W), float32, in any layout; channels-last ones are not copied.
        weight: (K, C, 3, 3), float32.
        bias: (K,), float32.
        x_2: more channels of the images, (B, C_2, H, W): then weight has C + C_2, and nothing is concatenated.
        packed: `pack_conv3x3(weight)`; None packs at each call, which takes longer than most convolutions.
        impl: "reference", which is torch's convolution, or "cpp"; None takes the best one available on the device.

    Returns:
        y: (B, K, H, W), float32, channels-last. "cpp" sums products of transformed values: a result of order 1 is 1e-6
        (a tile of 2) to 1e-5 (a tile of 4, 512 channels) from the exact one, as those of a direct convolution. It has
        the same bits on one thread and on many.

    Raises:
        ValueError: shapes or devices that do not fit together.
        TypeError: another dtype than float32.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient. Only `impl="reference"` has one.
    """
    _check_weight(weight)
    check_convolution("conv3x3", x, weight, bias, x_2)
    run = CONV3X3(impl, x.device)
    if impl != "reference":
        check_no_gradient("conv3x3", x, weight, bias, x_2)
    return run(x, x_2, weight, packed, bias)


def _check_weight(weight: Tensor) -> None:
    if weight.dtype != torch.float32:
        raise TypeError(f"weight is {weight.dtype}: conv3x3 computes in float32")
    if weight.dim() != 4 or weight.shape[2:] != (3, 3) or weight.numel() == 0:
        raise ValueError(f"weight must be of shape (K, C, 3, 3), not {tuple(weight.shape)}")
