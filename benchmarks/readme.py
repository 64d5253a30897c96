"""The CPU figures of README.md and docs/benchmarks.md: measured, kept as JSON, and written as tables by one command.

    rddm-fast bench readme [--measure [NAME …]] [--results benchmarks/results/xeon] [--root .]

Without --measure it writes the tables from the figures that are kept. With it, it first runs the benchmarks named, or
all of them, on this machine (`sampler` with torch.compile takes a quarter of an hour, all of them an hour), and keeps
their figures in the folder. A table stands between `<!-- sampler -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rddm_fast.system.files import write_text_whole

OPS = (
    ("reverse_step", "cpp", "`reverse_step`, noise given"),
    ("reverse_step", "cpp in place", "`reverse_step_`, in place, noise given"),
    ("reverse_step drawn", "cpp", "`reverse_step`, each draws its noise"),
    ("forward_diffuse", "cpp", "`forward_diffuse`, each draws its noise"),
    ("joint_loss", "cpp", "`joint_loss`, forward and backward, noise given"),
)
NULL_STEPS = {"ddnm sr4": "super-resolution by 4", "ddnm inpaint": "inpainting", "ddnm colour": "colour"}

RUNS = {
    "sampler": ["sampler", "--sizes", "64", "128", "256", "--compile"],
    "network-shared": ["network", "--networks", "shared"],
    "network-one": ["network", "--networks", "one"],
    "training": ["training"],
    "conv3x3": ["conv3x3", "--device", "cpu"],
    "ops": ["ops", "--quick", "--device", "cpu", "--ops", *dict.fromkeys(op for op, _, _ in OPS), *NULL_STEPS],
}
"""What measures each file of figures: the benchmark and its options."""

SIDE = 256
"""Of the ops' images."""

Figures = dict[str, Any]


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sampler(figures: Figures) -> str:
    def rows() -> Iterator[Sequence[str]]:
        found = figures["sampler"]["rows"]
        for size in dict.fromkeys(row["shape"][-1] for row in found):
            of = {row["provider"]: row for row in found if row["shape"][-1] == size}
            eager = of["eager"]["ms_p50"]
            for provider, compiled, name in (
                ("folded", "torch.compile", "float32"),
                ("folded, bfloat16", "torch.compile, autocast", "bfloat16"),
            ):
                own, theirs = of[provider], of[compiled]["ms_p50"]
                fidelity = f"{own['psnr']:.0f} dB"
                times = f"{eager:.0f} ms", f"{theirs:.0f} ms", f"{own['ms_p50']:.0f} ms"
                ratios = f"**{eager / own['ms_p50']:.1f}**", f"{theirs / own['ms_p50']:.1f}"
                yield f"{size}×{size}, {name}", *times, *ratios, fidelity

    titles = "5 steps, two networks", "eager", "torch.compile", "rddm_fast", "times eager", "times compiled", "PSNR"
    return table(titles, rows())


def _training(figures: Figures) -> tuple[Figures, Figures]:
    """Return the training step's rows, eager and ours."""
    rows = {row["provider"]: row for row in figures["training"]["rows"]}
    return rows["eager"], rows["rddm_fast"]


def summary(figures: Figures) -> str:
    """Return the README's numbers: a small image, a large one, a training step."""

    def rows() -> Iterator[Sequence[str]]:
        found = {(row["shape"][-1], row["provider"]): row["ms_p50"] for row in figures["sampler"]["rows"]}
        for size, provider, dtype in ((64, "folded", "float32"), (256, "folded, bfloat16", "bfloat16")):
            eager, own = found[size, "eager"], found[size, provider]
            yield f"{size}×{size}, {dtype}", f"{eager:.0f} ms", f"{own:.0f} ms", f"**{eager / own:.1f}**"
        slow, fast = _training(figures)
        times = (f"{row['ms_p50']:.0f} ms, {row['peak_mib']:.0f} MiB" for row in (slow, fast))
        yield "a training step (dim 32, 8×64×64)", *times, f"**{slow['ms_p50'] / fast['ms_p50']:.1f}**"

    return table(("", "as published", "rddm_fast", "times faster"), rows())


def others(figures: Figures) -> str:
    def rows() -> Iterator[Sequence[str]]:
        for name, title in (("shared", "one evaluation, shared encoder, 64×64"), ("one", "the same, one network")):
            of = figures[f"network-{name}"]
            eager, own = of["ms"]["eager"]["p50"], of["ms"]["folded"]["p50"]
            command = f"`rddm-fast bench network --networks {name}`"
            yield title, f"{eager:.0f} ms", f"{own:.0f} ms", f"**{eager / own:.1f}**", command
        slow, fast = _training(figures)
        times = (f"{row['ms_p50']:.0f} ms, {row['peak_mib']:.0f} MiB" for row in (slow, fast))
        title = "a training step (two networks, dim 32, 8×64×64)"
        yield title, *times, f"**{slow['ms_p50'] / fast['ms_p50']:.1f}**", "`rddm-fast bench training`"

    return table(("what", "eager reference", "rddm_fast", "ratio", "made by"), rows())


def conv3x3(figures: Figures) -> str:
    def rows() -> Iterator[Sequence[str]]:
        found = figures["conv3x3"]
        for side in sorted({row["shape"][2] for row in found}):
            cells = []
            for threads in sorted({row["threads"] for row in found}):
                own = [r for r in found if r["shape"][2] == side and r["threads"] == threads]
                ratios = sorted(row["speedup"][row["chosen"]] for row in own)
                cells.append(f"{ratios[0]:.1f} to {ratios[-1]:.1f}")
            yield f"{side}×{side}", *cells

    counts = sorted({row["threads"] for row in figures["conv3x3"]})
    return table(("times oneDNN's", *(f"{n} thread{'s' * (n > 1)}" for n in counts)), rows())


def _line(figures: Figures, op: str, provider: str, title: str, places: int) -> Sequence[str]:
    """Return the line of an op in float32 for 16 images in contiguous memory."""
    wanted = op, [16, 3, SIDE, SIDE], "float32", "contiguous"
    of = {r["provider"]: r for r in figures["ops"] if (r["op"], r["shape"], r["dtype"], r["layout"]) == wanted}
    own, eager, compiled = (of[name]["us_p50"] / 1e3 for name in (provider, "eager", "compile"))
    times = (f"{ms:.{places}f} ms" for ms in (own, eager, compiled))
    return title, *times, f"**{eager / own:.1f}**, {compiled / own:.1f}", f"{100 * of[provider]['copy_fraction']:.0f} %"


def ops(figures: Figures) -> str:
    titles = "op", "rddm_fast", "eager", "torch.compile", "times eager, compile", "share of copy bandwidth"
    return table(titles, (_line(figures, op, provider, title, 2) for op, provider, title in OPS))


def range_null_step(figures: Figures) -> str:
    titles = (
        "operator",
        "rddm_fast",
        "published",
        "torch.compile",
        "times published, compile",
        "share of copy bandwidth",
    )
    return table(titles, (_line(figures, op, "cpp in place", title, 1) for op, title in NULL_STEPS.items()))


TABLES: dict[str, dict[str, Callable[[Figures], str]]] = {
    "README.md": {"summary": summary},
    "docs/benchmarks.md": {
        "sampler": sampler,
        "others": others,
        "conv3x3": conv3x3,
        "ops": ops,
        "range_null_step": range_null_step,
    },
}
"""The tables of each page."""


def written(page: str, text: str, figures: Figures) -> str:
    """Return the text of a page of `TABLES` with its tables made from the figures.

    Raises:
        ValueError: a table's marks are not there, or not once.
    """
    for name, make in TABLES[page].items():
        marks = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        new = make(figures)
        text, found = re.subn(marks, lambda match, new=new: f"{match[1]}\n{new}\n\n{match[2]}", text, flags=re.DOTALL)  # type: ignore[misc]
        if found != 1:
            raise ValueError(f"{page} has {found} places for the table {name!r}: mark one by <!-- {name} -->")
    return text


def kept(folder: Path) -> Figures:
    """Return the figures of all runs that the folder keeps; exits with a sentence if one is not there."""
    missing = [name for name in RUNS if not (folder / f"{name}.json").exists()]
    if missing:
        sys.exit(
            f"error: {folder} has no figures of {', '.join(missing)}: measure them by --measure {' '.join(missing)}"
        )
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in RUNS}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--measure", nargs="*", choices=[*RUNS], help="run these benchmarks first; all if none is named"
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/xeon"), help="folder of the figures")
    parser.add_argument("--root", type=Path, default=Path(), help=f"folder that has {' and '.join(TABLES)}")
    options = parser.parse_args(argv)
    names = [] if options.measure is None else options.measure or list(RUNS)
    for name in names:
        options.results.mkdir(parents=True, exist_ok=True)
        file = (options.results / f"{name}.json").resolve()
        command = [sys.executable, "-P", "-m", "rddm_fast.benchmarks", *RUNS[name], "--json", str(file)]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"error: the benchmark {name!r} failed, see above: no page was written")
    figures = kept(options.results)
    for page, tables in TABLES.items():
        path = options.root / page
        write_text_whole(path, written(page, path.read_text(encoding="utf-8"), figures))
        print(f"{path}: {', '.join(tables)} from {options.results}")
