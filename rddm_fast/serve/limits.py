"""How much one request may ask for."""

MOST_BYTES = 64 * 2**20
"""Of a request's body."""
MOST_PIXELS = 50_000_000
"""Of a picture, and of a result: a large camera's photograph, at 1.2 GB of memory while it is restored in tiles."""
SMALL = 256
"""The side in pixels of the previews and of the film of steps."""
