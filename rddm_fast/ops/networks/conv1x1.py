"""`rddm_fast::conv1x1`: a 1x1 convolution of channels-last images on the CPU, whose channels may lie in two images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..checks import check_convolution, check_no_gradient
from .conv3x3 import fake_convolution


@without_autocast
def conv1x1_reference(
    x: Tensor, x_2: Tensor | None, weight: Tensor, packed: Tensor | None, bias: Tensor | None
) -> Tensor:
    """The op's definition in plain torch, with the schema's arguments: torch's convolution. Differentiable."""
    both = x if x_2 is None else torch.cat((x, x_2), dim=1)
    return F.conv2d(both, weight[:, :, None, None], bias).contiguous(memory_format=torch.channels_last)


CONV1X1 = backends.define(
    "conv1x1",
    "(Tensor x, Tensor? x_2, Tensor weight, Tensor? packed, Tensor? bias) -> Tensor",
    reference=conv1x1_reference,
    fake=fake_convolution,
    lacking=("cuda",),
)

backends.library.define("pack_conv1x1(Tensor weight, int first_channels, int width) -> Tensor")


def pack_conv1x1(weight: Tensor, first_channels: int | None = None, *, width: int = 0) -> Tensor:
    """Arrange a weight for `conv1x1` on this machine.

    Args:
        weight: (K, C), float32, on the CPU.
        first_channels: number of channels of x, if x_2 has the others; None for all.
        width: number of float32 values in the vectors to arrange for; 0 takes the longest that divide the channels.

    Returns:
        packed: float32, of one axis. It serves machines with such vectors.

    Raises:
        ValueError: a weight of another shape or dtype, or channels that no vector divides.
        BackendUnavailable: the library is not compiled.
    """
    _check_weight(weight)
    first = weight.shape[1] if first_channels is None else first_channels
    backends.check_compiled()
    _check_vectors(weight, first)
    return torch.ops.rddm_fast.pack_conv1x1(weight.detach().contiguous(), first, width)


def conv1x1(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    x_2: Tensor | None = None,
    packed: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Multiply every pixel's channels by a matrix.

    Args:
        x: images (B, C, H, W), float32, in any layout; channels-last ones are not copied. For "cpp", C is a multiple
            of 4.
        weight: (K, C), float32. For "cpp", K is a multiple of 4.
        bias: (K,), float32.
        x_2: more channels of the images, (B, C_2, H, W): then weight has C + C_2, and nothing is concatenated.
        packed: `pack_conv1x1(weight, C)`; None packs at each call.
        impl: "reference", which is torch's convolution, or "cpp"; None takes the best one available on the device.

    Returns:
        y: (B, K, H, W), float32, channels-last. The same bits on one thread and on many.

    Raises:
        ValueError: shapes or devices that do not fit together, or numbers of channels that "cpp" does not serve.
        TypeError: another dtype than float32.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient. Only `impl="reference"` has one.
    """
    _check_weight(weight)
    check_convolution("conv1x1", x, weight, bias, x_2)
    run = CONV1X1(impl, x.device)
    if impl != "reference":
        check_no_gradient("conv1x1", x, weight, bias, x_2)
        _check_vectors(weight, x.shape[1])
    return run(x, x_2, weight, packed, bias)


def serves(*channels: int) -> bool:
    """Return whether "cpp" serves these numbers of channels: multiples of 4."""
    return all(n % 4 == 0 for n in channels)


def _check_weight(weight: Tensor) -> None:
    if weight.dtype != torch.float32:
        raise TypeError(f"weight is {weight.dtype}: conv1x1 computes in float32")
    if weight.dim() != 2 or weight.numel() == 0:
        raise ValueError(f"weight must be of shape (K, C), not {tuple(weight.shape)}")


def _check_vectors(weight: Tensor, first: int) -> None:
    if not 0 < first <= weight.shape[1]:
        raise ValueError(f"x has {first} channels, and weight takes {weight.shape[1]}")
    if not serves(weight.shape[0], first, weight.shape[1]):
        raise ValueError(
            f"weight of shape {tuple(weight.shape)} with {first} channels of x does not divide into vectors of 4"
        )
