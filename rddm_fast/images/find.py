"""Which images to work on, and where the results go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path

from .formats import WRITE_SUFFIXES, is_picture, left_out_lines, read_suffixes
from .picture import ImageError

PathOrText = str | PathLike[str]


def find_images(inputs: PathOrText | Iterable[PathOrText]) -> list[Path]:
    """Find the image files that `inputs` name, each once, in the order named and sorted within a folder.

    Args:
        inputs: a file or folder, or several. A folder stands for all images in it and below it, recognised by their
            suffix (`formats.read_suffixes`, in upper or lower case), without hidden files. A file is taken whatever
            its suffix.

    Raises:
        ImageError: an input does not exist, a folder holds no image, or nothing is given.
    """
    given = [inputs] if isinstance(inputs, str | PathLike) else inputs
    found = [image for one in given for image, _ in images_of(one)]
    if not found:
        raise ImageError("no image was given")
    return list(dict.fromkeys(found))


def images_of(
    given: PathOrText,
    *,
    leave_out: Path | None = None,
    unusable: Callable[[Path, ImageError], None] | None = None,
    no_image: Callable[[Path], None] | None = None,
) -> list[tuple[Path, Path]]:
    """Find the images of one file or folder, each with its root, the folder that its name is relative to.

    The root is the folder given, or the folder that holds the file given.

    Args:
        given: the file or folder.
        leave_out: a folder whose images are left out if it lies below `given`.
        unusable: called for each folder below `given` that cannot be read. With it what is named like an image and is
            no file, such as a link to nowhere, counts as an image, so that reading it says what it is.
        no_image: called for each file below `given` that its suffix excludes, hidden ones aside, in sorted order.

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

    others: list[Path] = []
    images = _walked(path, leave_out, tell, others.append)
    if unusable is None:
        images = [image for image in images if os.path.isfile(image)]
    if not images and told and unusable is None:
        raise told[0]
    if not images and not told:
        pictures = [other for other in others if is_picture(other)]
        told_of = f"; {'; '.join(left_out_lines(pictures))}" if pictures else ""
        raise ImageError(f"{path} holds no image ({', '.join(sorted(read_suffixes()))}){told_of}")
    for other in others if no_image is not None else ():
        no_image(other)  # type: ignore[misc]
    return [(image, path) for image in images]


def images_below(folder: Path) -> list[Path]:
    """The images in a folder and below it, sorted, without hidden files (`._photo.jpg` is not a photo)."""
    return [path for path in _walked(folder, None, lambda folder, error: None) if os.path.isfile(path)]


def _walked(
    folder: Path,
    leave_out: Path | None,
    unusable: Callable[[Path, ImageError], None],
    no_image: Callable[[Path], object] = lambda path: None,
) -> list[Path]:
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
    suffixes, images = read_suffixes(), []
    for path in sorted(found):
        if path.suffix.lower() in suffixes:
            images.append(path)
        else:
            no_image(path)
    return images


def output_path(source: PathOrText, root: PathOrText, out_dir: PathOrText) -> Path:
    """Where the result of `source` goes: its name relative to `root`, below `out_dir`.

    The suffix is kept if the format can be written without harm; otherwise it becomes .png (GIF has 256 colours).
    Raises ValueError if `source` does not lie below `root`.
    """
    source = Path(source)
    target = Path(out_dir) / source.relative_to(root)
    return target if source.suffix.lower() in WRITE_SUFFIXES else target.with_suffix(".png")


def named_file(inputs: Sequence[PathOrText], output: PathOrText) -> Path | None:
    """Return `output` if it is the name of the one input's result, such as restored.png; None if it is a folder.

    It names a result if it ends as a picture's name does, and no folder of that name is there.

    Raises:
        ImageError: it names one result and there are several inputs or a folder, a format that is not written, or a
            file that is no picture.
    """
    path = Path(output)
    if os.path.isdir(path):
        return None
    if not is_picture(path):
        if os.path.isfile(path):
            raise ImageError(
                f"output is {path}, a file: name a folder for the results, or one result, such as restored.png"
            )
        return None
    if path.suffix.lower() not in WRITE_SUFFIXES:
        raise ImageError(f"output is {path}, which cannot be written: use one of {', '.join(sorted(WRITE_SUFFIXES))}")
    if len(inputs) != 1 or os.path.isdir(inputs[0]):
        given = f"{len(inputs)} inputs" if len(inputs) != 1 else f"the folder {inputs[0]}"
        raise ImageError(
            f"output is {path}, the name of one result and not of a folder for those of {given}: name a folder"
        )
    return path


def check_beside(plan: Sequence[tuple[Path, Path]], beside: Callable[[Path], Path], what: str) -> None:
    """Check that a second file beside each result is written over no input and no other result.

    Args:
        plan: from `plan_outputs`.
        beside: takes the path of a result, and returns that of the second file; results differ, and so must these.
        what: what it is, for the error, such as "comparison".

    Raises:
        ImageError: it would be.
    """
    taken = {os.path.realpath(path): source for source, target in plan for path in (source, target)}
    for source, target in plan:
        path = beside(target)
        if other := taken.get(os.path.realpath(path)):
            raise ImageError(
                f"the {what} of {source} would be written to {path}, which belongs to {other}: rename one of them"
            )


def plan_outputs(
    found: Sequence[tuple[Path, Path]], out_dir: PathOrText, file: Path | None = None
) -> list[tuple[Path, Path]]:
    """Decide where each result goes, before any work is done.

    Args:
        found: (image, root) as `images_of` returns them; an image that appears twice counts once.
        out_dir: the folder below which results keep their names relative to the root.
        file: where the result of the only image goes instead.

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
        target = output_path(source, root, out_dir) if file is None else file
        if other := sources.get(target):
            raise ImageError(f"{other} and {source} would both be written to {target}; rename one of them")
        plan[source] = target
        sources[target] = source
    # Path.resolve raises for links in a circle.
    originals = {os.path.realpath(source) for source in plan}
    for source, target in plan.items():
        if os.path.realpath(target) in originals:
            if file is not None:
                raise ImageError(f"output is {file}, the image that it would be the result of: choose another name")
            raise ImageError(f"the result of {source} would overwrite {target}; choose another output folder")
    return list(plan.items())
