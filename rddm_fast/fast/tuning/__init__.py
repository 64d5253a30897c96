"""Choices by measurement: each layer of a sampler is computed in the way that is fastest on this machine."""
