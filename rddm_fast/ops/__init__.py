"""The fused ops: one file an op, with its schema, its definition in plain torch and its public function."""

from .backends import BackendUnavailable
from .reverse_step import reverse_step, reverse_step_reference

__all__ = ["BackendUnavailable", "reverse_step", "reverse_step_reference"]
