"""The kinds of degradation, one file each; `images.degrade` lists them by name."""
