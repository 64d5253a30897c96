"""`python -m benchmarks.models`, the same as `rddm-fast bench models`."""

from .table import main

main()
