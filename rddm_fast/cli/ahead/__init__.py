"""Commands that do ahead of time what the first image of a size would wait for."""
