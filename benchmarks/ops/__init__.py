"""The ops by themselves, one file per op: `rddm-fast bench ops` runs all of them."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """All ops' benchmarks, with the options of `report.main`."""
    from ..report import main as run
    from . import (
        forward_diffuse,
        joint_loss,
        network_ops,
        range_null_step,
        reverse_step,
        spectral_step,
        tacos_step,
        walsh_hadamard,
    )

    of_inverse = [*range_null_step.OPS, *spectral_step.OPS, *tacos_step.OPS, *walsh_hadamard.OPS]
    run([*reverse_step.OPS, *forward_diffuse.OPS, *joint_loss.OPS, *network_ops.OPS, *of_inverse], __doc__, argv)
