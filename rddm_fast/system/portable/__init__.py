"""What Linux, macOS and Windows do each in its own way."""
