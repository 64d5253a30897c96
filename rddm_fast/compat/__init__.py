"""The published class names and arguments, so that a script changes its import line and nothing else.

from rddm_fast.compat import GaussianDiffusion, ResidualDiffusion, Trainer, Unet, UnetRes, set_seed
"""

from .classes import ResidualDiffusion, Unet, UnetRes, set_seed
from .gaussian import GaussianDiffusion
from .trainer import Trainer

__all__ = [
    "GaussianDiffusion",
    "ResidualDiffusion",
    "Trainer",
    "Unet",
    "UnetRes",
    "set_seed",
]
