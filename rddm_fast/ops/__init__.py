"""The fused ops, one per file: its schema, its definition in plain torch and its public function."""

from .backends import BackendUnavailable
from .forward_diffuse import forward_diffuse, forward_diffuse_reference
from .inverse.range_null_step import range_null_step, range_null_step_, range_null_step_reference
from .inverse.spectral_step import spectral_step_, spectral_step_reference
from .inverse.tacos_step import tacos_step, tacos_step_reference
from .inverse.walsh_hadamard import walsh_hadamard, walsh_hadamard_reference
from .joint_loss import joint_loss, joint_loss_reference
from .networks.attention_layer import attention_layer, attention_layer_reference, pack_attention_layer
from .networks.channel_norm import channel_norm, channel_norm_reference
from .networks.conv1x1 import conv1x1, conv1x1_reference, pack_conv1x1
from .networks.conv3x3 import conv3x3, conv3x3_reference, pack_conv3x3, pack_conv3x3_taps
from .networks.conv_by_taps import conv_by_taps, conv_by_taps_reference, pack_taps
from .networks.conv_norm_silu import conv_norm_silu, conv_norm_silu_reference
from .networks.group_norm_silu import group_norm_silu, group_norm_silu_reference
from .networks.linear_attention import linear_attention, linear_attention_reference
from .networks.residual_block import pack_residual_block, residual_block, residual_block_reference
from .networks.stem_conv import pack_stem_conv, stem_conv, stem_conv_reference
from .noise import noise
from .reverse_step import reverse_step, reverse_step_, reverse_step_reference
from .step_table import StepTable
from .training.conv3x3_weight_gradient import conv3x3_weight_gradient, conv3x3_weight_gradient_reference
from .training.group_norm_silu_training import group_norm_silu_training, group_norm_silu_training_reference
from .training.pixel_attention import pixel_attention, pixel_attention_reference

__all__ = [
    "BackendUnavailable",
    "StepTable",
    "attention_layer",
    "attention_layer_reference",
    "channel_norm",
    "channel_norm_reference",
    "conv1x1",
    "conv1x1_reference",
    "conv3x3",
    "conv3x3_reference",
    "conv3x3_weight_gradient",
    "conv3x3_weight_gradient_reference",
    "conv_by_taps",
    "conv_by_taps_reference",
    "conv_norm_silu",
    "conv_norm_silu_reference",
    "forward_diffuse",
    "forward_diffuse_reference",
    "group_norm_silu",
    "group_norm_silu_reference",
    "group_norm_silu_training",
    "group_norm_silu_training_reference",
    "joint_loss",
    "joint_loss_reference",
    "linear_attention",
    "linear_attention_reference",
    "noise",
    "pack_attention_layer",
    "pack_conv1x1",
    "pack_conv3x3",
    "pack_conv3x3_taps",
    "pack_residual_block",
    "pack_stem_conv",
    "pack_taps",
    "pixel_attention",
    "pixel_attention_reference",
    "range_null_step",
    "range_null_step_",
    "range_null_step_reference",
    "residual_block",
    "residual_block_reference",
    "reverse_step",
    "reverse_step_",
    "reverse_step_reference",
    "spectral_step_",
    "spectral_step_reference",
    "stem_conv",
    "stem_conv_reference",
    "tacos_step",
    "tacos_step_reference",
    "walsh_hadamard",
    "walsh_hadamard_reference",
]
