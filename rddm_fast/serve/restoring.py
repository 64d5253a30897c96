"""From the bytes of a picture to those of its result. Nothing is read from the disk but the models, nothing written."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..diffusion.residual import ResidualDiffusion
from ..fast.engine import FastSampler
from ..images.formats import WRITE_SUFFIXES
from ..images.given.marks import marked_by
from ..images.picture import ImageError, Picture, decoded, encoded
from ..images.prepared import resized
from ..models.folder import load_model
from ..restoration.measurement import check_measurable, measurement_of
from ..restoration.restore import Restorer
from ..restoration.solve import Solver, default_tile
from .limits import MOST_PIXELS, SMALL

Advance = Callable[[int, int], None]
KEPT = 4
"""Models that are kept in memory, each with its steps: one takes some ten MB."""
PRIOR = "prior-photos"


@dataclass(frozen=True)
class Upload:
    """What a request sends: a picture's bytes, the name of its file, and the bytes of a mask if it has one.

    The mask is white where something is wrong; it is stretched to the size that is needed.
    """

    data: bytes
    name: str
    mask: bytes | None = None

    def picture(self) -> Picture:
        return decoded(self.data, Path(self.name), most_pixels=MOST_PIXELS)

    def mask_of(self, height: int, width: int) -> Picture | None:
        if self.mask is None:
            return None
        mask = decoded(self.mask, Path(f"the mask of {self.name}"), most_pixels=MOST_PIXELS)
        return replace(mask, pixels=interpolate(mask.pixels[None], size=(height, width))[0], alpha=None)

    def suffix(self) -> str:
        """Return the suffix of the file's own format, .png where that cannot be written."""
        suffix = Path(self.name).suffix.lower()
        return suffix if suffix in WRITE_SUFFIXES else ".png"


@dataclass(frozen=True)
class Result:
    """A picture's bytes in the format of `suffix`, and the seconds that its restoration took."""

    data: bytes
    suffix: str
    seconds: float = 0.0


class Restoring:
    """The models, of which the last ones used are kept. Its methods are called one at a time.

    Args:
        device: where to compute.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._restorer = lru_cache(KEPT)(self._new_restorer)
        self._sampler = lru_cache(KEPT)(self._new_sampler)
        self._solver = lru_cache(KEPT)(self._new_solver)

    def restored(self, upload: Upload, suffix: str, model: str, steps: int | None, advance: Advance) -> Result:
        """Restore a picture by a built-in model.

        Raises:
            ValueError: a picture or settings that cannot be used, a sentence each.
        """
        restorer = self._restorer(model, steps)
        picture = upload.picture()
        _check_mask(upload, restorer.needs_mask)
        mask = upload.mask_of(*picture.pixels.shape[1:])
        return _result(upload, suffix, lambda: restorer(picture, mask, advance))

    def solved(self, upload: Upload, suffix: str, settings: dict[str, Any], advance: Advance) -> Result:
        """Restore a picture from a formula of its degradation; `settings` are those of `Solver`.

        Raises:
            ValueError: a picture or settings that cannot be used, a sentence each.
        """
        operator = settings["operator"]
        check_measurable(operator)
        solver = self._solver(tuple(sorted(settings.items())))
        picture = upload.picture()
        solver.check_mask(upload.mask is not None)
        _, (_, height, width) = measurement_of(picture, operator, solver.channels)
        if height * width > MOST_PIXELS:
            limit = f"at most {MOST_PIXELS / 1e6:g} million pixels are made"
            raise ImageError(f"the result for {upload.name} would be {width}x{height}, and {limit}: make it smaller")
        mask = upload.mask_of(height, width)
        return _result(upload, suffix, lambda: solver(picture, mask, advance))

    def film(self, upload: Upload, model: str, steps: int | None) -> dict[str, Any]:
        """Return the images of the sampler's steps, small, for JSON: {"frames": [{"t": 999, "image": a data: URL}]}.

        The first is the noisy image that the walk starts from, at t = T; the last, at t = 0, is the result.
        """
        sampler = self._sampler(model, steps)
        picture = smaller(upload.picture(), SMALL)
        _check_mask(upload, sampler.diffusion.input_condition)
        image, *masks = self._inputs(picture, upload.mask_of(*picture.pixels.shape[1:]), sampler.diffusion.mask_marks)
        generator = torch.Generator(self.device).manual_seed(0)
        images = sampler.sample(image, *masks, generator=generator, every_step=True)
        times = [sampler.steps[0].t + 1, *(step.s + 1 for step in sampler.steps)]
        return {"frames": [{"t": t, "image": _url(picture, image[0])} for t, image in zip(times, images, strict=True)]}

    def _inputs(self, picture: Picture, mask: Picture | None, marks: str | None) -> list[Tensor]:
        """Return the sampler's input: the picture, and the mask, of black and white where it marks something."""
        image = picture.pixels[None].to(self.device)
        if mask is None:
            return [image]
        painted = mask.pixels[None].to(self.device)
        return [image, painted if marks is None else marked_by(painted).expand_as(image)]

    def _new_restorer(self, model: str, steps: int | None) -> Restorer:
        return Restorer(self._model(model), steps=steps)

    def _new_sampler(self, model: str, steps: int | None) -> FastSampler:
        return FastSampler(self._model(model), steps=steps)

    def _new_solver(self, settings: tuple[tuple[str, Any], ...]) -> Solver:
        named = dict(settings)
        return Solver(self._model(PRIOR), tile=default_tile(named["operator"]), **named)

    def _model(self, name: str) -> ResidualDiffusion:
        return load_model(name).to(self.device)


def converted(upload: Upload, suffix: str, side: int | None) -> Result:
    """Write a picture in another format, and no larger than `side` if that is given."""
    picture = upload.picture()
    return _result(upload, suffix, lambda: picture if side is None else smaller(picture, side))


def smaller(picture: Picture, side: int) -> Picture:
    """Return a picture whose longer side is at most `side` pixels, with 8 bits per sample."""
    height, width = picture.pixels.shape[1:]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    alpha = None if picture.alpha is None else resized(picture.alpha, size)
    return replace(picture, pixels=resized(picture.pixels, size), alpha=alpha, bits=8)


def _check_mask(upload: Upload, needed: bool) -> None:
    if needed and upload.mask is None:
        raise ValueError(f"{upload.name} was not restored: this model needs a mask, so paint one")
    if not needed and upload.mask is not None:
        raise ValueError(f"{upload.name} was not restored: this model takes no mask, so leave mask= out")


def _result(upload: Upload, suffix: str, restore: Callable[[], Picture]) -> Result:
    started = time.perf_counter()
    picture = restore()
    seconds = time.perf_counter() - started
    return Result(encoded(picture, Path(upload.name + suffix)), suffix, seconds)


def _url(picture: Picture, pixels: Tensor) -> str:
    data = encoded(picture.with_pixels(pixels.clamp(0, 1).cpu()), Path("a step.png"))
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
