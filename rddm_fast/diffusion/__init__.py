"""The readable reference: networks, the reverse process and `ResidualDiffusion`."""

from .residual import LOSSES, ResidualDiffusion
from .start import to_signed, to_unit

__all__ = ["LOSSES", "ResidualDiffusion", "to_signed", "to_unit"]
