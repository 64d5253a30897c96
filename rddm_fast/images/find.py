"""Which images to restore, and where the results go."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from .picture import READ_SUFFIXES, WRITE_SUFFIXES, ImageError


def find_images(inputs: str | PathLike[str] | Iterable[str | PathLike[str]]) -> list[Path]:
    """The image files that `inputs` name, each once, in the order named and sorted within a folder.

    inputs: a file or folder, or several. A folder stands for all images in it and below it, by suffix in
        either case (`READ_SUFFIXES`), leaving out hidden files. A file is taken whatever its suffix.

    Raises ImageError for an input that does not exist, a folder without an image, and when nothing is given.
    """
    return list(dict.fromkeys(path for path, _ in _with_roots(inputs)))


def output_path(source: str | PathLike[str], root: str | PathLike[str], out_dir: str | PathLike[str]) -> Path:
    """Where the result of `source` goes: its name relative to `root`, below `out_dir`.

    The suffix is kept where the format can be written without harm, else it becomes .png (GIF has 256
    colours). Raises ValueError when `source` does not lie below `root`.
    """
    source = Path(source)
    target = Path(out_dir) / source.relative_to(root)
    return target if source.suffix.lower() in WRITE_SUFFIXES else target.with_suffix(".png")


def plan_outputs(
    inputs: str | PathLike[str] | Iterable[str | PathLike[str]], out_dir: str | PathLike[str]
) -> list[tuple[Path, Path]]:
    """(image, where its result goes) for every image that `inputs` name, checked before any work is done.

    Names are kept relative to the folder given, or for a file to the folder it is in.

    Raises ImageError as `find_images` does, when two images would be written to one file, and when an image
    would be overwritten.
    """
    plan: dict[Path, Path] = {}
    sources: dict[Path, Path] = {}
    for source, root in _with_roots(inputs):
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


def images_below(folder: Path) -> list[Path]:
    """The images in a folder and below it, sorted, without hidden files (`._photo.jpg` is not a photo)."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in READ_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _with_roots(inputs: str | PathLike[str] | Iterable[str | PathLike[str]]) -> list[tuple[Path, Path]]:
    """Every image with the folder that its name is relative to."""
    found = []
    for given in [inputs] if isinstance(inputs, str | PathLike) else inputs:
        path = Path(given)
        if path.is_dir():
            images = images_below(path)
            if not images:
                raise ImageError(f"{path} holds no image ({', '.join(sorted(READ_SUFFIXES))})")
            found += [(image, path) for image in images]
        elif path.exists():
            found.append((path, path.parent))
        else:
            raise ImageError(f"{path} does not exist")
    if not found:
        raise ImageError("no image was given")
    return found
