"""Files in, files and numbers out: restoring, measuring, the demo."""
