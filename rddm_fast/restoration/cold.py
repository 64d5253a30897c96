"""Restore image files by Cold Diffusion: `rddm-fast cold` as a Python function.

restorer = ColdPictureRestorer(load_cold_restorer("run/model"))
for outcome in restore_files(restorer, ["blurred"], "restored"):
    print(outcome.source, outcome.error or "restored")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..diffusion.cold_restorer import ColdRestorer
from ..diffusion.start import to_signed, to_unit
from ..fast.cold import FastColdRestorer
from ..images.picture import ImageError, Picture
from ..inverse.cold.recipes import PREFIX, Recipe
from ..inverse.cold.sample import sample
from .metrics import psnr, ssim


@dataclass(frozen=True)
class Measured:
    """How close the degraded picture and the restored one are to the truth: PSNR in dB, and SSIM."""

    psnr_before: float
    ssim_before: float
    psnr_after: float
    ssim_after: float


class ColdPictureRestorer:
    """A restorer of Cold Diffusion with its settings; call it with one picture.

    Args:
        restorer: from `models.folder.load_cold_restorer`.
        algorithm: "tacos" or "naive".
        measured: None takes pictures as degraded already. A function takes them as the truth: each is first degraded to
            level T, and `measured` is called with the numbers of the result.
        seed: seed of degradations that are drawn, such as snow; the same for every picture.
        dtype: the dtype of the networks' computation, as in `FastColdRestorer`.

    Raises:
        ValueError: an already degraded picture cannot be restored, because it does not tell what was drawn for it.
    """

    needs_mask = False
    tile: int | None = None

    def __init__(
        self,
        restorer: ColdRestorer,
        *,
        algorithm: str = "tacos",
        measured: Callable[[Measured], None] | None = None,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.recipe = Recipe.of(restorer.recipe)
        if self.recipe.drawn_per_picture and measured is None:
            raise ValueError(
                f"{PREFIX}{self.recipe.name} draws a degradation for each picture, and a degraded picture does not "
                "tell which: pass clean pictures and --degrade"
            )
        self.fast, self.device, self.channels = (
            FastColdRestorer(restorer, dtype=dtype),
            restorer.device,
            restorer.channels,
        )
        self.algorithm, self.measured, self.seed = algorithm, measured, seed

    def __call__(
        self, picture: Picture, mask: Picture | None = None, advance: Callable[[int, int], None] | None = None
    ) -> Picture:
        """Restore one picture, whole.

        Args:
            picture: of any size that the degradation has.
            mask: none is taken.
            advance: called after each step with the number done and the number in all.

        Returns:
            The restored picture, with the input's alpha, bits, profile and resolution.

        Raises:
            ImageError: the picture has no such degradation.
        """
        x_0 = picture.pixels[None].to(self.device)
        if self.channels == 1:
            x_0 = x_0.mean(1, keepdim=True)
        try:
            x_T, restored = self._sampled(to_signed(x_0), advance)
            if self.measured is not None:
                self.measured(_numbers(x_0, x_T, restored))
        except ImageError:
            raise
        except ValueError as error:
            raise ImageError(f"{picture.path or 'the picture'}: {error}") from error
        result = picture.with_pixels(restored[0].expand(3, -1, -1).cpu())
        # Colours come back into a grey file. The profile of a grey file is none of theirs.
        return replace(result, grey=False, icc=None) if picture.grey and self.recipe.name == "decolour" else result

    def smaller(self, picture: Picture) -> None:
        """There are no tiles: a degradation may reach across a picture."""

    def _sampled(self, x: Tensor, advance: Callable[[int, int], None] | None) -> tuple[Tensor, Tensor]:
        """Return the degraded picture and the restored one, in [0, 1]; `x` is the truth if one measures."""
        size = (x.shape[-2], x.shape[-1])
        degradation = self.recipe.made(size, self.recipe.draw(size, 1, torch.Generator().manual_seed(self.seed)))
        x_T = x if self.measured is None else degradation.start(x)
        on_step = None if advance is None else lambda i, step, image: advance(i + 1, degradation.T)
        restored = sample(self.fast, degradation, x_T, self.algorithm, on_step=on_step)
        return to_unit(x_T).clamp(0, 1), to_unit(restored).clamp(0, 1)


def _numbers(truth: Tensor, degraded: Tensor, restored: Tensor) -> Measured:
    (before, after) = ((float(psnr(x[0], truth[0])), float(ssim(x[0], truth[0]))) for x in (degraded, restored))
    return Measured(*before, *after)
