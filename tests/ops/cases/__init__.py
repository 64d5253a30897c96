"""The calls of each op that its tests share: a grid is written once per op.

`few("interpreted")` yields the cases that Triton's interpreter has time for, `few("gpu")` those of a GPU, where Triton
compiles for each combination. The compiled CPU ops run both, and the products in their own tests.
"""

from . import (
    attention_layer,
    conv3x3,
    conv_by_taps,
    conv_norm_silu,
    forward_diffuse,
    group_norm_silu_training,
    joint_loss,
    network_ops,
    reverse_step,
    stem_conv,
)
from .inverse import range_null_step, spectral_step, tacos_step, walsh_hadamard

__all__ = ["GRIDS", "SLOW", "group_norm_silu_training"]
GRIDS = {
    "reverse_step": reverse_step.few,
    "reverse_step_": reverse_step.few_in_place,
    "forward_diffuse": forward_diffuse.few,
    "joint_loss": joint_loss.few,
    "range_null_step": range_null_step.few,
    "range_null_step_": range_null_step.few_in_place,
    "group_norm_silu": network_ops.few_group_norms,
    "channel_norm": network_ops.few_channel_norms,
    "linear_attention": network_ops.few_attentions,
    "attention_layer": attention_layer.few,
    "stem_conv": stem_conv.few,
    "conv3x3": conv3x3.few,
    "conv_by_taps": conv_by_taps.few,
    "conv_norm_silu": conv_norm_silu.few,
    "spectral_step_": spectral_step.few,
    "tacos_step": tacos_step.few,
    "walsh_hadamard": walsh_hadamard.few,
}
SLOW = ("interpreted", "gpu")
