"""Cold Diffusion (Bansal et al., 2022): restoring from any degradation that comes in levels, without noise."""

from .animorphosis import Animorphosis
from .blur import Blur
from .decolour import Decolour
from .degradation import Blend, Degradation
from .fade import Fade, random_offsets
from .recipes import COLD, Recipe, named
from .resolution import Resolution
from .sample import ColdStep, cold_steps, sample
from .snow import Snow

__all__ = [
    "COLD",
    "Animorphosis",
    "Blend",
    "Blur",
    "ColdStep",
    "Decolour",
    "Degradation",
    "Fade",
    "Recipe",
    "Resolution",
    "Snow",
    "cold_steps",
    "named",
    "random_offsets",
    "sample",
]
