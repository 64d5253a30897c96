"""All ops' microbenchmarks: python -m benchmarks [--quick] [--ops OP …] [--json FILE] [--csv FILE] [--plot STEM]."""

from . import bench_forward_diffuse, bench_joint_loss, bench_reverse_step
from .report import main

main([bench_reverse_step.OP, bench_reverse_step.DRAWN, bench_forward_diffuse.OP, bench_joint_loss.OP], __doc__)
