"""Restore image files: `rddm-fast restore` as a Python function.

restorer = Restorer(load_model("derain"), steps=3)
for outcome in restore_files(restorer, ["photos"], "restored"):
    print(outcome.source, outcome.error or "restored")
"""

from __future__ import annotations

import copy
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..diffusion.residual import ResidualDiffusion
from ..fast.engine import FastSampler
from ..images.find import PathOrText, check_beside, images_of, named_file, plan_outputs
from ..images.pairs import masks_of
from ..images.picture import ImageError, Picture, read_image, sides, write_image
from ..system.errors import one_line
from ..system.files import remove_unfinished
from ..system.memory import out_of_memory
from ..system.processes import rank, share
from .compare import View, before_and_after, compared_path, write_comparison
from .files.failure import why_it_failed
from .files.outcome import Done, Outcome
from .tiles import check_overlap, tiled


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

    Args:
        diffusion: a model with `condition=True`.
        steps: sampling steps; the model's own number if None.
        eta: stochasticity, 0 to 1; the model's own value if None.
        seed: seed of the starting noise. It is the same for every picture, so that a result does not depend on which
            other pictures are restored with it.
        tile: larger pictures are restored in tiles of at most this side in pixels; None never tiles.
        overlap: pixels by which neighbouring tiles overlap at least.
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
        tile: int | None = 512,
        overlap: int = 32,
        dtype: torch.dtype | None = None,
        compile: bool = False,
    ) -> None:
        if not diffusion.condition:
            raise ValueError("this model generates images from noise: to restore, use one that was trained to restore")
        if tile is not None:
            check_overlap(tile, overlap)
        self.needs_mask = diffusion.input_condition
        self.device = diffusion.device
        graphs = compile and self.device.type == "cuda"
        self.sampler = FastSampler(diffusion, steps=steps, eta=eta, dtype=dtype, compile=compile, graphs=graphs)
        self.seed, self.tile, self.overlap = seed, tile, overlap

    def __call__(
        self,
        picture: Picture,
        mask: Picture | None = None,
        advance: Callable[[int, int], None] | None = None,
    ) -> Picture:
        """Restore one picture.

        Args:
            picture: the degraded picture.
            mask: a mask of the same size, for models that take one.
            advance: called after each tile with the number done and the number in all.

        Returns:
            The restored picture, with the input's alpha, bits, profile and resolution.

        Raises:
            ImageError: mask and picture differ in size.
        """
        image = picture.pixels[None].to(self.device)
        masks = []
        if mask is not None:
            if mask.pixels.shape != picture.pixels.shape:
                sizes = sides(mask.pixels), sides(picture.pixels)
                raise ImageError(f"the mask {mask.path} is {sizes[0]} and {picture.path} is {sizes[1]}")
            masks = [mask.pixels[None].to(self.device)]
        generator = torch.Generator(self.device).manual_seed(self.seed)
        if self.tile is None or max(image.shape[-2:]) <= self.tile:
            return picture.with_pixels(self.sampler(image, *masks, generator=generator)[0].cpu())

        # Draw the noise of the whole picture first, so that overlapping tiles see the same noise.
        draws = 1 + sum(step.draws for step in self.sampler.steps)
        noise = [torch.randn(image.shape, generator=generator, device=self.device) for _ in range(draws)]

        def restore(parts: Sequence[Tensor]) -> Tensor:
            return self.sampler(*parts[:-draws], draws=parts[-draws:])

        restored = tiled(restore, [image, *masks, *noise], self.tile, self.overlap, advance)
        return picture.with_pixels(restored[0].cpu())

    def together(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Restore pictures of one size, at once if they are no larger than a tile; the results are those of one by one.

        Args:
            pictures: at least one picture, for a model that takes no mask.
        """
        height, width = pictures[0].pixels.shape[1:]
        if len(pictures) == 1 or (self.tile is not None and max(height, width) > self.tile):
            return [self(picture) for picture in pictures]
        images = torch.stack([picture.pixels for picture in pictures]).to(self.device)
        # The noise of one picture is that of every other.
        generator = torch.Generator(self.device).manual_seed(self.seed)
        draws = 1 + sum(step.draws for step in self.sampler.steps)
        noise = (torch.randn(images[:1].shape, generator=generator, device=self.device) for _ in range(draws))
        restored = self.sampler(images, draws=(one.expand(images.shape) for one in noise)).cpu()
        return [picture.with_pixels(pixels) for picture, pixels in zip(pictures, restored, strict=True)]

    def smaller(self, picture: Picture) -> Restorer | None:
        """Return this restorer with tiles of half the side that this picture takes, or None below `SMALLEST_TILE`."""
        side = max(picture.pixels.shape[1:])
        tile = (side if self.tile is None else min(self.tile, side)) // 2
        if tile < SMALLEST_TILE:
            return None
        other = copy.copy(self)
        other.tile, other.overlap = tile, min(self.overlap, tile // 4)
        return other


@dataclass(frozen=True)
class Plan:
    """The work of one call: (source, target) per file, the masks by source, and the inputs that cannot be used."""

    files: list[tuple[Path, Path]]
    masks: dict[Path, Path]
    failures: list[Outcome]


def plan(
    inputs: Sequence[PathOrText],
    output: PathOrText,
    mask: PathOrText | None = None,
    *,
    needs_mask: bool = False,
    on_left_out: Callable[[Sequence[Path]], None] | None = None,
) -> Plan:
    """Decide what to restore and where the results go, before any work is done.

    An input that is missing or holds no image, and a folder that cannot be read, becomes a failure; the others are
    still planned. An output folder inside an input is left out of it, as its pictures are results.

    Args:
        inputs: image files and folders.
        output: the folder for the results, or the name of the one input's result, such as restored.png.
        mask: the mask's file, or the folder of masks matched by name.
        needs_mask: whether the model takes a mask.
        on_left_out: as in `restore_files`.

    Raises:
        ImageError: results would overwrite each other or an input, or `output` is a file that is not the one result.
        ValueError: the model needs a mask and none is given, or the reverse; a mask has no image or an image no mask.
    """
    file = named_file(inputs, output)
    found: list[list[tuple[Path, Path]]] = []
    failures: list[Outcome] = []
    left_out: list[Path] = []

    def failed(path: Path, error: ImageError) -> None:
        failures.append(Outcome(path, error=str(error), cause=error))

    for given in inputs:
        try:
            found.append(images_of(given, leave_out=Path(output), unusable=failed, no_image=left_out.append))
        except ImageError as error:
            failed(Path(given), error)
    if needs_mask and mask is None:
        raise ValueError("this model was trained with a mask: pass mask=, its file or a folder of masks")
    if mask is not None and not needs_mask:
        raise ValueError("this model takes no mask: leave mask= out")
    files = plan_outputs([image for images in found for image in images], output, file)
    masks: dict[Path, Path] = {}
    if mask is not None:
        for images in found:
            masks.update(masks_of(images, mask))
    if left_out and on_left_out is not None and rank() == 0:
        on_left_out(list(dict.fromkeys(left_out)))
    return Plan(files, masks, failures)


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
        write_image(target, restored)
        return Done(note=note)

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
            smaller = used is not restorer
            note = f"in tiles of {used.tile}: larger ones need more memory than there is" if smaller else None
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


Views = Callable[[Path, Path], list[View]]


def each_file(
    planned: Plan,
    work: Callable[[Picture, Picture | None, Path], Done],
    *,
    overwrite: bool,
    views: Views | None = None,
    on_start: Callable[[int, int, Path], None] | None,
    advice: str,
) -> Iterator[Outcome]:
    """Do `work` for each planned file of this process that is not done; yields one Outcome per file.

    Whatever is raised for a file is its outcome, and the next one follows.

    Args:
        planned: from `plan`.
        work: takes the picture, its mask and the path of its result; writes the result, and tells of it.
        overwrite: also work on files whose result exists.
        views: takes a file and its result, and returns what is compared; None for no comparison.
        on_start: as in `restore_files`.
        advice: what to do about a picture that needs too much memory.
    """
    if rank() == 0:
        yield from planned.failures
    files = share(planned.files)
    remove_unfinished(target for _, target in files)
    for number, (source, target) in enumerate(files):
        if on_start is not None:
            on_start(number, len(files), source)
        try:
            outcome = _outcome(source, target, planned.masks.get(source), work, overwrite)
            beside = compared_path(target)
            if views is not None and not (outcome.skipped and _is_result(beside)):
                write_comparison(beside, views(source, target))
            outcome = replace(outcome, comparison=beside if views is not None else None)
        except Exception as error:
            outcome = Outcome(source, error=why_it_failed(source, error, advice), cause=error)
        yield outcome


def _outcome(
    source: Path,
    target: Path,
    mask: Path | None,
    work: Callable[[Picture, Picture | None, Path], Done],
    overwrite: bool,
) -> Outcome:
    if _is_result(target) and not overwrite:
        return Outcome(source, target, skipped=True)
    started = time.perf_counter()
    masked = None if mask is None else read_image(mask)
    done = work(read_image(source), masked, target)
    return Outcome(source, target, seconds=time.perf_counter() - started, scores=done.scores, note=done.note)


def _is_result(target: Path) -> bool:
    """Return whether a file is in a result's place; an empty one is none, as results appear whole.

    Raises:
        ImageError: something is there that is no file, or it cannot be looked at.
    """
    try:
        found = os.stat(target)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise ImageError(f"{target} cannot be written: {reason}") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "folder" if stat.S_ISDIR(found.st_mode) else "pipe, a socket or a device"
        raise ImageError(
            f"{target} is a {kind}, where the result should be written: remove it or choose another output"
        )
    return found.st_size > 0
