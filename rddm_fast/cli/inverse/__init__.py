"""The commands that restore from a formula of the degradation."""
