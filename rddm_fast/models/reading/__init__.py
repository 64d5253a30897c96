"""Reads a published source by its syntax tree, without running it: `reader` follows it, `facts` and `loops` ask."""
