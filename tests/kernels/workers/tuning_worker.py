"""Run by test_gpu_network.py in a process of its own, because triton reads TRITON_INTERPRET when imported.

Measures the layers of a small network folded as on a GPU, with the kernels interpreted and a clock that finds the
second way of each layer the fastest; then folds it again with the last way of each layer chosen. Prints as JSON what
was measured, what each network calls, and how far its images are from float32's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gpu_network_worker import TIMES, Ops, choose_as_on_a_gpu, lost, small_unets
from torch import Tensor

from rddm_fast.fast.fold import FoldedNetworks, fold
from rddm_fast.fast.tuning import measure
from rddm_fast.fast.tuning.clock import Peak
from rddm_fast.fast.tuning.measure import Measurement
from rddm_fast.fast.tuning.table import Table
from rddm_fast.fast.tuning.tuner import Tuner
from rddm_fast.kernels.networks.conv3x3_tiles import MEASURED


def second(calls: Mapping[str, Any], *_: object) -> dict[str, float]:
    """The clock's stand-in."""
    best = list(calls)[1]
    return {name: 1e-6 if name == best else 2e-6 for name in calls}


def judged(folded: FoldedNetworks, x: Tensor, exact: list[Tensor]) -> dict[str, Any]:
    """What the test judges of a network."""
    with Ops() as ops:
        images = folded(x, 0)
    return {"lost": lost(images, exact), "called": ops.counts, "tiles": sorted(map(str, set(MEASURED.values())))}


def found() -> dict[str, Any]:
    """What the test judges."""
    unets, x = small_unets("one"), torch.randn(1, 6, 4, 4)
    exact = [image.double() for image in unets(x, [TIMES[0][:1]])]
    choose_as_on_a_gpu()
    measured, pinned = (fold(unets, TIMES[:1], dtype=torch.float16, pack=True) for _ in range(2))
    measure.fastest, measure.peak = second, lambda *_: Peak(1.0, 1.0)  # type: ignore[assignment]
    table = Table(Path("unused"), {})
    with Measurement(table, measured.device, lambda what: None).watching(measured):
        measured(x, 0)
    result = {"second": judged(measured, x, exact)}
    result["entries"] = {title: [list(entry.us), entry.left_out] for (title, _), entry in table.entries.items()}

    MEASURED.clear()
    last = {key: replace(entry, way=list(entry.us)[-1]) for key, entry in table.entries.items()}
    table.entries.update(last)
    Tuner(pinned, table)
    return result | {"last": judged(pinned, x, exact)}


if __name__ == "__main__":
    with torch.no_grad():
        print(json.dumps(found()))
