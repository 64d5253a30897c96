"""Find pairs of images by name: degraded input, target, and for some tasks a mask.

A source of images is a folder (searched recursively), a pattern such as "rain/*.png", a text list with one path per
line (`.flist`, as the published RDDM code uses them, or `.txt`), or one image. A CSV file names whole pairs.
"""

from __future__ import annotations

import csv
import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ..system.errors import one_line, quoted
from .find import images_below
from .picture import READ_SUFFIXES

LIST_SUFFIXES = frozenset({".flist", ".txt"})

# Words that tell which part of a pair a file is: 3_rain.png and 3_clean.png, rain-001.png and norain-001.png.
ROLE_WORDS = frozenset(
    {"input", "in", "target", "label", "gt", "groundtruth", "truth", "ref", "reference", "orig", "original"}
    | {"rain", "norain", "rainy", "snow", "snowy", "haze", "hazy", "noise", "noisy", "clean", "clear"}
    | {"low", "high", "lq", "hq", "lr", "hr", "dark", "bright", "normal", "blur", "blurry", "blurred"}
    | {"sharp", "shadow", "shadowfree", "free", "degraded", "damaged", "mask"}
)


class DataError(ValueError):
    """A data set cannot be used as it is; the message is one sentence that names the files."""


@dataclass(frozen=True)
class Pair:
    """Files that belong together.

    Attributes:
        input: image file.
        target: image file, or None.
        mask: image file, or None.
        name: the input's name without suffix, relative to the folder given or to the folder that a list's files share.
        origin: the list and line that named the files ("train.csv, line 3"), or "" if no list did.
    """

    input: Path
    target: Path | None
    mask: Path | None
    name: str
    origin: str = ""


def find_pairs(
    input: str | PathLike[str],
    target: str | PathLike[str] | None = None,
    mask: str | PathLike[str] | None = None,
) -> list[Pair]:
    """Find pairs of images, in the input's order.

    Every input must have one target and every target one input; the same holds for masks. They are matched by name,
    never by order. Three rules are tried, and the first that holds for all files without ambiguity decides: the path
    relative to the source without suffix, the file name without suffix, and the file name without words such as rain
    and clean (`ROLE_WORDS`).

    Args:
        input: a source of images (see the module), or a CSV file with the column input and, where there are any,
            target and mask; its paths are relative to the CSV file's folder.
        target: a source of images, or None if there is no ground truth.
        mask: a source of images, or None.

    Raises:
        DataError: a source is missing or empty, a list cannot be read or names a file that does not exist (with the
            line), or files have no partner (with their names).
    """
    if Path(input).suffix.lower() == ".csv":
        if target is not None or mask is not None:
            raise DataError(f"{input} names whole pairs: leave out the other source of targets or masks")
        return list(_pairs_from_csv(Path(input)))

    inputs = _find(input)
    targets = _partners(inputs, target, "target")
    masks = _partners(inputs, mask, "mask")
    return [
        Pair(
            input=one.path,
            target=None if other is None else other.path,
            mask=None if hole is None else hole.path,
            name=one.name,
            origin="; ".join(found.origin for found in (one, other, hole) if found and found.origin),
        )
        for one, other, hole in zip(inputs, targets, masks, strict=True)
    ]


def masks_of(found: Sequence[tuple[Path, Path]], mask: str | PathLike[str]) -> dict[Path, Path]:
    """Return the mask of each image, matched as by `find_pairs`; `found` is a list of `find.images_of`."""
    inputs = [_Found(image, _name(image, root)) for image, root in found]
    masks = _partners(inputs, mask, "mask")
    return {one.path: hole.path for one, hole in zip(inputs, masks, strict=True) if hole is not None}


@dataclass(frozen=True)
class _Found:
    """An image of a source, the name that it is matched by, and the list and line that named it."""

    path: Path
    name: str
    origin: str = ""


def _find(source: str | PathLike[str]) -> list[_Found]:
    path = Path(source)
    if os.path.isdir(path):  # as isfile below, no error where a name is too long or may not be looked up
        found = [_Found(image, _name(image, path)) for image in images_below(path)]
    elif path.suffix.lower() in LIST_SUFFIXES:
        found = _find_in_list(path)
    elif os.path.isfile(path):
        found = [_Found(path, path.stem)]
    elif glob.has_magic(str(source)):
        matches = sorted(map(Path, _matching(str(source))))
        images = [match for match in matches if match.suffix.lower() in READ_SUFFIXES and os.path.isfile(match)]
        found = _named(images, [""] * len(images))
    else:
        raise DataError(f"{quoted(source)} does not exist")
    if not found:
        raise DataError(f"{source} holds no image")
    return found


def _matching(pattern: str) -> set[str]:
    """What a pattern matches. `**` does not enter linked folders, where links in a circle keep Python's for ever."""
    parts = pattern.split(os.sep)
    if "**" not in parts:
        return set(glob.glob(pattern))
    at = parts.index("**")
    head, tail = os.sep.join(parts[:at]), parts[at + 1 :] or ["*"]
    found: set[str] = set()
    for base in glob.glob(head) if head else [os.sep if at else os.curdir]:
        for here, folders, _ in os.walk(base):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found |= _matching(os.path.join(glob.escape(here), *tail))
    return found


def _find_in_list(path: Path) -> list[_Found]:
    images, origins = [], []
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        if entry := line.strip():
            origins.append(f"{path}, line {number}")
            images.append(_existing([path.parent, Path()], entry, origins[-1]))
    return _named(images, origins)


def _pairs_from_csv(path: Path) -> Iterator[Pair]:
    reader = csv.DictReader(_read_text(path).splitlines(), skipinitialspace=True, restkey="more")
    try:
        yield from _pairs_of(reader, path)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num + 1}: not CSV: {one_line(error)}") from error


def _pairs_of(reader: csv.DictReader[str], path: Path) -> Iterator[Pair]:
    columns = [column.strip().lower() for column in reader.fieldnames or []]
    if "input" not in columns:
        raise DataError(f"{path} has no column named input; its columns are: {quoted(', '.join(columns)) or 'none'}")
    reader.fieldnames = columns

    # Check every row before the first pair is returned.
    used = [column for column in ("input", "target", "mask") if column in columns]
    rows = []
    for row in reader:
        origin = f"{path}, line {reader.line_num}"
        if "more" in row:
            raise DataError(f"{origin}: more values than columns; put a path with a comma in double quotes")
        files = {}
        for column in used:
            value = (row[column] or "").strip()
            if not value:
                raise DataError(f"{origin}: no {column} given")
            files[column] = _existing([path.parent], value, origin)
        rows.append((files, origin))
    if not rows:
        raise DataError(f"{path} names no image")
    named = _named([files["input"] for files, _ in rows], [origin for _, origin in rows])
    for (files, origin), found in zip(rows, named, strict=True):
        yield Pair(files["input"], files.get("target"), files.get("mask"), found.name, origin)


def _read_text(path: Path) -> str:
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe may wait for ever
        raise DataError(f"{path} is a folder, a pipe or a device, not a list: save the list in a file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text") from None


def _existing(folders: list[Path], entry: str, origin: str) -> Path:
    """Return the file that an entry of a list names, relative to the first of `folders` that has it."""
    for folder in folders:
        if os.path.isfile(folder / entry):
            return folder / entry
    raise DataError(f"{origin}: {quoted(entry)} does not exist")


def _named(images: list[Path], origins: list[str]) -> list[_Found]:
    """Name images of a list or a pattern relative to the folder that they have in common."""
    if not images:
        return []
    common = Path(os.path.commonpath([os.path.abspath(image.parent) for image in images]))
    return [
        _Found(image, _name(Path(os.path.abspath(image)), common), origin)
        for image, origin in zip(images, origins, strict=True)
    ]


def _name(image: Path, folder: Path) -> str:
    return image.relative_to(folder).with_suffix("").as_posix()


def _stem(found: _Found) -> str:
    return found.path.stem


def _stem_without_role(found: _Found) -> str:
    words = re.split(r"[-_. ]+", found.path.stem)
    return "-".join(word for word in words if word.lower() not in ROLE_WORDS) or found.path.stem


def _partners(inputs: list[_Found], source: str | PathLike[str] | None, what: str) -> Sequence[_Found | None]:
    """Return the partner of each input, by the first rule that keeps names distinct and leaves no file over."""
    if source is None:
        return [None] * len(inputs)
    others = _find(source)
    rules: list[Callable[[_Found], str]] = [lambda found: found.name, _stem, _stem_without_role]
    # If no rule fits, report the one that leaves the fewest files over: it says best what is wrong.
    fewest_left: tuple[list[_Found], list[_Found]] | None = None
    for rule in rules:
        ours, theirs = [rule(found) for found in inputs], {rule(found): found for found in others}
        if len(set(ours)) < len(inputs) or len(theirs) < len(others):
            continue  # ambiguous: two files of a source have one name
        if set(ours) == set(theirs):
            return [theirs[key] for key in ours]
        left = (
            [found for found in inputs if rule(found) not in theirs],
            [found for key, found in theirs.items() if key not in set(ours)],
        )
        if fewest_left is None or sum(map(len, left)) < sum(map(len, fewest_left)):
            fewest_left = left
    if fewest_left is None:
        repeated = _repeated(inputs) or _repeated(others)
        raise DataError(f"inputs and {what}s cannot be matched by name: {repeated}")
    lonely_inputs, lonely_others = fewest_left
    parts = [f"no {what} for {_some(lonely_inputs)}"] if lonely_inputs else []
    parts += [f"no input for {_some(lonely_others)}"] if lonely_others else []
    raise DataError(f"inputs and {what}s are matched by name, but there is " + ", and ".join(parts))


def _repeated(found: list[_Found]) -> str:
    """Return a name that several files have, with those files; "" if all names differ."""
    name, count = Counter(one.name for one in found).most_common(1)[0]
    return f"{_some([one for one in found if one.name == name])} have the same name" if count > 1 else ""


def _some(found: list[_Found]) -> str:
    names = ", ".join(quoted(one.path) + (f" ({one.origin})" if one.origin else "") for one in found[:3])
    return names if len(found) <= 3 else f"{names} and {len(found) - 3} more"
