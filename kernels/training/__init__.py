"""Triton kernels of the ops that train."""
