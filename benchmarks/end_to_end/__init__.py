"""Whole samplers and training steps, and where their time goes."""
