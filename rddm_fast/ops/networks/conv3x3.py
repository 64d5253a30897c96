"""`rddm_fast::conv3x3`: a 3x3 convolution of channels-last images, of one or of two in a row.

| backend | dtypes            | how                                                                          |
|---------|-------------------|------------------------------------------------------------------------------|
| cpp     | float32           | in AMX, where an Intel CPU has it; elsewhere by Winograd's filtering         |
| triton  | bfloat16, float16 | directly, as one matrix product with float32 sums; enlarges images too       |
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..backends import HALVES_CAPABILITY
from ..checks import HALVES, NARROW, check_convolution, check_device, check_no_gradient


@without_autocast
def conv3x3_reference(
    x: Tensor,
    x_2: Tensor | None,
    weight: Tensor,
    packed: Tensor | None,
    bias: Tensor | None,
    upsample: bool = False,
) -> Tensor:
    """The op's definition in plain torch, with the schema's arguments: torch's convolution. Differentiable."""
    both = x if x_2 is None else torch.cat((x, x_2), dim=1)
    if upsample:
        both = F.interpolate(both, scale_factor=2, mode="nearest")
    bias = None if bias is None else bias.to(x.dtype)
    return F.conv2d(both, weight.to(x.dtype), bias, padding=1).contiguous(memory_format=torch.channels_last)


def fake_convolution(x: Tensor, x_2: Tensor | None, weight: Tensor, *_: object) -> Tensor:
    """Return an empty result of an op whose first arguments are these and that keeps the images' size, for tracing."""
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _fake(
    x: Tensor,
    x_2: Tensor | None,
    weight: Tensor,
    packed: Tensor | None,
    bias: Tensor | None,
    upsample: bool = False,
) -> Tensor:
    return fake_convolution(x.new_empty(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]) if upsample else x, x_2, weight)


CONV3X3 = backends.define(
    "conv3x3",
    "(Tensor x, Tensor? x_2, Tensor weight, Tensor? packed, Tensor? bias, bool upsample=False) -> Tensor",
    reference=conv3x3_reference,
    triton="networks.conv3x3:conv3x3",
    capability=HALVES_CAPABILITY,
    fake=_fake,
    lacking=("cuda",),
)

backends.library.define("pack_conv3x3(Tensor weight, int tile, int instruction_set, bool turned) -> Tensor")


AMX_CHANNELS = 4096
"""The most channels of images in AMX: of more the products of 8 bits might exceed the sums' 32."""

MEETING = (((0,), (1, 2)), ((0, 1), (2,)))
"""For even and odd places along an axis of an enlarged image: which taps meet each of two pixels of the small one."""


def instruction_sets() -> list[str]:
    """Return the vectors of this machine that "cpp" is compiled for, the fastest last; none without it."""
    return list(backends.build_info["instruction_sets"]) if backends.build_info else []


def tiles() -> tuple[int, ...]:
    """Return the tiles for which `pack_conv3x3` packs on this machine, usually the fastest first; none without it."""
    if not backends.build_info:
        return ()
    return (1, 4, 2) if backends.build_info["amx"] else (4, 2)


def pack_conv3x3(
    weight: Tensor, *, tile: int | None = None, instruction_set: str | None = None, turned: bool = False
) -> Tensor:
    """Arrange a weight for `conv3x3` on this machine.

    Args:
        weight: (K, C, 3, 3), float32, on the CPU.
        tile: how many rows and columns of results are computed together, one of `tiles()`.

            1 multiplies directly, in the matrix unit (AMX) of Intel's processors. It sums products of whole numbers of
            8 bits exactly, so each float32 is taken as a whole number of 24 bits, in three digits; of the nine products
            of two values' digits the six larger are summed. The weights take 3/4 of the memory of plain ones.

            4 and 2 are Winograd's F(4x4, 3x3) and F(2x2, 3x3), for any processor: they take 1/4 and 4/9 of the
            multiplications, and 4 times and 16/9 of the weights' memory. The weights are transformed in float64. 2 is
            faster where reading the weights takes the time.

            None takes the first of `tiles()` that serves the weight.
        instruction_set: for tiles of 4 and 2 one of `instruction_sets()`; None takes the fastest.
        turned: pack the weights of the convolution that has the gradient of the images, (C, K, 3, 3): these turned by
            half, with their channels exchanged.

    Returns:
        packed: float32, of one axis. It serves machines whose vectors are as long as this one's.

    Raises:
        ValueError: a weight of another shape, a tile or an instruction set that is not here.
        TypeError: a weight of another dtype than float32.
        BackendUnavailable: the library is not compiled.
    """
    _check_weight(weight, (torch.float32,))
    backends.check_compiled()
    channels = weight.shape[0 if turned else 1]
    if tile is not None and tile not in tiles():
        choices = ", ".join(map(str, tiles()))
        raise ValueError(f"tile is {tile}: this machine has {choices}" + " (1 needs AMX)" * (tile == 1))
    if tile == 1 and channels > AMX_CHANNELS:
        raise ValueError(f"tile is 1: in AMX a weight has at most {AMX_CHANNELS} channels, and this has {channels}")
    if tile is None:
        tile = next(t for t in tiles() if t > 1 or channels <= AMX_CHANNELS)
    sets = instruction_sets()
    if instruction_set is not None and tile == 1:
        raise ValueError(f"instruction_set is {instruction_set!r}: it is for tiles of 4 and 2, and tile is 1")
    if instruction_set is not None and instruction_set not in sets:
        raise ValueError(f"instruction_set is {instruction_set!r}: this machine has {', '.join(sets)}")
    chosen = -1 if instruction_set is None else sets.index(instruction_set)
    return torch.ops.rddm_fast.pack_conv3x3(weight.detach(), tile, chosen, turned)


def pack_conv3x3_taps(weight: Tensor, dtype: torch.dtype, upsample: bool = False) -> Tensor:
    """Arrange a weight for `conv3x3` by Triton: a matrix for each tap, rounded to the images' dtype once.

    An enlarged image repeats each pixel of the small one, so of the three taps along an axis two meet the same pixel:
    the last two for the result's even places, the first two for its odd ones. Their weights are summed in float32.

    Args:
        weight: (K, C, 3, 3), float32 or `dtype`, on any device.
        dtype: bfloat16 or float16.
        upsample: whether the images are enlarged.

    Returns:
        packed: (9 K, C), the tap's number before the output channel's, contiguous. With `upsample` (16 K, C): for each
            of the four phases (rows, then columns) its 2x2 taps.

    Raises:
        ValueError: a weight of another shape.
        TypeError: a weight or a dtype that is not served.
    """
    if dtype not in HALVES:
        raise TypeError(f"dtype is {dtype}: choose bfloat16 or float16")
    _check_weight(weight, (torch.float32, dtype))
    taps = weight.detach().permute(2, 3, 0, 1).float()  # row, column, K, C
    if upsample:
        taps = torch.stack(
            [
                taps[list(rows)][:, list(columns)].sum((0, 1))
                for vertical, across in itertools.product(MEETING, MEETING)
                for rows, columns in itertools.product(vertical, across)
            ]
        )
    return taps.reshape(-1, weight.shape[1]).to(dtype).contiguous()


def serves(
    device: torch.device,
    dtype: torch.dtype,
    channels: Sequence[int],
    out_channels: int,
    *,
    upsample: bool = False,
) -> bool:
    """Return whether a backend other than the reference serves a convolution.

    Args:
        device, dtype: of the images.
        channels: (C,), or (C, C_2) for images in two parts.
        out_channels: K.
        upsample: whether the images are enlarged first.
    """
    backend = CONV3X3.best(device)
    if backend == "cpp":
        return dtype == torch.float32 and not upsample
    # The tensor memory accelerator takes whole 16 bytes, and a matrix instruction 16 channels.
    divide = all(c > 0 and c % 16 == 0 for c in channels) and out_channels % 8 == 0
    return backend == "triton" and dtype in HALVES and divide


def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    x_2: Tensor | None = None,
    packed: Tensor | None = None,
    upsample: bool = False,
    impl: str | None = None,
) -> Tensor:
    """Convolve images with 3x3 weights, stride 1 and a border of one zero.

    Args:
        x: images (B, C, H, W): float32 on a CPU, bfloat16 or float16 on a GPU. Any layout; channels-last ones are not
            copied. On a GPU 16 divides C.
        weight: (K, C, 3, 3), float32, or of the images' dtype. On a GPU 8 divides K.
        bias: (K,), float32.
        x_2: more channels of the images, (B, C_2, H, W): then weight has C + C_2, and nothing is concatenated.
        packed: on a CPU `pack_conv3x3(weight)`, on a GPU `pack_conv3x3_taps(weight, x.dtype, upsample)`. None packs at
            each call, which on a CPU takes longer than most convolutions.
        upsample: enlarge the images 2x by nearest neighbour first, on a GPU alone. The enlarged ones are not stored,
            and 4/9 of the multiplications are left.
        impl: "reference", which is torch's convolution, "cpp" or "triton"; None takes the best one available on the
            device.

    Returns:
        y: (B, K, H, W), or (B, K, 2 H, 2 W) with `upsample`; of x's dtype, channels-last.

        Of "cpp" a result of order 1 is 1e-6 (tiles of 1 and 2) to 1e-5 (a tile of 4, 512 channels) from the exact one,
        as those of a direct convolution. By Winograd's filtering (Lavin and Gray, 2016) it sums products of transformed
        values. In AMX it sums products of rounded ones: the error grows with the largest value of some rows of an
        image, 1e-6 where that is 8 times the deviation, and all results of such rows are NaN if a value is not finite.
        The results have the same bits on one thread and on many.

        "triton" sums in float32 and rounds once; the reference rounds the bias to x's dtype.

    Raises:
        ValueError: shapes, channels or devices that do not fit together or are not served.
        TypeError: another dtype than the device's backend serves; "reference" serves all three.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient. Only `impl="reference"` has one.
    """
    by_triton = (CONV3X3.best(x.device) if impl is None else impl) == "triton"
    dtypes = NARROW if impl == "reference" else HALVES if by_triton else (torch.float32,)
    _check_weight(weight, NARROW if impl == "reference" or by_triton else dtypes)
    check_convolution("conv3x3", x, weight, bias, x_2, dtypes)
    check_device(x.device, "x", packed=packed)
    run = CONV3X3(impl, x.device)
    if impl != "reference":
        check_no_gradient("conv3x3", x, weight, bias, x_2)
        if upsample and not by_triton:
            raise ValueError("upsample is for a GPU: on a CPU enlarge the images first, or pass impl='reference'")
    if by_triton and packed is None:
        packed = pack_conv3x3_taps(weight, x.dtype, upsample)
    return run(x, x_2, weight, packed, bias, upsample)


def _check_weight(weight: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    if weight.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"weight is {weight.dtype}: conv3x3 takes {names} here")
    if weight.dim() != 4 or weight.shape[2:] != (3, 3) or weight.numel() == 0:
        raise ValueError(f"weight must be of shape (K, C, 3, 3), not {tuple(weight.shape)}")
