"""The published class names and arguments, so that a script changes its import line and nothing else.

    from rddm_fast.compat.experiment5 import GaussianDiffusion, ResidualDiffusion, Trainer, Unet, UnetRes, set_seed

The number is that of the published folder: 0, 2, 3, 4, 5 or 6. `rddm_fast.compat.diffuir` has DiffUIR's names. The same
names without an experiment stand here; their `experiment=` names it.
"""

from ..models.source import from_source
from .diffusion import ResidualDiffusion
from .gaussian import GaussianDiffusion
from .networks import Unet, UnetRes, set_seed
from .trainers.trainer import Trainer

__all__ = [
    "GaussianDiffusion",
    "ResidualDiffusion",
    "Trainer",
    "Unet",
    "UnetRes",
    "from_source",
    "set_seed",
]
