"""The fused ops: one file an op, with its schema, its definition in plain torch and its public function."""

from .backends import BackendUnavailable
from .forward_diffuse import forward_diffuse, forward_diffuse_reference
from .joint_loss import joint_loss, joint_loss_reference
from .noise import noise
from .reverse_step import reverse_step, reverse_step_reference

__all__ = [
    "BackendUnavailable",
    "forward_diffuse",
    "forward_diffuse_reference",
    "joint_loss",
    "joint_loss_reference",
    "noise",
    "reverse_step",
    "reverse_step_reference",
]
