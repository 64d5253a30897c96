"""The paper's experiments on a small scale."""
