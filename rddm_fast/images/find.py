"""Which images to work on, and where the results go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path

from .picture import READ_SUFFIXES, WRITE_SUFFIXES, ImageError

PathOrText = str | PathLike[str]


def find_images(inputs: PathOrText | Iterable[PathOrText]) -> list[Path]:
    """Find the image files that `inputs` name, each once, in the order named and sorted within a folder.

    Args:
        inputs: a file or folder, or several. A folder stands for all images in it and below it, recognised by their
            suffix (`READ_SUFFIXES`, in upper or lower case), without hidden files. A file is taken whatever its suffix.

    Raises:
        ImageError: an input does not exist, a folder holds no image, or nothing is given.
    """
    given = [inputs] if isinstance(inputs, str | PathLike) else inputs
    found = [image for one in given for image, _ in images_of(one)]
    if not found:
        raise ImageError("no image was given")
    return list(dict.fromkeys(found))


def images_of(
    given: PathOrText, *, leave_out: Path | None = None, unusable: Callable[[Path, ImageError], None] | None = None
) -> list[tuple[Path, Path]]:
    """Find the images of one file or folder, each with its root, the folder that its name is relative to.

    The root is the folder given, or the folder that holds the file given.

    Args:
        given: the file or folder.
        leave_out: a folder whose images are left out if it lies below `given`.
        unusable: called for each folder below `given` that cannot be read. With it what is named like an image and is
            no file, such as a link to nowhere, counts as an image, so that reading it says what it is.

    Raises:
        ImageError: as `find_images` does.
    """
    path = Path(given)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        raise ImageError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error
    if not path.is_dir():
        return [(path, path.parent)]
    told: list[ImageError] = []

    def tell(folder: Path, error: ImageError) -> None:
        told.append(error)
        if unusable is not None:
            unusable(folder, error)

    images = _walked(path, leave_out, tell)
    if unusable is None:
        images = [image for image in images if os.path.isfile(image)]
    if not images and told and unusable is None:
        raise told[0]
    if not images and not told:
        raise ImageError(f"{path} holds no image ({', '.join(sorted(READ_SUFFIXES))})")
    return [(image, path) for image in images]


def images_below(folder: Path) -> list[Path]:
    """The images in a folder and below it, sorted, without hidden files (`._photo.jpg` is not a photo)."""
    return [path for path in _walked(folder, None, lambda folder, error: None) if os.path.isfile(path)]


def _walked(folder: Path, leave_out: Path | None, unusable: Callable[[Path, ImageError], None]) -> list[Path]:
    """List what is named like an image in a folder and below it, sorted; linked folders are not entered."""

    def failed(error: OSError) -> None:
        where = Path(error.filename)
        unusable(where, ImageError(f"{where} cannot be read: {error.strerror}"))

    avoided = None if leave_out is None else os.path.realpath(leave_out)
    found = []
    for here, folders, files in os.walk(folder, onerror=failed):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (avoided is None or os.path.realpath(os.path.join(here, name)) != avoided)
        )
        found += [Path(here, name) for name in files if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in READ_SUFFIXES)


def output_path(source: PathOrText, root: PathOrText, out_dir: PathOrText) -> Path:
    """Where the result of `source` goes: its name relative to `root`, below `out_dir`.

    The suffix is kept if the format can be written without harm; otherwise it becomes .png (GIF has 256 colours).
    Raises ValueError if `source` does not lie below `root`.
    """
    source = Path(source)
    target = Path(out_dir) / source.relative_to(root)
    return target if source.suffix.lower() in WRITE_SUFFIXES else target.with_suffix(".png")


def plan_outputs(found: Sequence[tuple[Path, Path]], out_dir: PathOrText) -> list[tuple[Path, Path]]:
    """Decide where each result goes, before any work is done.

    Args:
        found: (image, root) as `images_of` returns them; an image that appears twice counts once.
        out_dir: the folder below which results keep their names relative to the root.

    Returns:
        (image, where its result goes) for each image.

    Raises:
        ImageError: two results would be written to one file, or a result would overwrite an image.
    """
    plan: dict[Path, Path] = {}
    sources: dict[Path, Path] = {}
    for source, root in found:
        if source in plan:
            continue
        target = output_path(source, root, out_dir)
        if other := sources.get(target):
            raise ImageError(f"{other} and {source} would both be written to {target}; rename one of them")
        plan[source] = target
        sources[target] = source
    # Path.resolve raises for links in a circle.
    originals = {os.path.realpath(source) for source in plan}
    for source, target in plan.items():
        if os.path.realpath(target) in originals:
            raise ImageError(f"the result of {source} would overwrite {target}; choose another output folder")
    return list(plan.items())
