"""Commands that run on a cluster."""
