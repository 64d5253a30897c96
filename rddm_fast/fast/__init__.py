"""The fast path: what does not depend on the image, computed once when a sampler is built."""

from .engine import FastSampler
from .fold import fold

__all__ = ["FastSampler", "fold"]
