"""One exposure for a whole picture: how much light a dark region lacks is decided at a glance, not tile by tile.

A network that brightens judges by what it sees. A tile of sky and one of forest get different answers, and the picture
gets patches: up to 17 levels apart were measured. So the picture is also restored once as a whole, scaled down to
`GLANCE` pixels. Its cells of `CELL` pixels say how bright and of which colour each region becomes; the tiles give
what is finer.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

GLANCE = 256
"""Greatest side in pixels of the picture that is restored as a whole: one evaluation of it costs as much as a tile."""
WINDOW = 128
"""Greatest side in pixels of a tile. Tiles of 96 to 192 pixels and none at all are within 0.05 dB of each other."""
CELL = 4
"""Side of a cell in pixels of the glance; the smallest whose mean is not the noise of its pixels."""
ROUNDS = 4
"""A factor that changes smoothly does not meet the mean of every cell at once: 3 levels are missing after one round."""
_DARK = 0.02
"""Added to both sides of a ratio of brightness, so that black cells do not divide by nothing: 5 levels of 255."""


def glance_size(height: int, width: int) -> tuple[int, int]:
    """Return the size at which a picture is restored as a whole: its own, or with a longer side of `GLANCE`."""
    scale = min(1.0, GLANCE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def with_exposure_of(restored: Tensor, whole: Tensor) -> Tensor:
    """Give `restored`, put together from tiles, the brightness and colour of `whole`.

    Args:
        restored: (B, C, H, W) in [0, 1].
        whole: the same picture restored at the size of `glance_size`.

    Returns:
        `restored`, each channel multiplied by a factor that changes smoothly over the picture.
    """
    height, width = whole.shape[-2:]
    cells = (max(1, height // CELL), max(1, width // CELL))
    wanted = F.adaptive_avg_pool2d(whole, cells) + _DARK
    result = restored + _DARK
    for _ in range(ROUNDS):
        ratio = (wanted / F.adaptive_avg_pool2d(result, cells)).clamp(0.25, 4)
        result = result * F.interpolate(ratio, restored.shape[-2:], mode="bilinear", align_corners=False)
    return (result - _DARK).clamp(0, 1)


def restored_at_a_glance(restore: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Restore `image` (B, C, H, W) as a whole, scaled down to `glance_size`."""
    size = glance_size(*image.shape[-2:])
    if size == tuple(image.shape[-2:]):
        return restore(image)
    return restore(F.interpolate(image, size, mode="bilinear", antialias=True).clamp(0, 1))
