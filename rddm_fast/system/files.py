"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from os import PathLike
from pathlib import Path

from .portable.locks import try_lock

LONGEST = 255
"""The most bytes that a file's name can have on common file systems."""

WINDOWS = os.name == "nt"
"""Windows neither renames nor removes an open file, and has no descriptors of folders."""

_UNFINISHED = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}(?P<suffix>(\.[^.]+)?)", re.DOTALL)


def write_whole(path: str | PathLike[str], write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    A reader sees the old file or the new one, never a part of it, even if the machine dies meanwhile. If `write`
    fails, the temporary file is removed and the old file is untouched.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{_shortened(path)}.", suffix=path.suffix)
    temporary = Path(name)
    try:
        try:
            if not WINDOWS:  # there an open file cannot be removed anyway
                _locked(handle)
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            # mkstemp makes files private; an ordinary file has the permissions the user's umask leaves.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
        finally:
            if WINDOWS:
                os.close(handle)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        if not WINDOWS:  # the lock is held until the file has its name
            os.close(handle)
    if not WINDOWS:
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Bring a folder itself to disk: only then does a rename in it survive a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_unfinished(paths: Iterable[Path]) -> None:
    """Remove the temporary files that killed writers of `paths` have left, as `remove_unfinished_in` does."""
    names: dict[Path, set[tuple[str, str]]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add((_shortened(path), path.suffix))
    for folder, expected in names.items():
        remove_unfinished_in(folder, lambda name, suffix, expected=expected: (name, suffix) in expected)  # type: ignore[misc]


def remove_unfinished_in(folder: Path, wanted: Callable[[str, str], bool]) -> None:
    """Remove the temporary files in a folder that killed writers of `wanted` names have left.

    One whose writer still runs is kept: writers lock theirs, and the system unlocks what a killed one held.

    Args:
        folder: the folder; it need not exist.
        wanted: takes the name that a file was to have, shortened if it is very long, and its suffix.
    """
    try:
        entries = [entry.name for entry in os.scandir(folder) if entry.name.startswith(".")]
    except OSError:
        return  # no such folder yet, or one that nothing can be written to
    for entry in entries:
        found = _UNFINISHED.fullmatch(entry)
        if found is not None and wanted(found["name"], found["suffix"]):
            _remove_if_left(folder / entry)


def _remove_if_left(path: Path) -> None:
    if WINDOWS:
        with suppress(OSError):  # its writer still has it open, or it may not be removed
            path.unlink(missing_ok=True)
        return
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return  # gone meanwhile, or not this user's
    try:
        if _locked(handle):
            path.unlink(missing_ok=True)
    except OSError:
        pass  # it may not be removed: it does no harm
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    """Lock an open file; return whether this worked. Some file systems have no locks."""
    try:
        return try_lock(handle)
    except OSError:
        return False


def _shortened(path: Path) -> str:
    """Return the part of a name that leaves room for what a temporary file's name adds."""
    name, added = path.name, len("..") + 8 + len(os.fsencode(path.suffix))
    while len(os.fsencode(name)) > max(LONGEST - added, 0):
        name = name[:-1]
    return name


def write_text_whole(path: str | PathLike[str], text: str) -> None:
    r"""Write `text` in UTF-8, as `write_whole` does; a byte of a file's name that is no text is written as \udce9."""
    write_whole(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8", errors="backslashreplace"))
