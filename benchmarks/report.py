"""What a benchmark prints and writes: a table, JSON, CSV, a plot, and the state of the GPU."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rddm_fast.ops import backends
from rddm_fast.ops.env_report import gpus
from rddm_fast.system.files import write_text_whole

from .findings import Findings, Table, save_figure, write_csv
from .harness import Op, Record, copy_bandwidth, keep_freed_memory, measure
from .timing import machine

TABLE = Table(
    ("op", "op", "<20", ""),
    ("provider", "provider", "<15", ""),
    ("shape", "shape", ">16", ""),
    ("dtype", "dtype", ">9", ""),
    ("layout", "layout", ">14", ""),
    ("µs p20", "us_p20", ">9", ".1f"),
    ("p50", "us_p50", ">9", ".1f"),
    ("p80", "us_p80", ">9", ".1f"),
    ("GB/s", "gbps", ">7", ".1f"),
    ("copy", "copy_fraction", ">6", ".0%"),
    ("eager", "ratio_eager", ">6", ".2f"),
    ("compile", "ratio_compile", ">7", ".2f"),
)


def gpu_state() -> dict[str, Any] | None:
    """Clocks, power, temperature and throttling of the current GPU; None if NVML does not tell."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        # By its name, because CUDA_VISIBLE_DEVICES renumbers CUDA's devices and not NVML's.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties().uuid}")
        reasons = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        idle = pynvml.nvmlClocksThrottleReasonGpuIdle | pynvml.nvmlClocksThrottleReasonNone
        return {
            "sm_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "memory_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
            "watts": pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            "celsius": pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
            "throttled": bool(reasons & ~idle),
        }
    except pynvml.NVMLError:
        return None


def plot(stem: Path, records: Sequence[Record]) -> None:
    """Draw GB/s against the bytes moved, one line per provider, below the copy bandwidth; STEM.png and STEM.svg."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ops = list(dict.fromkeys(r.op for r in records))
    copy = statistics.median(r.gbps / r.copy_fraction for r in records)
    figure, axes = pyplot.subplots(1, len(ops), figsize=(5.5 * len(ops), 4), squeeze=False)
    for axis, op in zip(axes[0], ops, strict=True):
        chosen = [r for r in records if (r.op, r.dtype, r.layout) == (op, "float32", "contiguous")]
        for provider in dict.fromkeys(r.provider for r in chosen):
            of = sorted((r for r in chosen if r.provider == provider), key=lambda r: r.us_p50 * r.gbps)
            sizes = [r.us_p50 * r.gbps * 1e3 / 2**20 for r in of]
            axis.plot(sizes, [r.gbps for r in of], marker="o", label=provider)
        axis.axhline(copy, color="black", linestyle="--", label="copy bandwidth")
        axis.set(title=f"{op}, float32", xlabel="MiB moved by a perfect kernel", ylabel="GB/s", xscale="log")
        axis.legend()
    save_figure(stem, figure)
    pyplot.close(figure)


def main(ops: Sequence[Op], description: str | None, argv: Sequence[str] | None = None) -> None:
    """Run the benchmarks of `ops` from the command line. The exit code is 1 if a result is wrong."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three shapes")
    parser.add_argument("--ops", nargs="+", choices=[op.name for op in ops], help="these ops alone")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=9, help="timings of each, of which percentiles are taken")
    parser.add_argument(
        "--keep-freed-memory", action="store_true", help="have the C library not return memory to the system"
    )
    parser.add_argument("--json", type=Path, help="write the records there")
    parser.add_argument("--csv", type=Path, help="write the records there")
    parser.add_argument("--plot", type=Path, metavar="STEM", help="draw STEM.png and STEM.svg")
    options = parser.parse_args(argv)
    if options.keep_freed_memory:
        keep_freed_memory()
    device = torch.device(options.device)
    # Every case is compiled for its own shape. Beyond its limit the compiler would run the eager code and say nothing.
    torch._dynamo.config.recompile_limit = 1000
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    chosen = [op for op in ops if options.ops is None or op.name in options.ops]

    copy, before = copy_bandwidth(device), gpu_state() if device.type == "cuda" else None
    print(f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads; copy bandwidth {copy:.1f} GB/s")
    if device.type == "cuda":
        print(f"{torch.cuda.get_device_name()}; {before or 'its state cannot be asked'}; {gpus()}")
    if backends.build_info is None:
        print(f"no compiled backend is measured: {backends.why_not_compiled}")
    if options.keep_freed_memory:
        print("freed memory is kept by the process")
    print(TABLE.header)
    findings: Findings[Record] = Findings(TABLE)
    for op in chosen:
        measure(
            op,
            list(op.cases(options.quick, device)),
            device,
            repeats=options.repeats,
            compiling=not options.no_compile,
            report=findings.report,
            complain=findings.complain,
        )
        if options.json:  # after each op, so that an interrupted run keeps what it measured
            write_text_whole(options.json, json.dumps([asdict(r) for r in findings.rows], indent=1) + "\n")
    if device.type == "cuda":
        after = gpu_state()
        throttled = any(state and state["throttled"] for state in (before, after))
        print(f"afterwards: {after}" + (": THE GPU WAS THROTTLED, these times are not its best" if throttled else ""))
    if options.csv:
        write_csv(options.csv, [asdict(r) for r in findings.rows])
    if options.plot:
        plot(options.plot, findings.rows)
    findings.end()
