"""Training: settings, batches, losses, checkpoints, AOSA."""
