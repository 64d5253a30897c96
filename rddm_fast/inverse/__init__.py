"""Restore from a formula of the degradation: linear operators, DDRM, DDNM, DDNM+ and Cold Diffusion.

    from rddm_fast.inverse import operators, predictor, restore

    operator = operators.named("sr:4", (3, 64, 64))
    images = restore(y, operator, predictor(diffusion), method="ddrm", sigma_y=0.1)

`rddm_fast.fast.FastPrior(diffusion)` is the same prior on folded networks. Cold Diffusion is `rddm_fast.inverse.cold`.
"""

from .predictor import predictor
from .restore import restore

__all__ = ["predictor", "restore"]
