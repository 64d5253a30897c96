"""The whole sampler: images by the eager reference, by torch.compile of it, and by FastSampler in its settings.

    rddm-fast bench sampler [--networks two] [--sizes 64 128] [--batch 1] [--steps 5]
        [--dtypes float32 bfloat16] [--compile [MODE …]] [--tune] [--json FILE] [--csv FILE] [--plot STEM]

The published models (dim 64, mults 1-2-4-8) with random weights. `eager` does what the published code does; every
provider starts from the same noise, and is checked against it before it is timed: in float32 to 1e-4, in bfloat16 by
its PSNR. The rates are of the networks' arithmetic, beside that of one large convolution in the same run and dtype.
"""

from __future__ import annotations

import argparse
import itertools
import math
import resource
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rddm_fast.compat import UnetRes
from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.fast import FastSampler
from rddm_fast.fast.together import can_be_together
from rddm_fast.theory.schedule import Schedule

from ..findings import Findings, Table, save_figure, write_csv, write_json
from ..timing import machine, side_by_side
from .network import NETWORKS

TOLERANCE = 1e-4
LEAST_PSNR = {"float32": 55.0, "bfloat16": 35.0}
"""In dB. It is low, because random weights are less robust to rounding than trained ones."""


@dataclass(frozen=True)
class Row:
    """One provider on one case: milliseconds a batch (median and spread), rates, memory and fidelity.

    psnr: against the eager reference in float32, in dB; peak_mib: of the GPU, or of the process so far.
    """

    provider: str
    device: str
    networks: str
    dtype: str
    shape: tuple[int, ...]
    steps: int
    ms_p20: float
    ms_p50: float
    ms_p80: float
    images_per_s: float
    tflop_per_s: float
    matrix_fraction: float
    peak_mib: float
    psnr: float
    ratio_eager: float


def model(networks: str, steps: int, device: str) -> ResidualDiffusion:
    """A published model with random weights."""
    torch.manual_seed(0)
    unets = UnetRes(64, share_encoder=NETWORKS[networks], condition=True)
    objective = "pred_res" if networks == "one" else "pred_res_noise"
    schedule = Schedule.triangular(1000, 0.01)
    diffusion = ResidualDiffusion(unets, schedule, objective=objective, condition=True, sampling_timesteps=steps)
    return diffusion.eval().to(device)


def providers(
    diffusion: ResidualDiffusion, x: Tensor, dtypes: Sequence[str], modes: Sequence[str], tune: bool
) -> dict[str, tuple[str, Callable[[], Tensor]]]:
    """Provider to (dtype, what it runs): the eager reference first, then step by step what FastSampler adds.

    modes: torch.compile's, of the reference; if there is any, FastSampler is compiled too.
    tune: whether FastSampler's layers are computed in measured ways, too; the measurement is not timed.
    """
    draws = [torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.device)]
    device = x.device.type

    def of(sample: Callable[..., list[Tensor]], dtype: torch.dtype | None = None) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
                return sample(x, draws=draws)[-1]

        return run

    found: dict[str, tuple[str, Callable[[], Tensor]]] = {"eager": ("float32", of(diffusion.sample))}
    if "bfloat16" in dtypes:
        found["eager, autocast"] = "bfloat16", of(diffusion.sample, torch.bfloat16)
    for mode in modes:
        compiled = ResidualDiffusion(
            diffusion.model,
            diffusion.schedule,
            objective=diffusion.objective,
            condition=True,
            sampling_timesteps=diffusion.sampling_timesteps,
        ).to(x.device)
        whole = torch.compile(diffusion.model, dynamic=False, mode=mode)
        compiled.outputs = partial(_outputs_of, whole)  # type: ignore[method-assign]
        name = "torch.compile" + f", {mode}" * (mode != "default")
        if "float32" in dtypes:
            found[name] = "float32", of(compiled.sample)
        if "bfloat16" in dtypes:
            found[f"{name}, autocast"] = "bfloat16", of(compiled.sample, torch.bfloat16)
    settings: list[dict[str, Any]] = [{"compile": False}, {"compile": True}] if modes else [{"compile": False}]
    for options in settings:
        for dtype in (getattr(torch, name) for name in dtypes):
            for graphs in (False, True) if device == "cuda" else (None,):
                name = "folded" + ", compiled" * options["compile"] + ", graph" * bool(graphs)
                name += ", bfloat16" * (dtype == torch.bfloat16)
                sampler = FastSampler(diffusion, dtype=dtype, graphs=graphs, tune=False, **options)
                found[name] = str(dtype).removeprefix("torch."), of(sampler.sample)
                if tune and graphs is not False:
                    tuned = FastSampler(diffusion, dtype=dtype, graphs=graphs, tune=True, **options)
                    found[f"{name}, tuned"] = str(dtype).removeprefix("torch."), of(tuned.sample)
                # FastSampler's default on a CPU: two networks at once, unless they are compiled.
                at_once = sampler.networks.networks == "two" and not options["compile"]
                if device == "cpu" and at_once and can_be_together():
                    in_turn = FastSampler(diffusion, dtype=dtype, parallel=False, tune=False, **options)
                    found[f"{name}, in turn"] = str(dtype).removeprefix("torch."), of(in_turn.sample)
    return found


def _outputs_of(network: Callable[..., Any], I_t: Tensor, t: Tensor, I_in: Tensor, *_: Any) -> tuple[Tensor, ...]:
    """`ResidualDiffusion.outputs` of a compiled network. A CUDA graph overwrites its outputs at the next step."""
    torch.compiler.cudagraph_mark_step_begin()
    return tuple(network(torch.cat((I_t, I_in), dim=1), t))


def matrix_rate(device: str, dtype: torch.dtype, repeats: int) -> float:
    """TFLOP/s of one large convolution, channels-last."""
    conv = torch.nn.Conv2d(256, 256, 3, padding=1).to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, side = (1, 64) if device == "cpu" else (16, 128)
    x = torch.randn(images, 256, side, side).to(device, dtype).to(memory_format=torch.channels_last)
    with torch.no_grad():
        timing = side_by_side({"conv": lambda: conv(x)}, device, repeats)["conv"]
    return 2 * 9 * 256**2 * images * side**2 / timing.p50 / 1e9


def is_right(largest: float, psnr: float, dtype: str, device: str, tolerance: float) -> bool:
    """Return whether an image that differs by at most `largest`, and by `psnr` dB, is right."""
    if dtype == "float32" and device == "cpu":
        return largest <= tolerance
    return psnr >= LEAST_PSNR[dtype]  # A GPU's convolutions have TF32's 11 bits in the eager reference.


@torch.no_grad()
def measure(
    networks: str,
    size: int,
    batch: int,
    steps: int,
    *,
    device: str,
    dtypes: Sequence[str],
    modes: Sequence[str],
    tune: bool,
    repeats: int,
    report: Callable[[Row], None],
    complain: Callable[[str], None],
) -> None:
    """Check and time all providers on one case.

    `report` is called with each row; `complain` with what is wrong with a provider, which is then not timed.
    """
    diffusion = model(networks, steps, device)
    x = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(2)).to(device)
    found = providers(diffusion, x, dtypes, modes, tune)
    with FlopCounterMode(display=False) as counter:
        expected = found["eager"][1]()
    psnr, peak = {}, {}
    for name, (dtype, call) in list(found.items()):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            difference = (call() - expected).abs()
        except Exception as failure:  # The other providers are measured all the same.
            complain(f"{name} raises {type(failure).__name__}: {failure}")
            del found[name]
            continue
        square = float(difference.square().mean())
        psnr[name] = -10 * math.log10(square) if square else math.inf
        if not is_right(float(difference.max()), psnr[name], dtype, device, TOLERANCE):
            complain(f"{name} differs by up to {float(difference.max()):.1e} ({psnr[name]:.1f} dB)")
            del found[name]
            continue
        peak[name] = (
            torch.cuda.max_memory_allocated() / 2**20
            if device == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        )
    times = side_by_side({name: call for name, (_, call) in found.items()}, device, repeats)
    rates = {dtype: matrix_rate(device, getattr(torch, dtype), 9) for dtype in ("float32", "bfloat16")}
    hardware = torch.cuda.get_device_name() if device == "cuda" else device
    for name, timing in times.items():
        dtype, tflops = found[name][0], counter.get_total_flops() / timing.p50 / 1e9
        row = Row(
            *(name, hardware, networks, dtype, tuple(x.shape), steps),
            *(timing.p20, timing.p50, timing.p80),
            images_per_s=1e3 * batch / timing.p50,
            tflop_per_s=tflops,
            matrix_fraction=tflops / rates[dtype],
            peak_mib=peak[name],
            psnr=psnr[name],
            ratio_eager=times["eager"].p50 / timing.p50,
        )
        report(row)


TABLE = Table(
    ("provider", "provider", "<32", ""),
    ("networks", "networks", "<8", ""),
    ("shape", "shape", ">14", ""),
    ("steps", "steps", ">5", ""),
    ("ms p20", "ms_p20", ">9", ".1f"),
    ("p50", "ms_p50", ">9", ".1f"),
    ("p80", "ms_p80", ">9", ".1f"),
    ("images/s", "images_per_s", ">9", ".2f"),
    ("TFLOP/s", "tflop_per_s", ">8", ".3f"),
    ("of conv", "matrix_fraction", ">7", ".0%"),
    ("MiB", "peak_mib", ">7", ".0f"),
    ("PSNR", "psnr", ">6", ".1f"),
    ("eager", "ratio_eager", ">6", ".2f"),
)


def plot(stem: Path, rows: list[Row]) -> None:
    """Draw each provider's speed relative to eager as bars, one group per case; STEM.png and STEM.svg."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = list(dict.fromkeys((r.networks, r.shape, r.steps) for r in rows))
    names = list(dict.fromkeys(r.provider for r in rows))
    figure, axis = pyplot.subplots(figsize=(3 + 2 * len(cases), 4.5))
    width = 0.85 / len(names)
    for i, name in enumerate(names):
        of = {(r.networks, r.shape, r.steps): r.ratio_eager for r in rows if r.provider == name}
        axis.bar([c + i * width for c in range(len(cases))], [of.get(case, 0) for case in cases], width, label=name)
    axis.set_xticks([c + 0.4 for c in range(len(cases))])
    axis.set_xticklabels([f"{n}, {'x'.join(map(str, shape))}, {steps} steps" for n, shape, steps in cases], fontsize=8)
    axis.set_ylabel("times as fast as eager")
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    save_figure(stem, figure)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["two"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--steps", nargs="+", type=int, default=[5])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument(
        "--compile",
        nargs="*",
        choices=["default", "reduce-overhead", "max-autotune"],
        help="also torch.compile's, in these modes (the default one if none is named); a minute per case and mode",
    )
    parser.add_argument("--tune", action="store_true", help="also FastSampler with each layer in its measured way")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--csv", type=Path, help="write the rows there")
    parser.add_argument("--plot", type=Path, metavar="STEM", help="draw STEM.png and STEM.svg")
    options = parser.parse_args(argv)
    modes = [] if options.compile is None else options.compile or ["default"]
    print(f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads\n{TABLE.header}")
    findings: Findings[Row] = Findings(TABLE)
    for networks, batch, steps, size in itertools.product(
        options.networks, options.batch, options.steps, options.sizes
    ):
        measure(
            *(networks, size, batch, steps),
            device=options.device,
            dtypes=options.dtypes,
            modes=modes,
            tune=options.tune,
            repeats=options.repeats,
            report=findings.report,
            complain=findings.complain,
        )
        if options.json is not None:  # after each case, so that an interrupted run keeps what it measured
            write_json(options.json, findings.rows)
    if options.csv is not None:
        write_csv(options.csv, [asdict(row) for row in findings.rows])
    if options.plot is not None:
        plot(options.plot, findings.rows)
    findings.end()
