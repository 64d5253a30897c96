"""Benchmarks, installed as rddm_fast.benchmarks. Each checks its results, then times them beside the alternatives.

`rddm-fast bench` lists and runs them.
"""
