"""`conv_norm_silu` in Triton: a 3x3 convolution that stores its result's statistics, and the norm that reads them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..images import in_layout_of
from .conv3x3 import conv3x3_by_tile
from .group_norm_silu import normalise
from .norm_product import normalise_and_add_product


def conv_norm_silu(
    x: Tensor,
    x_2: Tensor | None,
    weight: Tensor,
    packed: Tensor | None,
    conv_bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    groups: int,
    eps: float,
    scale_shift: Tensor | None,
    residual: Tensor | None,
    residual_2: Tensor | None,
    res_weight: Tensor | None,
    res_bias: Tensor | None,
) -> Tensor:
    """Launch the kernels; the arguments are the op's (rddm_fast/ops/networks/conv_norm_silu.py)."""
    with torch.cuda.device_of(x):
        y, parts = conv3x3_by_tile(x, x_2, weight.shape[0], packed, conv_bias, groups=groups)
    if parts is None:  # an image of no pixels
        return y
    if res_weight is None:
        residual = in_layout_of(residual, y)
        normalise(y, None, parts, norm_weight, norm_bias, eps, scale_shift, residual, y, by_channel=1)
        return y
    images = [None if r is None else r.contiguous(memory_format=torch.channels_last) for r in (residual, residual_2)]
    assert images[0] is not None
    normalise_and_add_product(
        y, parts, norm_weight, norm_bias, eps, scale_shift, images[0], images[1], res_weight.contiguous(), res_bias
    )
    return y
