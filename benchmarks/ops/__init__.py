"""The ops by themselves, one file per op: `rddm-fast bench ops` runs all of them."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """All ops' benchmarks, with the options of `report.main`."""
    from ..report import main as run
    from . import forward_diffuse, joint_loss, reverse_step, walsh_hadamard

    run([*reverse_step.OPS, *forward_diffuse.OPS, *joint_loss.OPS, *walsh_hadamard.OPS], __doc__, argv)
