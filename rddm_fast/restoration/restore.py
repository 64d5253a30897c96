"""Restore image files: `rddm-fast restore` as a Python function.

restorer = Restorer(load_model("derain"), steps=3)
for outcome in restore_files(restorer, ["photos"], "restored"):
    print(outcome.source, outcome.error or "restored")
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..diffusion.residual import ResidualDiffusion
from ..fast.engine import FastSampler
from ..images.find import PathOrText, check_beside
from ..images.given.given import Given
from ..images.picture import ImageError, Picture, sides
from ..system.memory import out_of_memory
from .compare import before_and_after, compared_path
from .files.each import each_file
from .files.outcome import Done, Outcome
from .files.plan import plan
from .tiles import OVERLAP, TILE, check_overlap, tiled
from .whole.exposure import WINDOW, restored_at_a_glance, with_exposure_of


class PictureRestorer(Protocol):
    """What `restore_files` restores with: `Restorer`, or `restoration.cold.ColdPictureRestorer`.

    Attributes:
        needs_mask: whether it takes a mask.
        tile: the greatest side of a tile in pixels; None if pictures are restored whole.
    """

    needs_mask: bool
    tile: int | None

    def __call__(
        self, picture: Picture, mask: Picture | None = None, advance: Callable[[int, int], None] | None = None
    ) -> Picture: ...

    def smaller(self, picture: Picture) -> PictureRestorer | None:
        """Return one that needs less memory for this picture, or None."""


SMALLEST_TILE = 64
"""The least side to which tiles are halved where memory runs out: below, the image costs more than its tiles."""
SMALLER = "make it smaller"
"""What to do about a picture for which the smallest tiles need too much memory."""


class Restorer:
    """A restoring model with its settings; call it with one picture.

    Where the model says what its mask marks (`ResidualDiffusion.mask_marks`), the pixels that are not marked come back
    equal to the bit, and what a hole held has no influence on the result. A picture without the traces that the model
    looks for (`clean_without`) comes back equal to the bit. Where the model judges the exposure (`global_exposure`), a
    picture gets one, and it is restored in tiles of `whole.exposure.WINDOW` pixels unless `tile` is less: the result
    is the same for every larger tile, and without tiles.

    Args:
        diffusion: a model with `condition=True`.
        steps: sampling steps; the model's own number if None.
        eta: stochasticity, 0 to 1; the model's own value if None.
        seed: seed of the starting noise. It is the same for every picture, so that a result does not depend on which
            other pictures are restored with it.
        tile: larger pictures are restored in tiles of at most this side in pixels; None never tiles.
        overlap: pixels by which neighbouring tiles overlap at least.
        batch: the number of tiles that are restored together; None takes 8 on a GPU and 1 on a CPU.
        dtype: the dtype of the networks' computation, as in `FastSampler`.
        compile: compile the networks, and capture the loop on a GPU. This takes about a minute per image size, so it
            pays only for many pictures of one size.

    Raises:
        ValueError: the model generates images instead of restoring them, or `overlap` is not less than `tile`.
    """

    def __init__(
        self,
        diffusion: ResidualDiffusion,
        *,
        steps: int | None = None,
        eta: float | None = None,
        seed: int = 0,
        tile: int | None = TILE,
        overlap: int = OVERLAP,
        batch: int | None = None,
        dtype: torch.dtype | None = None,
        compile: bool = False,
    ) -> None:
        if not diffusion.condition:
            raise ValueError("this model generates images from noise: to restore, use one that was trained to restore")
        if tile is not None:
            check_overlap(tile, overlap)
        if diffusion.global_exposure and (tile is None or tile > WINDOW):
            tile, overlap = WINDOW, min(overlap, WINDOW // 4)
        self.needs_mask = diffusion.input_condition
        self.mask_marks, self.global_exposure = diffusion.mask_marks, diffusion.global_exposure
        self.device = diffusion.device
        # Pictures are prepared here, as a whole: a tile in a hole knows nothing of what surrounds it.
        self.given = diffusion.given
        diffusion = diffusion.of_given()
        graphs = compile and self.device.type == "cuda"
        self.sampler = FastSampler(diffusion, steps=steps, eta=eta, dtype=dtype, compile=compile, graphs=graphs)
        self.seed, self.tile, self.overlap = seed, tile, overlap
        self.batch = batch or (8 if self.device.type == "cuda" else 1)

    def __call__(
        self,
        picture: Picture,
        mask: Picture | None = None,
        advance: Callable[[int, int], None] | None = None,
    ) -> Picture:
        """Restore one picture.

        Args:
            picture: the degraded picture.
            mask: a mask of the same size, for models that take one. Values up to 0.1 are black.
            advance: called after each tile with the number done and the number in all.

        Returns:
            The restored picture, with the input's alpha, bits, profile and resolution.

        Raises:
            ImageError: mask and picture differ in size.
        """
        image = picture.pixels[None].to(self.device)
        if mask is not None and mask.pixels.shape != picture.pixels.shape:
            sizes = sides(mask.pixels), sides(picture.pixels)
            raise ImageError(f"the mask {mask.path} is {sizes[0]} and {picture.path} is {sizes[1]}")
        given = self.given(image, None if mask is None else mask.pixels[None].to(self.device))
        if given.nothing:
            return picture
        return picture.with_pixels(given.finished(self._restored(given, advance))[0].cpu())

    def _restored(self, given: Given, advance: Callable[[int, int], None] | None) -> Tensor:
        """Restore (1, C, H, W), in tiles if it is larger than one, at one exposure if the model needs that."""
        image, masks = given.image, [] if given.mask is None else [given.mask]
        if self.tile is None or max(image.shape[-2:]) <= self.tile:
            return self.sampler(image, *masks, generator=self._generator())
        restored = self._tiled(image, masks, advance)
        if not self.global_exposure:
            return restored
        whole = restored_at_a_glance(lambda small: self.sampler(small, generator=self._generator()), image)
        return with_exposure_of(restored, whole)

    def _tiled(self, image: Tensor, masks: list[Tensor], advance: Callable[[int, int], None] | None) -> Tensor:
        # Draw the noise of the whole picture first, so that overlapping tiles see the same noise.
        generator = self._generator()
        draws = 1 + sum(step.draws for step in self.sampler.steps)
        noise = [torch.randn(image.shape, generator=generator, device=self.device) for _ in range(draws)]

        def restore(parts: Sequence[Tensor]) -> Tensor:
            if self.mask_marks is None:
                return self.sampler(*parts[:-draws], draws=parts[-draws:])
            # A tile without a marked pixel stays as it is.
            marked = parts[1].flatten(1).any(1)
            result = parts[0].clone()
            if marked.any():
                image, mask, *noise = (part[marked] for part in parts)
                result[marked] = self.sampler(image, mask, draws=noise)
            return result

        assert self.tile is not None
        return tiled(restore, [image, *masks, *noise], self.tile, self.overlap, advance, self.batch)

    def _generator(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self.seed)

    def together(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Restore pictures of one size, at once if they are no larger than a tile; the results are those of one by one.

        Args:
            pictures: at least one picture, for a model that takes no mask.
        """
        height, width = pictures[0].pixels.shape[1:]
        in_tiles = self.tile is not None and max(height, width) > self.tile
        if len(pictures) == 1 or in_tiles:
            return [self(picture) for picture in pictures]
        given = self.given(torch.stack([picture.pixels for picture in pictures]).to(self.device))
        if given.nothing:
            return list(pictures)
        # The noise of one picture is that of every other.
        generator = self._generator()
        draws = 1 + sum(step.draws for step in self.sampler.steps)
        shape = given.image.shape
        noise = (torch.randn((1, *shape[1:]), generator=generator, device=self.device) for _ in range(draws))
        restored = self.sampler(given.image, draws=(one.expand(shape) for one in noise))
        restored = given.finished(restored).cpu()
        return [picture.with_pixels(pixels) for picture, pixels in zip(pictures, restored, strict=True)]

    def smaller(self, picture: Picture) -> Restorer | None:
        """Return this restorer with half as many tiles at once, or with tiles of half the side that this picture takes.

        None below `SMALLEST_TILE`.
        """
        if self.batch > 1 and self.tile is not None and max(picture.pixels.shape[1:]) > self.tile:
            other = copy.copy(self)
            other.batch = self.batch // 2
            return other
        side = max(picture.pixels.shape[1:])
        tile = (side if self.tile is None else min(self.tile, side)) // 2
        if tile < SMALLEST_TILE:
            return None
        other = copy.copy(self)
        other.tile, other.overlap = tile, min(self.overlap, tile // 4)
        return other


def restore_files(
    restorer: PictureRestorer,
    inputs: Sequence[PathOrText],
    output: PathOrText,
    *,
    mask: PathOrText | None = None,
    overwrite: bool = False,
    compare: bool = False,
    on_left_out: Callable[[Sequence[Path]], None] | None = None,
    on_start: Callable[[int, int, Path], None] | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> Iterator[Outcome]:
    """Restore files and folders of images into the folder `output`, keeping names; yields one Outcome per file.

    One file can be restored into the file `output`. A file that cannot be read or written becomes an outcome with an
    error, and the rest is still restored. A file whose result exists is skipped unless `overwrite` is true, so that an
    interrupted run can be resumed. Each result appears whole or not at all. Under `torchrun` and `accelerate launch`
    each process restores its own share of the files; only the first one reports the inputs that cannot be used.

    Args:
        restorer: the model with its settings.
        inputs: image files, and folders, which stand for every image below them.
        output: the folder for the results, or the name of the one input's result, such as restored.png.
        mask: the mask's file, or the folder of masks matched by name, for models that take one.
        overwrite: also restore files whose result exists.
        compare: also write each file and its result side by side (`compare.compared_path`), where that is not done.
        on_left_out: called once, before the first file, with the files in folders whose suffix is not that of a picture
            that is read (`images.formats.why_not_read`); not called if there are none.
        on_start: called before each file with its number from 0, how many there are, and its path.
        advance: called after each tile of a file with the number done and the number in all.
    """
    planned = plan(inputs, output, mask, needs_mask=restorer.needs_mask, on_left_out=on_left_out)

    def work(picture: Picture, mask: Picture | None, target: Path) -> Done:
        restored, note = restored_within_memory(restorer, picture, mask, advance)
        return Done([(target, restored)], note=note)

    if compare:
        check_beside(planned.files, compared_path, "comparison")
    views = before_and_after if compare else None
    yield from each_file(planned, work, overwrite=overwrite, views=views, on_start=on_start, advice=SMALLER)


def restored_within_memory(
    restorer: PictureRestorer,
    picture: Picture,
    mask: Picture | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> tuple[Picture, str | None]:
    """Restore a picture, in smaller tiles where memory runs out.

    Returns:
        The restored picture, and the note of its `Outcome`.

    Raises:
        MemoryError: the smallest tiles need more memory than there is, too.
    """
    used: PictureRestorer | None = restorer
    while used is not None:
        restored, failure = _within_memory(used, picture, mask, advance)
        if restored is not None:
            note = None
            if restored is picture:
                found = "the mask marks nothing" if mask is not None else "it has nothing of what this model removes"
                note = f"left as it is: {found}"
            elif used.tile != restorer.tile:
                note = f"in tiles of {used.tile}: larger ones need more memory than there is"
            return restored, note
        used = used.smaller(picture)
    raise MemoryError(failure)


def _within_memory(
    restorer: PictureRestorer,
    picture: Picture,
    mask: Picture | None,
    advance: Callable[[int, int], None] | None,
) -> tuple[Picture | None, str]:
    """Return the restored picture, or None and the message of the allocator.

    The exception itself is not returned: its traceback would hold the memory that the next try needs.
    """
    try:
        return restorer(picture, mask, advance), ""
    except Exception as error:
        if not out_of_memory(error):
            raise
        return None, str(error)
