"""Draw what the wide degradations do to one photograph.

python -m benchmarks.models.degradations [PHOTOGRAPH] [-o docs/degradations.jpg]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rddm_fast.images.degradations.degraded import to_array, to_tensor
from rddm_fast.images.degrade import KINDS, degrade
from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.images.prepared import resized
from rddm_fast.images.sheet import captioned, sheet
from rddm_fast.restoration.demo import photographs

SEEDS = (3, 4, 5, 6, 7, 8)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photograph", nargs="?", type=Path, default=photographs()[2])
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/degradations.jpg"))
    options = parser.parse_args(argv)
    image = to_array(read_image(options.photograph).pixels)
    rows = []
    for kind in (name for name in KINDS if name.startswith("wide-")):
        row = []
        for seed in SEEDS:
            full = to_tensor(degrade(image, kind, np.random.default_rng(seed)).image)
            row.append(resized(full, (full.shape[1] * 5 // 8, full.shape[2] * 5 // 8)))
        rows.append([captioned(row[0], [kind]), *(captioned(tile, [""]) for tile in row[1:])])
    write_image(options.output, Picture(sheet(rows, gap=3, margin=3)))
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
