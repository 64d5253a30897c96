"""Which files are restored, and where their results go: a folder's at a time, as a store may hold any number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...images.find import output_path
from ...images.formats import is_picture, left_out_lines, read_suffixes, suffix_of
from ...images.picture import ImageError
from ...restoration.files.outcome import Outcome
from ...system.files import remove_unfinished
from .places import WHOLE, Place


@dataclass(frozen=True)
class Job:
    """A file and where its result goes, as addresses."""

    source: str
    target: str


@dataclass
class Planned:
    """What is to be done about a folder: its jobs, the outcomes that need none, and the files left out."""

    jobs: list[Job] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def check_apart(source: Place, target: Place) -> None:
    """Check that results can be written whole, and over no input.

    Raises:
        ValueError: they cannot.
    """
    if target.scheme not in WHOLE:
        stores = ", ".join(f"{scheme}://" for scheme in ("file", "s3", "gs", "az"))
        raise ValueError(f"output is {target}, where a result could appear in part: use one of {stores}")
    if target.holds(source):
        raise ValueError(f"output is {target}, which holds {source}: a result could overwrite an image; use another")
    if is_picture(target.name) and (info := target.info() or {"type": ""})["type"] != "directory":
        there = "a file" if info["type"] else "the name of one result"
        raise ValueError(f"output is {target}, {there}: on a cluster, name a folder for the results")


def planned(source: Place, target: Place, *, overwrite: bool) -> Iterator[Planned]:
    """Decide about each folder below the source, and about the source itself if it is a file.

    Files whose result exists are skipped unless `overwrite` is true; an empty file is no result. Of two files with one
    result, such as a.gif and a.png, the second fails. What cannot be used becomes a failure, and the rest is planned.
    """
    info = source.info()
    if info is None:
        yield Planned(outcomes=[_failed(source, ImageError(f"{source} does not exist"))])
        return
    if info["type"] != "directory":
        yield _folder({source.name: source}, target, "", overwrite)
        return

    failures: list[Outcome] = []
    images, others = False, []
    for relative, files in source.walk(target, lambda place, error: failures.append(_failed(place, error))):
        suffixes, folder = read_suffixes(), source / relative
        pictures = {name: folder / name for name in files if suffix_of(name) in suffixes}
        plan = _folder(pictures, target, relative, overwrite)
        plan.left_out = [str(folder / name) for name in files if name not in pictures]
        images = images or bool(pictures)
        others += [] if images else [name for name in plan.left_out if is_picture(name)]
        plan.outcomes += failures
        failures.clear()
        yield plan
    if not images and not failures:
        told_of = f"; {'; '.join(left_out_lines(others))}" if others else ""
        sentence = f"{source} holds no image ({', '.join(sorted(read_suffixes()))}){told_of}"
        failures.append(_failed(source, ImageError(sentence)))
    yield Planned(outcomes=failures)


def _folder(pictures: dict[str, Place], target: Place, relative: str, overwrite: bool) -> Planned:
    """Decide about the pictures of one folder, by name."""
    results = {name: target / output_path(Path(relative, name), "", "").as_posix() for name in pictures}
    plan, taken = Planned(), dict[str, str]()
    try:
        there = (target / relative).entries()
    except ImageError as error:
        plan.outcomes += [_failed(picture, error) for picture in pictures.values()]
        return plan
    if target.local:
        remove_unfinished(Path(result.path) for result in results.values())
    for name, picture in pictures.items():
        result = results[name]
        found = there.get(result.name)
        if other := taken.get(result.name):
            sentence = f"{other} and {picture} would both be written to {result}; rename one of them"
            plan.outcomes.append(_failed(picture, ImageError(sentence)))
            continue
        taken[result.name] = str(picture)
        if found is not None and found["type"] == "directory":
            sentence = f"{result} is a folder, where the result should be written: remove it or choose another output"
            plan.outcomes.append(_failed(picture, ImageError(sentence)))
        elif found is not None and found["size"] and not overwrite:
            plan.outcomes.append(Outcome(str(picture), str(result), skipped=True))
        else:
            plan.jobs.append(Job(str(picture), str(result)))
    return plan


def _failed(place: Place, error: ImageError) -> Outcome:
    return Outcome(str(place), error=str(error), cause=error)
