"""How much one request may ask for."""

MOST_BYTES = 64 * 2**20
"""Of a request's body."""
MOST_PIXELS = 50_000_000
"""Of a picture, and of a result: a telephone's largest photograph. It takes 0.6 GB in float32, and so does
the noise of each step."""
SMALL = 256
"""The side in pixels of the previews and of the film of steps."""
