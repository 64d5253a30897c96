"""Run by test_gpu_network.py in a process of its own, because triton reads TRITON_INTERPRET when imported.

Counts what a GPU launches for one image of the published size, 1 x 3 x 256 x 256 in bfloat16 by two networks of the
published widths in 5 steps: our kernels, which are not run, and torch's. Printed as JSON by name, for one evaluation of
a network and for the whole image.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections import Counter
from typing import Any

import torch
from gpu_network_worker import choose_as_on_a_gpu
from torch.utils._python_dispatch import TorchDispatchMode

from rddm_fast import kernels
from rddm_fast.diffusion.residual import ResidualDiffusion
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.fast.fold import fold_for
from rddm_fast.fast.loop import Loop
from rddm_fast.theory.schedule import Schedule

STEPS, SIDE = 5, 256
NOT_LAUNCHED = {
    *("alias", "as_strided", "detach", "empty", "empty_like", "expand", "narrow", "permute", "select", "slice"),
    *("split", "t", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view", "new_empty", "empty_strided"),
}
"""Torch's ops that read or write no values on a GPU."""


class Counted:
    """Takes the place of a kernel: a launch is counted and does nothing."""

    def __init__(self, name: str, launches: Counter[str]) -> None:
        self.name, self.launches = name, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.launched

    def launched(self, *arguments: Any, **options: Any) -> None:
        self.launches[self.name] += 1


class Launches(TorchDispatchMode):
    """Counts torch's ops that launch a kernel, beside ours."""

    def __init__(self, launches: Counter[str]) -> None:
        super().__init__()
        self.launches = launches

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket._qualified_op_name
        space, op = name.split("::")
        if space != "rddm_fast" and op not in NOT_LAUNCHED:
            self.launches[op] += 1
        return function(*args, **(kwargs or {}))


def count_kernels(launches: Counter[str]) -> None:
    """Count every kernel of the package's in the place of running it, from now on."""
    for found in pkgutil.walk_packages(kernels.__path__, f"{kernels.__name__}."):
        module = importlib.import_module(found.name)
        for attribute in [key for key in vars(module) if key.endswith("_kernel")]:
            setattr(module, attribute, Counted(attribute, launches))


def found() -> dict[str, dict[str, int]]:
    """What one evaluation and one image launch."""
    torch.manual_seed(0)
    unets = ResidualUnets(64, networks="two", dim_mults=[1, 2, 4, 8], condition=True).eval()
    options = {"condition": True, "sampling_timesteps": STEPS, "objective": "pred_res_noise"}
    diffusion = ResidualDiffusion(unets, Schedule.triangular(1000, 0.01), **options)
    choose_as_on_a_gpu()
    steps = diffusion.steps(STEPS)
    folded = fold_for(diffusion, steps, dtype=torch.bfloat16, pack=True)
    launches: Counter[str] = Counter()
    count_kernels(launches)
    picture = torch.zeros(1, 3, SIDE, SIDE)
    start = diffusion.start(steps, picture).float()
    with Launches(launches):
        Loop(diffusion, folded, steps, compiled=False, parallel=False)(start)
    image = dict(launches)
    x, (part, _) = folded.input(picture), folded.constant(picture)
    network, row = folded.bound(0), folded.row(0, 1)
    launches.clear()
    with Launches(launches):
        network(x, row, part)
    return {"evaluation": dict(launches), "image": image}


if __name__ == "__main__":
    with torch.no_grad():
        print(json.dumps(found()))
