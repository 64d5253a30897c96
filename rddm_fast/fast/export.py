"""Ahead-of-time export: a sampler's whole few-step loop in one .pt2 file, for Python or C++, with torch alone.

    from rddm_fast.fast.export import export, load
    export(load_model("derain"), "derain.pt2", size=(256, 256))
    restored = load("derain.pt2")(images)                     # (1, 3, 256, 256) in [0, 1]

The file is an AOTInductor package: compiled code and weights that call only torch's own ops, so that
`torch._inductor.aoti_load_package` and libtorch (`examples/restore.cpp`) load it where this package is not installed.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.residual import ResidualDiffusion
from ..diffusion.start import in_words, to_signed, to_unit
from ..ops.reverse_step import combined
from ..system.files import write_whole
from ..system.version import __version__
from ..theory.objective import Prediction, read_out
from ..theory.steps import Step
from .fold import fold_for, network_dtype
from .folded.attention import LastAxisNorm, PixelsFirstLinearAttention
from .folded.blocks import NormSilu

FORMAT = "rddm_fast sampler"


class ExportError(ValueError):
    """The sampler cannot be exported, or a file is not an exported sampler; the message says why."""


class ExportedLoop(nn.Module):
    """`FastSampler`'s loop as one function of tensors, in torch's own ops.

    The steps are one `torch.while_loop` over a table of their coefficients, so the graph holds the networks once, for
    any number of steps.

    Args:
        diffusion: the model.
        steps: its steps.
        dtype: the dtype of the networks' computation; None takes the weights' own.
    """

    table: Tensor
    draw: Tensor

    def __init__(self, diffusion: ResidualDiffusion, steps: list[Step], dtype: torch.dtype | None = None) -> None:
        super().__init__()
        device = diffusion.device
        self.networks = fold_for(diffusion, steps, dtype=dtype, pack=False)
        _without_our_ops(self.networks, device)
        self.names = tuple(steps[0].numbers)
        rows = torch.tensor([list(step.numbers.values()) for step in steps], dtype=torch.float64, device=device)
        self.register_buffer("table", rows.float())
        # The number of the draw that each step adds; draw 0 is in the image that the loop starts from.
        draw = list(itertools.accumulate(int(step.draws) for step in steps))
        self.register_buffer("draw", torch.tensor(draw, device=device))
        self.draws = 1 + sum(step.draws for step in steps)
        taken = {"image": diffusion.condition, "noise": True, "mask": diffusion.input_condition}
        self.inputs = [name for name, is_taken in taken.items() if is_taken]
        self.shown = diffusion.condition and not diffusion.img_to_img_translation
        self.mask_is_signed = not diffusion.input_condition_mask
        self.noise_scale, self.start_scale = math.sqrt(diffusion.schedule.sum_scale), diffusion.schedule.start_scale
        self.objective, self.only, self.clip_res = diffusion.read_objective, diffusion.read_outputs, diffusion.clip_res

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the clean images (B, C, H, W), float32 in [0, 1].

        `tensors` are the float32, contiguous tensors that `inputs` names: the degraded images (B, C, H, W) in [0, 1],
        the standard normal draws (`draws`, B, C, H, W), the mask (B, C, H, W) in [0, 1].
        """
        given = dict(zip(self.inputs, tensors, strict=True))
        noise = given["noise"]
        I_in = to_signed(given["image"]) if "image" in given else None
        parts = [I_in] if I_in is not None and self.shown else []
        if "mask" in given:
            parts.append(to_signed(given["mask"]) if self.mask_is_signed else given["mask"])
        constant = self.networks.constant(torch.cat(parts, dim=1)) if parts else [None] * len(self.networks.stems)

        def unfinished(number: Tensor, *_images: Tensor) -> Tensor:
            return (number < len(self.table)).all()

        def step(number: Tensor, I_t: Tensor, *previous: Tensor) -> tuple[Tensor, ...]:
            outputs = self.networks(I_t, number, *previous, only=self.only, constant=constant)
            I_s, I_0 = self._update(I_t, [image.float() for image in outputs], I_in, number, noise)
            return number + 1, I_s, *(I_0.clone() for _ in previous)

        I_T = noise[0].clone() if I_in is None else self.start_scale * I_in + self.noise_scale * noise[0]
        previous = [torch.zeros_like(I_T)] if self.networks.self_condition else []
        number = torch.zeros(1, dtype=torch.int64, device=I_T.device)
        result = torch.while_loop(unfinished, step, (number, I_T, *previous))
        return to_unit(result[1]).clamp(0, 1)

    def _update(
        self, I_t: Tensor, outputs: list[Tensor], I_in: Tensor | None, number: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the next image and the clean one: `ops.reverse_step` with coefficients known at run time."""
        row = self.table.index_select(0, number)[0]
        k = dict(zip(self.names, row.unbind(), strict=True))
        read = self.read(I_t, outputs, I_in, k)
        draw = noise.index_select(0, self.draw.index_select(0, number))[0] if self.draws > 1 else None
        return combined({**k, "offset": 0.0}, read, I_t, I_in, draw), read.pred_x_start

    def read(self, I_t: Any, outputs: Sequence[Any], I_in: Any, k: Mapping[str, Any]) -> Prediction:
        """Read the networks' outputs out, with the coefficients `k` of a step."""
        return read_out(
            self.objective,
            I_t,
            outputs[0],
            outputs[1] if len(outputs) > 1 else None,
            0.0 if I_in is None else I_in,
            k["alpha_bar"],
            k["beta_bar"],
            k["one_minus_alpha_bar"],
            self.clip_res,
        )


def _without_our_ops(networks: nn.Module, device: torch.device) -> None:
    """Make `networks` call only torch's own ops."""
    for module in networks.modules():
        if isinstance(module, NormSilu):
            module.impl = "reference"
        elif isinstance(module, LastAxisNorm):
            module.impl = "torch"
        elif isinstance(module, PixelsFirstLinearAttention):
            module.impl = "chunked" if device.type == "cpu" else "whole"


@torch.no_grad()
def export(
    diffusion: ResidualDiffusion,
    path: str | PathLike[str],
    *,
    size: tuple[int, int],
    batch: int = 1,
    steps: int | None = None,
    eta: float | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Compile `diffusion`'s whole sampling loop and write it to `path`, a .pt2 file that torch alone runs.

    The function in the file takes contiguous float32 tensors, which the metadata's `inputs` names in their order, and
    returns the restored or generated images (B, C, H, W), float32 in [0, 1]:

        image (B, C, H, W) in [0, 1]           of a model that restores
        noise (draws, B, C, H, W)              standard normal, `draws` as the metadata says; the file scales it
        mask (B, C, H, W) in [0, 1]            of a model with input_condition

    In float32 the images are those of `diffusion.of_given().sample` with the same draws, within rounding: what a model
    does with whole pictures (`ResidualDiffusion.given`) is left to the caller, in words in the metadata. The metadata,
    which `load` and libtorch's `AOTIModelPackageLoader::get_metadata` return, are strings: format, inputs, batch,
    channels, height, width, draws, steps, eta, device, dtype, objective, left_to_caller, and the versions `rddm_fast`
    and `torch`.

    Args:
        diffusion: a model whose networks are RDDM's U-Nets, on the device for which the file is made. It is not
            modified.
        path: the file, which ends in .pt2. It is written whole or not at all.
        size: height and width of the images. The file takes only this size and this batch. It does not check them
            unless the environment has AOTI_RUNTIME_CHECK_INPUTS=1; `load` and the C++ example do.
        batch: images per call.
        steps, eta: number of sampling steps and their stochasticity; None takes the model's own.
        dtype: the dtype of the networks' computation: float32, bfloat16 or float16. The default is bfloat16 on a GPU
            and the weights' own dtype on a CPU.

    Returns:
        `path`. The file runs on this kind of device (the same instruction set, or the same GPU architecture) with the
        version of torch that compiled it; torch does not promise more.

    Raises:
        ExportError: an impossible path, size, batch or dtype, or no C++ compiler.
        ValueError: steps or an eta that the model does not have.
        TypeError: networks that cannot be folded.
    """
    path = Path(path)
    device = diffusion.device
    _check(path, size, batch)
    try:
        dtype = network_dtype(dtype, device)
    except ValueError as error:
        raise ExportError(str(error)) from None
    taken = diffusion.steps(steps, eta)
    loop = ExportedLoop(diffusion, taken, dtype)
    shape = (batch, diffusion.channels, *size)
    example = tuple(
        torch.zeros((loop.draws, *shape) if name == "noise" else shape, device=device) for name in loop.inputs
    )
    metadata = {
        "format": FORMAT,
        "inputs": ",".join(loop.inputs),
        **dict(zip(("batch", "channels", "height", "width"), map(str, shape), strict=True)),
        "draws": str(loop.draws),
        "steps": str(len(taken)),
        "eta": f"{diffusion.eta if eta is None else eta:g}",
        "device": device.type,
        "dtype": str(loop.networks.dtype).removeprefix("torch."),
        "objective": diffusion.objective.name,
        "left_to_caller": left_to_caller(diffusion),
        "rddm_fast": __version__,
        "torch": torch.__version__,
    }

    # The folded networks lay out their images themselves. If torch chooses a layout, it writes the queries' softmax
    # across memory, and on a CPU the whole loop takes 1.6 times as long (torch 2.13).
    options: dict[str, Any] = {"aot_inductor.metadata": metadata, "layout_optimization": False}
    if torch.__version__ < "2.13":  # Memory planning miscounts the steps of a while_loop's body and raises.
        options["allow_buffer_reuse"] = False

    def compile(unfinished: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch warns of its own code.
            # strict=True, because the other mode evaluates Python's max() in a while_loop's body to 1 (torch 2.13).
            program = torch.export.export(loop, example, strict=True)
            torch._inductor.aoti_compile_and_package(program, package_path=str(unfinished), inductor_configs=options)

    write_whole(path, compile)
    return path


def left_to_caller(diffusion: ResidualDiffusion) -> str:
    """Say what `ResidualDiffusion.given` does and an exported file does not; "" if nothing."""
    return in_words(diffusion.mask_marks, diffusion.first_guess, diffusion.clean_without)


def _check(path: Path, size: tuple[int, int], batch: int) -> None:
    if path.suffix != ".pt2":
        raise ExportError(f"{path} does not end in .pt2, as torch requires: choose such a name")
    check_folder(path)
    if len(size) != 2 or min(*size, batch) < 1:
        raise ExportError(f"size is {size} and batch {batch}: height, width and batch are 1 or more")
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        raise ExportError(
            "exporting compiles C++, and no C++ compiler was found: install g++, or set CXX to the one to use"
        ) from None


def check_folder(path: Path) -> None:
    """Raise ExportError if there is no folder for the file `path`."""
    if not path.parent.is_dir():
        raise ExportError(f"there is no folder {path.parent} to write {path.name} into: make it first")


class Exported:
    """A file that `export` wrote, called like a `FastSampler`. Nothing is compiled."""

    def __init__(self, path: str | PathLike[str]) -> None:
        if not Path(path).is_file():
            raise ExportError(f"there is no file {path}: pass one that rddm_fast.fast.export.export wrote")
        try:
            self._run: Any = torch._inductor.aoti_load_package(str(path))
            self.metadata: dict[str, str] = self._run.get_metadata()
        except RuntimeError as error:
            raise ExportError(f"{path} cannot be loaded by torch {torch.__version__}: {error}") from error
        if self.metadata.get("format") != FORMAT:
            raise ExportError(f"{path} is not an exported sampler: pass a file that rddm_fast.fast.export.export wrote")
        self.inputs = self.metadata["inputs"].split(",")
        self.draws = int(self.metadata["draws"])
        batch, channels, height, width = (int(self.metadata[n]) for n in ("batch", "channels", "height", "width"))
        self.shape = (batch, channels, height, width)
        self.device = torch.device(self.metadata["device"])

    def __call__(
        self,
        images: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        draws: Iterable[Tensor] | None = None,
    ) -> Tensor:
        """Return images in [0, 1] of the file's `shape` (B, C, H, W), on its `device`.

        The arguments are those of `ResidualDiffusion.sample`, and a seed gives the same images. Raises ValueError for
        images that the file does not take.
        """
        tensors = {name: image for name, image in (("image", images), ("mask", mask)) if image is not None}
        if {*tensors, "noise"} != {*self.inputs}:
            expected = " and ".join(name for name in self.inputs if name != "noise") or "neither image nor mask"
            raise ValueError(f"this sampler takes {expected}, and was given {' and '.join(tensors) or 'neither'}")
        for name, image in tensors.items():
            if tuple(image.shape) != self.shape:
                raise ValueError(f"this sampler was exported for {self.shape}, and {name} is {tuple(image.shape)}")
        if draws is None:
            drawn = [torch.randn(self.shape, device=self.device, generator=generator) for _ in range(self.draws)]
        else:
            drawn = list(itertools.islice(draws, self.draws))
        if len(drawn) < self.draws or any(tuple(draw.shape) != self.shape for draw in drawn):
            raise ValueError(f"this sampler takes {self.draws} draws of shape {self.shape}: pass that many, or none")
        tensors["noise"] = torch.stack(drawn)
        return self._run(*(tensors[name].to(self.device, torch.float32).contiguous() for name in self.inputs))


def load(path: str | PathLike[str]) -> Exported:
    """Load the sampler of a .pt2 file that `export` wrote; it is ready at once.

    Adds to `torch._inductor.aoti_load_package`: noise is drawn and shapes are checked. Raises ExportError if the file
    is not an exported sampler.
    """
    return Exported(path)
