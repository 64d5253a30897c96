"""Restore image files, measure the results, and the demo."""
