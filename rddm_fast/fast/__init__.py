"""The same computation as `rddm_fast.diffusion`, fast: work that does not depend on the image is done once."""

from .engine import FastSampler

__all__ = [
    "FastSampler",
]
