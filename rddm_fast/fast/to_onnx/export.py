"""A sampler's whole few-step loop as an ONNX file, which onnxruntime and others run without torch.

    from rddm_fast.fast.to_onnx.export import export
    export(load_model("derain"), "derain.onnx")

The file takes images of any size and any number of them. Its graph is written node by node: torch.onnx takes 30 to 90 s
for `derain`, where this takes 4 s with the comparison, and with sides that are not known it fails at the strides inside
the loop (torch 2.13). The loop is an ONNX `Loop`, so any number of steps makes a file of one size.
"""

from __future__ import annotations

import copy
import importlib.util
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...diffusion.residual import ResidualDiffusion
from ...diffusion.start import to_signed, to_unit
from ...ops.reverse_step import terms
from ...system.extras import require
from ...system.files import write_whole
from ...system.version import __version__
from ..engine import FastSampler
from ..export import FORMAT, ExportedLoop, ExportError, check_folder, left_to_caller
from .graph import Graph, Value
from .networks import Writer

RESULT = "restored"
TOLERANCE = 1e-4
"""The most by which an image may differ from `FastSampler`'s."""
CHECKED_SIZE = (2, 11, 6)
"""Images, height and width of the comparison: small, for there may be 1000 steps, and padded by every network."""


@torch.no_grad()
def export(
    diffusion: ResidualDiffusion,
    path: str | PathLike[str],
    *,
    steps: int | None = None,
    eta: float | None = None,
    name: str = "",
    licence: str = "",
) -> float | None:
    """Write `diffusion`'s whole sampling loop to `path`, an ONNX file (opset 18) that computes in float32.

    The model in the file takes float32 tensors of any B, H and W by their names, and returns `restored`, the restored
    or generated images (B, C, H, W) in [0, 1]:

        image (B, C, H, W) in [0, 1]           of a model that restores
        noise (draws, B, C, H, W)              standard normal, `draws` as the metadata says; the file scales it
        mask (B, C, H, W) in [0, 1]            of a model with input_condition

    Where onnxruntime is installed, the file is run before it gets its name, and its images are held against those of
    `FastSampler`. The metadata, `metadata_props`, are strings: format, name, licence, inputs, channels, draws, steps,
    eta, objective, range (of image, mask and result), left_to_caller (what `ResidualDiffusion.given` does and the file
    does not), and the version `rddm_fast`.

    Args:
        diffusion: a model whose networks are RDDM's U-Nets, on any device. It is not modified.
        path: the file. It is written whole or not at all.
        steps, eta: number of sampling steps and their stochasticity; None takes the model's own.
        name, licence: what the metadata say of the model, such as "derain" and "Apache-2.0".

    Returns:
        The largest difference from `FastSampler`'s images, or None without onnxruntime.

    Raises:
        ExportError: an impossible path, or images that differ by more than TOLERANCE.
        ValueError: steps or an eta that the model does not have.
        TypeError: networks that cannot be folded.
        ImportError: onnx is not installed.
    """
    path = Path(path)
    check_folder(path)
    onnx = require("onnx", "onnx")
    diffusion = copy.deepcopy(diffusion).cpu()
    taken = diffusion.steps(steps, eta)
    loop = ExportedLoop(diffusion, taken, torch.float32)
    metadata = {
        "format": FORMAT,
        "name": name,
        "licence": licence,
        "inputs": ",".join(loop.inputs),
        "channels": str(diffusion.channels),
        "range": "0 to 1",
        "draws": str(loop.draws),
        "steps": str(len(taken)),
        "eta": f"{diffusion.eta if eta is None else eta:g}",
        "objective": diffusion.objective.name,
        "left_to_caller": left_to_caller(diffusion),
        "rddm_fast": __version__,
    }
    model = _model(loop, metadata)
    onnx.checker.check_model(model)
    differences: list[float] = []

    def write(unfinished: Path) -> None:
        onnx.save(model, unfinished)
        if importlib.util.find_spec("onnxruntime") is not None:
            sampler = FastSampler(diffusion.of_given(), steps=steps, eta=eta, dtype=torch.float32)
            differences.append(_difference(unfinished, loop, sampler))

    write_whole(path, write)
    return differences[0] if differences else None


def _model(loop: ExportedLoop, metadata: dict[str, str]) -> Any:
    """Return the ONNX model: `ExportedLoop.forward`, for images of any size."""
    graph, networks = Graph(), loop.networks
    shown: list[Any] = []
    images = ("batch", networks.channels, "height", "width")
    shapes = {name: (loop.draws, *images) if name == "noise" else images for name in loop.inputs}
    given: dict[str, Any] = {name: Value(graph, name) for name in loop.inputs}
    noise, I_in = given["noise"], to_signed(given["image"]) if "image" in given else None
    sides = [graph.op("Shape", noise, start=axis, end=axis + 1, dtype=np.int64) for axis in (3, 4)]
    write = Writer(graph, networks, sides)

    if I_in is not None and loop.shown:
        shown.append(I_in)
    if "mask" in given:
        shown.append(to_signed(given["mask"]) if loop.mask_is_signed else given["mask"])
    constant = write.constant(shown)
    columns = dict(zip(loop.names, loop.table.unbind(1), strict=True))

    def step(number: Value, I_t: Any, *previous: Value) -> list[Any]:
        outputs = write.outputs(number, [*previous, I_t], constant, loop.only)
        k: dict[str, Any] = {name: graph.row(column, number) for name, column in columns.items()}
        read = loop.read(I_t, outputs, I_in, k)
        draw = graph.row(noise, graph.row(loop.draw, number, np.int64)) if loop.draws > 1 else None
        I_s: Any = 0.0
        for name, x in terms(read, I_t, I_in, draw).items():  # type: ignore[arg-type]
            if x is not None and columns[name].any():
                # A term whose coefficient is 0 is left out, not multiplied: at the last step epsilon may be infinite.
                counts = graph.row(columns[name] != 0, number, np.bool_)
                I_s = I_s + graph.op("Where", counts, k[name] * x, np.array(0, np.float32), dtype=np.float32)
        return [I_s, *(read.pred_x_start for _ in previous)]

    first = graph.row(noise, graph.constant(0))
    I_T = first if I_in is None else loop.start_scale * I_in + loop.noise_scale * first
    previous = [I_T * 0.0] if networks.self_condition else []
    I_0: Any = graph.loop(len(loop.table), [I_T, *previous], step)[0]
    result = graph.op("Identity", to_unit(I_0).clamp(0, 1), name=RESULT)
    inputs = [graph.typed(given[name], shape) for name, shape in shapes.items()]
    return graph.model(FORMAT, inputs, [graph.typed(result, images)], metadata)


def _difference(path: Path, loop: ExportedLoop, sampler: FastSampler) -> float:
    """Return how far the file's images are from the sampler's at most; raise ExportError beyond TOLERANCE."""
    runtime = require("onnxruntime", "onnx")
    generator = torch.Generator().manual_seed(0)
    batch, *size = CHECKED_SIZE
    shape = batch, loop.networks.channels, *size
    given = {name: torch.rand(shape, generator=generator) for name in loop.inputs}
    given["noise"] = torch.randn(loop.draws, *shape, generator=generator)
    wanted = sampler(given.get("image"), given.get("mask"), batch_size=batch, draws=list(given["noise"]))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # Images this small gain nothing from more.
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})[0]
    difference = float((torch.from_numpy(found) - wanted).abs().max())
    if not difference <= TOLERANCE:
        raise ExportError(
            f"onnxruntime {runtime.__version__} makes images that differ from FastSampler's by {difference:.1e}, more "
            f"than {TOLERANCE:.0e}: the file was not written"
        )
    return difference
