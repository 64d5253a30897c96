"""The same computation as `rddm_fast.diffusion`, fast: what does not depend on the image is computed once."""

from .engine import FastSampler

__all__ = [
    "FastSampler",
]
