"""What the built-in models are worth: photographs held aside, degraded by us and by others, and the classics."""
