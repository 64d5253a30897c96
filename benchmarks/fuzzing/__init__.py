"""Random input for what takes files, settings and memory: each target makes one from a seed and says how it went."""
