"""The calls of the steps of inverse problems, a file an op."""
