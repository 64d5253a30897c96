"""A training step: of the eager reference, and of what `rddm-fast train` does, side by side.

    rddm-fast bench training [--dim 32] [--size 64] [--batch 8] [--compile] [--json FILE]

Forward process, networks, loss, backward pass and Adam, on the published networks with random weights. `eager` is what
the published trainer does. `rddm_fast` prepares the same networks by `fast.for_training` and computes the loss by
`ops.forward_diffuse` and `ops.joint_loss`. The gradients for one noise are compared before anything is timed. Peak
memory is what the first step takes beyond the model: on the GPU, or in a process that does nothing else.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rddm_fast.compat import UnetRes
from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.fast.for_training import for_training
from rddm_fast.ops import forward_diffuse, joint_loss
from rddm_fast.theory.schedule import Schedule

from ..findings import Table, write_json
from ..timing import machine, memory, side_by_side
from .network import NETWORKS

TOLERANCE = 1e-3
"""Greatest difference of a gradient, relative to the greatest gradient of its parameter."""


@dataclass(frozen=True)
class Row:
    """One provider's step in milliseconds (median and spread), and its peak memory."""

    provider: str
    device: str
    networks: str
    dim: int
    dtype: str
    shape: tuple[int, ...]
    ms_p20: float
    ms_p50: float
    ms_p80: float
    peak_mib: float
    ratio_eager: float


class WrongGradient(RuntimeError):
    """A provider's gradients differ from the reference's; nothing is timed."""


@dataclass(frozen=True)
class Case:
    """What is trained on what."""

    networks: str = "two"
    dim: int = 32
    size: int = 64
    batch: int = 8
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.batch, 3, self.size, self.size

    def model(self) -> ResidualDiffusion:
        torch.manual_seed(0)
        unets = UnetRes(self.dim, share_encoder=NETWORKS[self.networks], condition=True)
        objective = "pred_res" if self.networks == "one" else "pred_res_noise"
        return ResidualDiffusion(unets, Schedule.triangular(1000, 0.01), objective=objective, condition=True).to(
            self.device
        )

    def batch_of_images(self) -> tuple[Tensor, Tensor, Tensor]:
        """I_0 and I_in in [-1, 1], and times."""
        generator = torch.Generator().manual_seed(1)
        I_0, I_in = (2 * torch.rand(self.shape, generator=generator).to(self.device) - 1 for _ in range(2))
        return I_0, I_in, torch.randint(0, 1000, (self.batch,), generator=generator).to(self.device)


Step = Callable[[Tensor | None], None]
"""One training step. If noise is given, it is used instead of a draw, and the optimiser does not update."""


def steps(case: Case, names: list[str]) -> dict[str, tuple[ResidualDiffusion, Step]]:
    """Provider to its model and its step."""
    made = {"eager": _eager, "torch.compile": _compiled, "rddm_fast": _ours}
    return {name: made[name](case) for name in names}


def _run(case: Case, optimizer: torch.optim.Optimizer, loss: Callable[[Tensor | None], Tensor]) -> Step:
    def step(noise: Tensor | None = None) -> None:
        with torch.autocast(case.device, getattr(torch, case.dtype), enabled=case.dtype != "float32"):
            value = loss(noise)
        value.backward()
        if noise is None:
            optimizer.step()
            optimizer.zero_grad()

    return step


def _eager(case: Case) -> tuple[ResidualDiffusion, Step]:
    model, (I_0, I_in, t) = case.model(), case.batch_of_images()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    return model, _run(case, optimizer, lambda noise: torch.stack(model.losses(I_0, I_in, t, noise=noise)).sum())


def _compiled(case: Case) -> tuple[ResidualDiffusion, Step]:
    model, step = _eager(case)
    model.model.compile(dynamic=False)
    return model, step


def _ours(case: Case) -> tuple[ResidualDiffusion, Step]:
    model, (I_0, I_in, t) = case.model(), case.batch_of_images()
    for_training(model)
    I_0, I_in = (x.contiguous(memory_format=torch.channels_last) for x in (I_0, I_in))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True)
    drawn = 0

    def loss(noise: Tensor | None) -> Tensor:
        nonlocal drawn
        drawn += 1
        if model.objective.outputs == 1:
            return torch.stack(model.losses(I_0, I_in, t, noise=noise)).sum()
        given = {"noise": noise} if noise is not None else {"seed": 0, "stream": drawn}
        I_t = forward_diffuse(I_0, I_in, t, model.alphas_cumsum, model.betas_cumsum, **given)
        out0, out1 = model.outputs(I_t, t, I_in)
        return 2 * joint_loss(out0, out1, I_0, I_in, objective=model.objective, loss_type="l1", lam=0.5, **given)[0]

    return model, _run(case, optimizer, loss)


def check(case: Case, found: dict[str, tuple[ResidualDiffusion, Step]]) -> None:
    """Raise WrongGradient unless all providers have the eager reference's gradients for one noise (in float32)."""
    noise = torch.randn(case.shape, generator=torch.Generator().manual_seed(2)).to(case.device)
    gradients = {}
    for name, (model, step) in found.items():
        step(noise)
        # Biases before a norm have no gradient but rounding: they are left out by the tolerance's floor.
        gradients[name] = [p.grad for p in model.parameters() if p.grad is not None]
        model.zero_grad()
    largest = max(float(g.abs().max()) for g in gradients["eager"])
    for name, own in gradients.items():
        apart = max(
            float((g - e).abs().max() / max(float(e.abs().max()), 1e-3 * largest))
            for g, e in zip(own, gradients["eager"], strict=True)
        )
        if case.dtype == "float32" and apart > TOLERANCE:
            raise WrongGradient(f"{name}'s gradients differ by up to {apart:.1e} of a parameter's greatest")


def _peak_of(case: Case, name: str, answers: multiprocessing.Queue) -> None:
    _, step = steps(case, [name])[name]
    before = memory("VmRSS")
    step(None)
    answers.put(memory("VmHWM") - before)


def peak_mib(case: Case, name: str, step: Step) -> float:
    """MiB that the first step takes beyond the model, gradients and Adam's state included."""
    if case.device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(None)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_peak_of, args=(case, name, answers))
    process.start()
    answer = answers.get()
    process.join()
    return float(answer)


def measure(case: Case, names: list[str], repeats: int) -> list[Row]:
    """Check, weigh and time the providers of one case, "eager" first among `names`."""
    found = steps(case, names)
    check(case, found)
    peaks = {name: peak_mib(case, name, step) for name, (_, step) in found.items()}
    calls = {name: (lambda step=step: step(None)) for name, (_, step) in found.items()}  # type: ignore[misc]
    times = side_by_side(calls, case.device, repeats)
    device = torch.cuda.get_device_name() if case.device == "cuda" else case.device
    return [
        Row(
            *(name, device, case.networks, case.dim, case.dtype, case.shape),
            *(timing.p20, timing.p50, timing.p80),
            peak_mib=peaks[name],
            ratio_eager=times["eager"].p50 / timing.p50,
        )
        for name, timing in times.items()
    ]


TABLE = Table(
    ("provider", "provider", "<14", ""),
    ("networks", "networks", "<8", ""),
    ("dim", "dim", ">4", ""),
    ("dtype", "dtype", "<8", ""),
    ("shape", "shape", ">14", ""),
    ("ms p20", "ms_p20", ">9", ".1f"),
    ("p50", "ms_p50", ">9", ".1f"),
    ("p80", "ms_p80", ">9", ".1f"),
    ("MiB", "peak_mib", ">8", ".0f"),
    ("eager", "ratio_eager", ">6", ".2f"),
)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", choices=NETWORKS, default="two")
    parser.add_argument("--dim", type=int, default=32, help="width of the first stage")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of autocast")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="also torch.compile's, which takes minutes")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args(argv)
    print(f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads\n{TABLE.header}")
    case = Case(options.networks, options.dim, options.size, options.batch, options.dtype, options.device)
    names = ["eager", *(["torch.compile"] if options.compile else []), "rddm_fast"]
    rows = measure(case, names, options.repeats)
    print("\n".join(map(TABLE.line, rows)))
    if options.json is not None:
        write_json(options.json, rows)
