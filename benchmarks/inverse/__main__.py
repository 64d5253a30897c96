"""`python -m benchmarks.inverse`, the same as `rddm-fast bench inverse`."""

from .table import main

main()
