"""`rddm-fast bench NAME [OPTIONS]`; without typer, `python -P -m rddm_fast.benchmarks NAME [OPTIONS]`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

BENCHMARKS = {
    "ops": ("ops", "all ops by themselves, against eager torch and torch.compile"),
    "reverse_step": ("ops.reverse_step", "the reverse update"),
    "forward_diffuse": ("ops.forward_diffuse", "the forward process with its noise"),
    "joint_loss": ("ops.joint_loss", "the joint loss, forward and backward"),
    "conv3x3": ("ops.conv3x3", "the 3x3 convolution, against cuDNN's or on a CPU oneDNN's"),
    "network_ops": ("ops.network_ops", "the networks' norms and linear attention"),
    "range_null_step": ("ops.range_null_step", "a step of DDNM or DDRM for blocks, against the published arithmetic"),
    "spectral_step": ("ops.spectral_step", "a step of DDRM and DDNM+ in spectral coordinates"),
    "tacos_step": ("ops.tacos_step", "a step of Cold Diffusion's Algorithm 2"),
    "walsh_hadamard": ("ops.walsh_hadamard", "the Walsh-Hadamard transform, against matrix products and butterflies"),
    "network": ("end_to_end.network", "one evaluation of the networks, folded and eager"),
    "sampler": ("end_to_end.sampler", "whole images, against the eager reference and torch.compile of it"),
    "tiles": ("end_to_end.tiles", "large pictures in tiles: time, memory, and how far from the untiled picture"),
    "onnx": ("end_to_end.onnx", "the exported file in onnxruntime, against FastSampler"),
    "prior": ("end_to_end.prior", "a whole DDNM run, its prior folded and eager"),
    "training": ("end_to_end.training", "a training step: time and memory"),
    "profile": ("end_to_end.profile", "where a restored image's time goes, by kernel"),
    "launches": ("end_to_end.launches", "kernels per op call, and their time on a GPU"),
    "roofline": ("roofline", "what a GPU needs for an image at least, and what the kernels should take, from shapes"),
    "fuzz": (
        "fuzz",
        "damaged files, settings and memory that overlaps, at random: is all that is refused refused well?",
    ),
    "kills": ("kills", "a training of several processes, killed at random moments: does it end at the same bits?"),
    "soak": ("soak", "what users do, repeated for minutes: do memory, open files or threads grow?"),
    "sanitize": ("end_to_end.sanitize", "every GPU kernel on small and odd images, for compute-sanitizer"),
    "draw": ("draw", "plots from a benchmark's JSON"),
    "readme": ("readme", "the CPU figures of README.md and docs/benchmarks.md, measured and written"),
    "table1": ("paper.table1", "the paper's Table 1 on a small scale"),
    "aosa": ("paper.aosa", "what AOSA decides, and when"),
    "models": ("models.table", "the built-in models on photographs held aside, beside the classics"),
    "inverse": ("inverse.table", "the table of DDRM and DDNM on held-aside photographs and digits"),
    "cold": ("paper.cold_gallery", "Cold Diffusion: naive sampling beside TACoS, with restorers that you trained"),
    "paths": ("paper.paths_digits", "whether generation is path-independent"),
}
"""Name to the module, whose `main(argv)` runs it, and what it measures."""


def listing() -> str:
    """The names, with one line each."""
    rows = "\n".join(f"  {name:16} {about}" for name, (_, about) in BENCHMARKS.items())
    return f"usage: rddm-fast bench NAME [OPTIONS]   (NAME --help shows a benchmark's options)\n\n{rows}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark that the first argument names, with the others; list all without an argument."""
    name, *options = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name in ("--help", "-h"):
        print(listing())
        return
    if name not in BENCHMARKS:
        sys.exit(f"error: there is no benchmark {name!r}: choose one of {', '.join(BENCHMARKS)}")
    module = importlib.import_module(f"{__package__}.{BENCHMARKS[name][0]}")
    sys.argv = [f"rddm-fast bench {name}", *options]  # the name that a benchmark's own --help and errors show
    module.main(options)


if __name__ == "__main__":
    if __package__ == "benchmarks":  # the checkout's sources, which are not compiled
        sys.exit("error: this would time the uncompiled sources of the checkout: run `rddm-fast bench` instead")
    main()
