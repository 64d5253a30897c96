"""The ops of the U-Nets themselves, one per file."""
