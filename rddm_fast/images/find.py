"""Which images to work on, and where the results go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def images_of(given: PathOrText) -> list[tuple[Path, Path]]:
    """Find the images of one file or folder, each with its root, the folder that its name is relative to.

    The root is the folder given, or the folder that holds the file given. Raises ImageError as `find_images` does.
    """
    path = Path(given)
    if path.is_dir():
        images = images_below(path)
        if not images:
            raise ImageError(f"{path} holds no image ({', '.join(sorted(READ_SUFFIXES))})")
        return [(image, path) for image in images]
    if path.exists():
        return [(path, path.parent)]
    raise ImageError(f"{path} does not exist")


def images_below(folder: Path) -> list[Path]:
    """The images in a folder and below it, sorted, without hidden files (`._photo.jpg` is not a photo)."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in READ_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


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
    originals = {source.resolve() for source in plan}
    for source, target in plan.items():
        if target.resolve() in originals:
            raise ImageError(f"the result of {source} would overwrite {target}; choose another output folder")
    return list(plan.items())
