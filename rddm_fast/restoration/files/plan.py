"""Which files are restored, with which masks, and where the results go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...images.find import PathOrText, images_of, named_file, plan_outputs
from ...images.pairs import masks_of
from ...images.picture import ImageError
from ...system.processes import rank
from .outcome import Outcome


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
