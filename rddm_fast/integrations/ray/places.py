"""Folders and files by their address: a path, or a URL that fsspec knows, such as s3://bucket/folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from ...images.picture import ImageError, Picture, decoded, encoded, read_image, write_image
from ...system.errors import one_line
from ...system.extras import require

LOCAL = ("file", "local")
WHOLE = (*LOCAL, "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""Where a result appears whole or not at all: on a disk by renaming it, in these stores by their own promise."""


@dataclass(frozen=True)
class Place:
    """A folder or a file.

    Attributes:
        address: its URL, or its absolute path.
        scheme: the scheme of its URL; "file" for a path.
        path: its path as its file system names it.
    """

    address: str
    scheme: str
    path: str

    @classmethod
    def of(cls, address: str | PathLike[str]) -> Place:
        """Return the place of a path or a URL.

        Raises:
            ValueError: fsspec knows no such URL.
            ImportError: the package that reads it is not installed.
        """
        text = os.fspath(address)
        is_url = "://" in text
        scheme = text.partition("://")[0] if is_url else "file"
        if is_url and "::" in text:
            raise ValueError(f"{text} is an address in another: name a folder of a disk or a store")
        try:
            _, path = _opened(text)
        except ImportError as error:
            raise ImportError(f"{text} cannot be read: {one_line(error)}", name=error.name) from error
        except ValueError as error:
            raise ValueError(f"{text} is no address that fsspec knows: {one_line(error)}") from error
        path = path.rstrip("/") or "/"
        return cls(text.rstrip("/") if is_url else path, "file" if scheme in LOCAL else scheme, path)

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, name: str) -> Place:
        """Return what has this name, or relative path, in this folder; the folder itself for an empty one."""
        if not name:
            return self
        return Place(f"{self.address.rstrip('/')}/{name}", self.scheme, f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def local(self) -> bool:
        return self.scheme == "file"

    @property
    def files(self) -> Any:
        """The file system, as fsspec has it."""
        return _opened(self.address)[0]

    def holds(self, other: Place) -> bool:
        """Return whether the other place is this one or lies below it."""
        return self.scheme == other.scheme and f"{other.path}/".startswith(f"{self.path.rstrip('/')}/")

    def info(self) -> dict[str, Any] | None:
        """Return what is there, by fsspec's names ("type", "size"); None if nothing is.

        Raises:
            ImageError: it cannot be looked at.
        """
        try:
            return self.files.info(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # each file system has errors of its own
            raise ImageError(f"{self} cannot be read: {_reason(error)}") from error

    def entries(self) -> dict[str, dict[str, Any]]:
        """Return what a folder holds, hidden files and links to folders aside: name -> as `info`, sorted by name.

        Raises:
            ImageError: it cannot be listed.
        """
        try:
            listed = self.files.ls(self.path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except Exception as error:
            raise ImageError(f"{self} cannot be read: {_reason(error)}") from error
        found = {}
        for info in listed:
            path = info["name"].rstrip("/")
            name = path.rpartition("/")[2]
            # An object store lists a folder's own marker among its files.
            if path == self.path or name.startswith(".") or (info.get("islink") and os.path.isdir(path)):
                continue
            found[name] = info
        return dict(sorted(found.items()))

    def walk(
        self, leave_out: Place, unusable: Callable[[Place, ImageError], None]
    ) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
        """Yield each folder from here downwards: its path relative to here, and its files as `entries` has them.

        One folder's listing at a time is in memory.

        Args:
            leave_out: a folder that is not entered.
            unusable: called for each folder that cannot be listed.
        """
        ahead = [""]
        while ahead:
            relative = ahead.pop()
            folder = self / relative
            try:
                entries = folder.entries()
            except ImageError as error:
                unusable(folder, error)
                continue
            folders = [name for name, info in entries.items() if info["type"] == "directory"]
            yield relative, {name: info for name, info in entries.items() if info["type"] != "directory"}
            below = [f"{relative}/{name}" if relative else name for name in reversed(folders)]
            ahead += [path for path in below if not leave_out.holds(self / path)]

    def read(self) -> Picture:
        """Read a picture, as `read_image` does.

        Raises:
            ImageError: as there, in the words of this address.
        """
        if self.local:
            return read_image(self.path)
        try:
            data = self.files.cat_file(self.path)
        except FileNotFoundError:
            raise ImageError(f"{self} does not exist") from None
        except Exception as error:
            raise ImageError(f"{self} cannot be read: {_reason(error)}") from error
        with _named(self):
            return decoded(data, Path(self.path))

    def write(self, picture: Picture) -> None:
        """Write a picture whole or not at all, as `write_image` does.

        Raises:
            ImageError: as there, in the words of this address.
        """
        if self.local:
            return write_image(self.path, picture)
        with _named(self):
            data = encoded(picture, Path(self.path))
        try:
            self.files.pipe_file(self.path, data)
        except Exception as error:
            raise ImageError(f"{self} cannot be written: {_reason(error)}") from error
        return None


class _named:
    """Errors about pictures name the address in the place of its path."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ImageError):
            raise ImageError(str(error).replace(self.place.path, str(self.place), 1)) from error


def _opened(address: str) -> tuple[Any, str]:
    """Return the file system of an address and its path there. No listing is kept: a bucket's would fill the memory."""
    return require("fsspec.core", "ray").url_to_fs(address, use_listings_cache=False)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(error)
