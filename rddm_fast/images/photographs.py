"""Real photographs to train on and to measure on, found in packages that a machine may already have.

The photographs are not part of rddm_fast. They come with scikit-image and scikit-learn, and with Debian packages of
desktop wallpapers. Those ship in many sizes, and many are drawings: `SOURCES` names one file per photograph to train
on, `HELD_ASIDE` those that no training may see; the demo's photographs are smaller copies of some of them. The lists
are fixed, so that a training run can be repeated on another machine.

`python -m rddm_fast.images.photographs FOLDER` gathers the first as PNG files, scaled down, and with --held-aside the
second.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ..system.extras import require


@dataclass(frozen=True)
class Source:
    """A package and its photographs: `pattern.format(name)` is a file, relative to `folder`."""

    install: str
    folder: str
    pattern: str
    names: tuple[str, ...]


SOURCES: dict[str, Source] = {
    "plasma-workspace-wallpapers": Source(
        install="apt install plasma-workspace-wallpapers",
        folder="/usr/share/wallpapers",
        pattern="{}/contents/images/2560x1600.jpg",
        names=(
            *("BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow", "FallenLeaf"),
            *("Grey", "Kite", "OneStandsOut", "Path", "summer_1am"),
        ),
    ),
    "mate-backgrounds": Source(
        install="apt install mate-backgrounds",
        folder="/usr/share/backgrounds/mate",
        pattern="nature/{}.jpg",
        names=(
            *("Aqua", "Blinds", "Dune", "FreshFlower", "Garden", "GreenMeadow", "LadyBird"),
            *("RainDrops", "Storm", "TwoWings", "Wood", "YellowFlower"),
        ),
    ),
    "lomiri-wallpapers-16.04": Source(
        install="apt install lomiri-wallpapers-16.04",
        folder="/usr/share/backgrounds",
        pattern="{}.jpg",
        names=(
            *("Picture_0B_by_freespace", "Picture_1A_by_freespace", "Wine_by_Jakkub_Mede", "free_by_Peter_Nerlich"),
            *("aitzgorri_by_Aitzol_Berasategi", "greentock_by_Peter_Nerlich", "seeding_by_Clements_Engelhardt"),
            "sunset_by_Aitzol_Berasategi",
        ),
    ),
    "scikit-image": Source(
        install="pip install scikit-image",
        folder="skimage",  # a Python package: wherever it is installed
        pattern="data/{}",
        names=(
            *("brick.png", "coins.png", "grass.png", "gravel.png", "ihc.png", "moon.png"),
            *("motorcycle_left.png", "page.png", "retina.jpg", "text.png"),
        ),
    ),
}

HELD_ASIDE: dict[str, Source] = {
    "scikit-image": Source(
        install="pip install scikit-image",
        folder="skimage",
        pattern="data/{}",
        names=("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "rocket.jpg"),
    ),
    "scikit-learn": Source(
        install="pip install scikit-learn",
        folder="sklearn",
        pattern="datasets/images/{}.jpg",
        names=("china", "flower"),
    ),
    "lomiri-wallpapers-16.04": Source(
        install="apt install lomiri-wallpapers-16.04",
        folder="/usr/share/backgrounds",
        pattern="{}.jpg",
        names=(
            *("Bridge_by_Sander_Klootwijk", "Dragonfly_by_Bolly", "friends_by_Aitzol_Berasategi"),
            *("life_by_Aitzol_Berasategi", "picosdeeuropa_by_Aitzol_Berasategi"),
        ),
    ),
    "lomiri-wallpapers-20.04": Source(
        install="apt install lomiri-wallpapers-20.04",
        folder="/usr/share/backgrounds",
        pattern="{}.jpg",
        names=("Kleiber_by_Lukas_Baubkus",),
    ),
}


def find_training_photographs(roots: Mapping[str, str | PathLike[str]] | None = None) -> list[Path]:
    """Find the photographs of `SOURCES` that are on this machine, always in the same order.

    A package that is not installed is skipped.

    Args:
        roots: the folders of packages that were unpacked elsewhere, by their names in `SOURCES`; for
            "scikit-image" the folder `skimage`. The others are looked for where they install.

    Raises:
        FileNotFoundError: no package is installed, or one lacks a photograph. It is then another version of the
            package, and the training set would differ.
        ValueError: an unknown name in `roots`.
    """
    return [path for photographs in _found(roots).values() for path in photographs.values()]


def gather(
    folder: str | PathLike[str],
    scale: float = 4.0,
    shortest: int = 300,
    roots: Mapping[str, str | PathLike[str]] | None = None,
    sources: Mapping[str, Source] = SOURCES,
) -> list[Path]:
    """Write the photographs of `sources` to `folder` as 8-bit RGB PNG files named package-photograph.png.

    Each is scaled down by `scale` with a Lanczos filter, but not below `shortest` pixels on its shorter side,
    and never enlarged. Returns the files written. Raises what `find_training_photographs` raises.
    """
    if scale < 1:
        raise ValueError(f"scale must be at least 1 (photographs are only scaled down), got {scale:g}")
    image_module = require("PIL.Image", "cli")
    folder = Path(folder)
    found = _found(roots, sources)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for package, photographs in found.items():
        for name, path in photographs.items():
            with image_module.open(path) as opened:
                photograph = opened.convert("RGB")
            shorter = min(photograph.size)
            factor = min(1.0, max(1 / scale, shortest / shorter))
            size = tuple(round(side * factor) for side in photograph.size)
            written.append(folder / f"{package}-{Path(name).stem}.png")
            photograph.resize(size, image_module.Resampling.LANCZOS).save(written[-1])
    return written


def _found(
    roots: Mapping[str, str | PathLike[str]] | None, sources: Mapping[str, Source] = SOURCES
) -> dict[str, dict[str, Path]]:
    """Map each installed package to its photographs: package -> name -> file."""
    roots = roots or {}
    if unknown := sorted(set(roots) - set(sources)):
        raise ValueError(f"unknown package {unknown[0]!r} in roots; the packages are {', '.join(sources)}")

    found = {}
    for package, source in sources.items():
        root = Path(roots[package]) if package in roots else _installed_folder(source.folder)
        if root is None or not root.is_dir():
            continue
        photographs = {name: root / source.pattern.format(name) for name in source.names}
        present = [path.is_file() for path in photographs.values()]
        if not any(present):
            continue
        if not all(present):
            missing = list(photographs.values())[present.index(False)]
            raise FileNotFoundError(f"{missing} is missing: another version of {package} is installed")
        found[package] = photographs
    if not found:
        commands = "; ".join(source.install for source in sources.values())
        raise FileNotFoundError(f"none of the photographs is here: install some by one of these: {commands}")
    return found


def _installed_folder(folder: str) -> Path | None:
    if folder.startswith("/"):
        return Path(folder)
    spec = importlib.util.find_spec(folder)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rddm_fast.images.photographs",
        description="Gather real photographs to train or to measure on, scaled down, as PNG.",
    )
    parser.add_argument("folder", help="where to write them")
    parser.add_argument("--scale", type=float, default=4.0, help="scale down by this factor (default: 4)")
    parser.add_argument("--shortest", type=int, default=300, help="least side that is left, in pixels (default: 300)")
    parser.add_argument("--held-aside", action="store_true", help="those to measure on, which no training may see")
    parser.add_argument(
        "--root",
        action="append",
        default=[],
        metavar="PACKAGE=FOLDER",
        help="where a package is unpacked; may be repeated",
    )
    arguments = parser.parse_args()
    if malformed := [root for root in arguments.root if "=" not in root]:
        parser.error(f"--root takes PACKAGE=FOLDER, got {malformed[0]!r}")
    try:
        roots = dict(root.split("=", 1) for root in arguments.root)
        sources = HELD_ASIDE if arguments.held_aside else SOURCES
        written = gather(arguments.folder, arguments.scale, arguments.shortest, roots, sources)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{len(written)} photographs written to {arguments.folder}")


if __name__ == "__main__":
    main()
