"""The flags of an objective, from its code (rddm_fast/theory/objective.py, csrc/common/objective.h)."""

from __future__ import annotations

NOISE_ONLY = (5,)
X0_KNOWN = (2, 3, 6)
ADDED = (1, 3)


def flags_of(objective: int) -> dict[str, bool]:
    """Return the constants that a kernel is compiled with. It sees for itself whether there is a second output.

    noise_only: the only output is the noise. x0_known: the first or only output is the clean image. added: the second
    output is the first plus the noise.
    """
    return {"noise_only": objective in NOISE_ONLY, "x0_known": objective in X0_KNOWN, "added": objective in ADDED}
