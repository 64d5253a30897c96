"""The same computation as `rddm_fast.diffusion`, fast: work that does not depend on the image is done once."""

from .cold import FastColdRestorer
from .engine import FastSampler
from .prior import FastPrior
from .solver import FastSolver

__all__ = [
    "FastColdRestorer",
    "FastPrior",
    "FastSampler",
    "FastSolver",
]
