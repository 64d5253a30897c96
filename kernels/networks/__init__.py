"""Triton kernels of the ops in rddm_fast/ops/networks."""
