"""What a run is trained on, as its checkpoints keep it, so that training does not resume on other data unnoticed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ...images.datasets import PairedImages, PhotoPatches
from ...images.prepared import Prepared
from ...inverse.cold.recipes import PREFIX
from ..settings import DataSettings

SOURCES = ("photos", "input", "target", "mask")
"""The settings that name files. What they hold is compared, not where it is."""


def fingerprint(data: DataSettings, dataset: Dataset[Any]) -> dict[str, Any]:
    """The settings and the files of the data, as plain values.

    A file counts by its name below the folder that all share and by its size: contents are not read, because a data
    set may be large.
    """
    settings = {name: value for name, value in asdict(data).items() if name not in SOURCES}
    if not data.photos and not data.degradation.startswith(PREFIX):
        del settings["degradation"]  # pairs are degraded already
    files = {name: {"count": len(paths), "digest": _digest(paths)} for name, paths in _files(data, dataset).items()}
    return {"settings": settings, "files": files}


def difference(saved: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What a checkpoint's data has other than the data of now, as in "was trained with ..."; None if nothing."""
    theirs, ours = saved["settings"], now["settings"]
    for name in theirs.keys() & ours.keys():
        if theirs[name] != ours[name]:
            return f"with data.{name}={theirs[name]}, not {ours[name]}"
    for name in SOURCES:
        before, after = saved["files"].get(name), now["files"].get(name)
        if before == after:
            continue
        if before is None or after is None:
            return f"{'without' if before is None else 'with'} data.{name}"
        if before["count"] != after["count"]:
            return f"on {before['count']} files of data.{name}, which now has {after['count']}"
        return f"on other files of data.{name} (their names or sizes differ)"
    return None


def _files(data: DataSettings, dataset: Dataset[Any]) -> dict[str, list[Path]]:
    items = dataset.items if isinstance(dataset, Prepared) else dataset
    if isinstance(items, PhotoPatches):
        return {"photos": items.paths}
    if not isinstance(items, PairedImages):
        return {}
    first = "input" if data.input else "target"  # images alone, to generate, are read as inputs
    found: dict[str, list[Path]] = {first: [pair.input for pair in items.pairs]}
    for name in ("target", "mask"):
        if paths := [path for pair in items.pairs if (path := getattr(pair, name)) is not None]:
            found[name] = paths
    return found


def _digest(paths: Sequence[Path]) -> str:
    shared = os.path.commonpath([path.absolute().parent for path in paths])
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size if path.exists() else None  # reading it will name a missing file
        digest.update(os.fsencode(os.path.relpath(path.absolute(), shared)) + f"\0{size}\n".encode())
    return digest.hexdigest()
