"""Large pictures in tiles: time, memory, and how far the result is from the untiled one, by the side of a tile.

    rddm-fast bench tiles [--model derain] [--megapixels 1 4 12] [--tiles 128 192 256 512] [--json FILE]

The picture is a photograph of the demo, mirrored until it has so many megapixels, and degraded as the model was
trained. Each row is the median of `--repeats` processes, which take turns: a process restores one picture, so that its
memory is that of one. It has restored one tile before. Pictures of up to `--whole` megapixels are restored untiled too.
`dB` is the PSNR between the tiled result and the untiled one; `gain` is what the result has gained towards the clean
picture; `seam` is how much the difference between tiled and untiled jumps across a tile's border, divided by how much
it jumps elsewhere.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import queue
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rddm_fast.images.degradations.degraded import to_array, to_tensor
from rddm_fast.images.degrade import degrade
from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.models.catalogue import BUILT_IN
from rddm_fast.models.folder import load_model
from rddm_fast.restoration.demo import PHOTOS
from rddm_fast.restoration.restore import Restorer
from rddm_fast.restoration.tiles import OVERLAP, cut
from rddm_fast.system.files import write_text_whole

from ..harness import DTYPES
from ..timing import conditions, memory


@dataclass(frozen=True)
class Case:
    """One way to restore one picture; `tile` None is untiled."""

    model: str
    steps: int | None
    dtype: str
    megapixels: float
    tile: int | None
    overlap: int
    device: str
    threads: int

    def __str__(self) -> str:
        return f"{self.dtype} {self.megapixels:g} MP {f'tile {self.tile}' if self.tile else 'untiled'}"


@dataclass(frozen=True)
class Row:
    """What was measured of a case: seconds and MiB for a picture, and decibels; None without an untiled picture."""

    case: Case
    seconds: float
    spread: float
    mib: float
    gain: float
    psnr: float | None
    seam: float | None


def pictures(model: str, megapixels: float) -> tuple[Tensor, Tensor]:
    """A photograph with sides of 4:3 and this many megapixels, and the same degraded; (C, H, W) in [0, 1]."""
    photo = read_image(PHOTOS / "china.png").pixels
    mirrored = torch.cat([photo, photo.flip(-1)], -1)
    mirrored = torch.cat([mirrored, mirrored.flip(-2)], -2)
    height = round(math.sqrt(0.75e6 * megapixels))
    width = round(height / 0.75)
    times = (1, -(-height // mirrored.shape[1]), -(-width // mirrored.shape[2]))
    clean = mirrored.repeat(times)[:, :height, :width].contiguous()
    info = json.loads((BUILT_IN / model / "config.json").read_text(encoding="utf-8"))["info"]
    kind = info["task"].removeprefix("wide-")  # the wide kinds leave some pictures clean
    degraded = degrade(to_array(clean), kind, np.random.default_rng(0)).image
    return clean, to_tensor(degraded)


def _run(case: Case, given: str, result: str, answers: multiprocessing.Queue) -> None:
    """In a process of its own: restore the picture of the file `given` to `result`; answer (seconds, MiB)."""
    torch.set_num_threads(case.threads)
    diffusion = load_model(case.model).to(case.device)
    options: dict[str, Any] = {"steps": case.steps, "tile": case.tile, "overlap": case.overlap}
    restorer = Restorer(diffusion, dtype=DTYPES[case.dtype], **options)
    picture = read_image(given)
    side = case.tile or 64
    restorer(Picture(picture.pixels[:, :side, :side].contiguous()))
    on_gpu = case.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 2**20 if on_gpu else memory("VmRSS")
    started = time.perf_counter()
    restored = restorer(picture).pixels
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else memory("VmHWM")
    torch.save(restored, result)
    answers.put((seconds, peak - before))


def _in_a_process(case: Case, given: Path, result: Path) -> tuple[float, float]:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_run, args=(case, str(given), str(result), answers))
    process.start()
    while True:
        try:
            answer: tuple[float, float] = answers.get(timeout=1)
            break
        except queue.Empty:
            if process.exitcode:
                raise RuntimeError(f"{case}: the process ended with {process.exitcode}") from None
    process.join()
    return answer


def seam(difference: Tensor, tile: int, overlap: int) -> float | None:
    """How much `difference` (C, H, W) jumps across the borders of tiles, divided by how much it jumps elsewhere."""
    side, begins = cut(difference.shape[-1], tile, overlap)
    borders = [begin - 1 for begin in begins[1:]] + [begin + side - 1 for begin in begins[:-1]]
    jumps = difference.diff(dim=-1).square().mean((0, 1)).sqrt()
    elsewhere = torch.ones(len(jumps), dtype=torch.bool)
    elsewhere[borders] = False
    return float(jumps[borders].mean() / jumps[elsewhere].mean()) if borders else None


def _psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(float((a.double() - b.double()).square().mean()))


def measure(cases: Sequence[Case], repeats: int) -> list[Row]:
    """Restore one picture by all `cases`, which differ in tile and dtype, in turns."""
    clean, degraded = pictures(cases[0].model, cases[0].megapixels)
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "given.png", Path(folder) / "result.pt"
        write_image(given, Picture(degraded))
        runs: dict[Case, list[tuple[float, float]]] = {case: [] for case in cases}
        restored: dict[Case, Tensor] = {}
        for _ in range(repeats):
            for case in cases:
                runs[case].append(_in_a_process(case, given, result))
                restored[case] = torch.load(result, weights_only=True).clamp(0, 1)
    untiled = {case.dtype: restored[case] for case in cases if case.tile is None}
    rows = []
    for case, of in runs.items():
        seconds = [second for second, _ in of]
        whole = None if case.tile is None else untiled.get(case.dtype)
        rows.append(
            Row(
                case,
                seconds=statistics.median(seconds),
                spread=max(seconds) - min(seconds),
                mib=statistics.median(mib for _, mib in of),
                gain=_psnr(restored[case], clean) - _psnr(degraded, clean),
                psnr=None if whole is None else _psnr(restored[case], whole),
                seam=None if whole is None else seam(restored[case] - whole, case.tile or 0, case.overlap),
            )
        )
    return rows


def line(row: Row) -> str:
    """A row as it is printed."""
    to_untiled = f"  {row.psnr:5.1f} dB to untiled" if row.psnr is not None else ""
    jump = f", seam {row.seam:.2f}" if row.seam is not None else ""
    rate = row.case.megapixels / row.seconds
    return (
        f"{row.case!s:32} {row.seconds:8.2f} s (spread {row.spread:.2f})  {rate:6.3f} MP/s  {row.mib:7.0f} MiB"
        f"  gain {row.gain:5.2f} dB{to_untiled}{jump}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="derain", help="a built-in model that takes no mask")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's own)")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1.0, 4.0, 12.0])
    parser.add_argument("--tiles", type=int, nargs="+", default=[128, 192, 256, 384, 512], help="sides in pixels")
    parser.add_argument("--overlap", type=int, default=OVERLAP)
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["float32"])
    parser.add_argument("--whole", type=float, default=1.0, help="megapixels up to which pictures are untiled, too")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args(argv)
    found: list[Row] = []
    for megapixels in options.megapixels:
        tiles = [*([None] if megapixels <= options.whole else []), *options.tiles]
        cases = [
            Case(
                *(options.model, options.steps, dtype, megapixels, tile),
                *(options.overlap, options.device, torch.get_num_threads()),
            )
            for dtype in options.dtypes
            for tile in tiles
        ]
        for row in measure(cases, options.repeats):
            print(line(row), flush=True)
            found.append(row)
    if options.json is not None:
        result = {**conditions(options.device), "rows": [asdict(row) for row in found]}
        write_text_whole(options.json, json.dumps(result, indent=2) + "\n")
