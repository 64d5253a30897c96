"""Pictures and data sets: reading, writing, finding, pairing, degrading."""

from .picture import ImageError, Picture, read_image, write_image

__all__ = [
    "ImageError",
    "Picture",
    "read_image",
    "write_image",
]
