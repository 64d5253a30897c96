"""`FastSampler`: a model folded for its sampling steps."""

from __future__ import annotations

import copy
import itertools
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..diffusion.residual import ResidualDiffusion
from ..diffusion.start import Start
from ..models.folder import load_model
from ..models.published_object import from_published
from ..ops.networks.attention_layer import ATTENTION_LAYER
from ..ops.networks.conv3x3 import tiles
from ..ops.networks.group_norm_silu import GROUP_NORM_SILU
from ..ops.reverse_step import REVERSE_STEP_IN_PLACE
from .fold import fold_for, network_dtype, outermost
from .folded.attention import AttentionLayer, implementation
from .folded.blocks import FoldedBlock, FusedBlock
from .folded.convolutions import PackedConv2d, TiledConv2d
from .folded.gpu_convolutions import ImplicitConv2d, StemConv, TapConv2d
from .graphs import Graphs, wanted
from .loop import Loop
from .time_shares import shares
from .together import can_be_together
from .tuning.report import lines_of, summary
from .tuning.tuner import Tuner


class FastSampler:
    """Restore or generate several times faster than `diffusion`'s own loop, and get the same images.

    The networks are folded once, here (see `fast.fold`), and each step is one call of `ops.reverse_step_`. In float32 a
    seed gives the images of `diffusion.sample`, within rounding.

    Args:
        diffusion: a `ResidualDiffusion` (ours, `compat`'s, or an object of a published class: see
            `models.published_object`) whose networks are RDDM's U-Nets, a built-in model's name, or a model folder. It
            is not modified, and later changes of its weights do not reach this sampler.
        steps, eta: number of sampling steps and their stochasticity, 0 to 1; None takes the model's own.
        dtype: the dtype of the networks' computation: float32, bfloat16 or float16. The default is bfloat16 on a GPU
            and the weights' own dtype on a CPU. The image, the norms' statistics and the steps stay in float32.
        compile: torch.compile the networks at the first image of each size.
        graphs: capture the whole loop as one CUDA graph per size. The default is True on a GPU.
        parallel: compute two networks at once: on two CUDA streams inside a graph, or each on half of a CPU's threads.
            The default is True if that is known to work: in graphs, and on a CPU without `compile`; a measurement
            may find that one after the other is faster.
        max_graphs: number of sizes whose graphs are kept; the least recently used is dropped first.
        accuracy: "fast" computes 3x3 convolutions on a CPU in float32 in AMX or by Winograd's filtering, "exact" as
            sums of float32 products. Images are within 1e-5 of the eager ones, "exact" ones within 4e-6
            (`tests/fast/test_engine.py`).
        tune: choose the way to compute each layer, and whether two networks are computed at once, by measurement.

            None takes the choices that were measured on this machine before, by `rddm-fast tune` or here, and on a GPU
            `warmup` measures what is missing. True measures at the first image of each size. What was measured is kept
            in the cache folder (`fast.tuning.table`). False takes the built-in rules. The path of a table that
            `rddm-fast tune` wrote pins its choices: what it lacks is left to the rules. All ways are checked against
            the layer's definition first; images differ by rounding. On a GPU the tile of a convolution, once chosen,
            serves all samplers of the process that capture their graphs afterwards.
        experiment: the published experiment of an object of the published class, by name or folder number
            (`theory.experiments`). Objects of the later generation (`num_unet`) need it.

    Raises:
        TypeError: networks that cannot be folded.
        ValueError: options that are impossible on this device.
        ModelError: (a ValueError) `diffusion` is not an RDDM model.
        TableError: (a ValueError) a table of choices that cannot be read, or was measured on another machine.
    """

    def __init__(
        self,
        diffusion: ResidualDiffusion | nn.Module | str | PathLike[str],
        *,
        steps: int | None = None,
        eta: float | None = None,
        dtype: torch.dtype | None = None,
        compile: bool = False,
        graphs: bool | None = None,
        parallel: bool | None = None,
        max_graphs: int = 8,
        accuracy: Literal["fast", "exact"] = "fast",
        tune: bool | str | PathLike[str] | None = None,
        experiment: str | int | None = None,
    ) -> None:
        if isinstance(diffusion, str | PathLike):
            diffusion = load_model(diffusion)
        elif not isinstance(diffusion, ResidualDiffusion):
            diffusion = from_published(diffusion, experiment)
            experiment = None
        if experiment is not None:
            raise ValueError("experiment is for objects of the published class; this model says itself how it samples")
        device = diffusion.device
        on_gpu = device.type == "cuda"
        dtype = network_dtype(dtype, device)
        self.diffusion = diffusion
        self.steps = diffusion.steps(steps, eta)
        self.eta = diffusion.eta if eta is None else eta
        self.compile = compile
        self.graphs = wanted(graphs, device)
        self._graphs = Graphs(device, max_graphs)

        # Fold the networks for the times of these steps.
        if accuracy not in ("fast", "exact"):
            raise ValueError(f"accuracy is {accuracy!r}: choose fast or exact")
        self.networks = fold_for(diffusion, self.steps, dtype=dtype, exact=accuracy == "exact")
        self.loop = self._loop((self.graphs or not (on_gpu or self.compile)) if parallel is None else parallel)
        self._seen: set[tuple[int, ...]] = set()

        # Take what was measured before.
        self.tuner = Tuner.of(self.networks, tune, device)
        self._measures, self._may_choose_parallel = tune is True, parallel is None
        self._measured: set[tuple[int, ...]] = set()
        self._turn = threading.Lock()
        if self.tuner is not None and self._may_choose_parallel:
            self.tuner.give(self.loop)

    def __call__(self, images: Tensor | None = None, mask: Tensor | None = None, **options: Any) -> Tensor:
        """Restore images (B, C, H, W) in [0, 1]; the result has the same shape. `options` are those of `sample`."""
        return self.sample(images, mask, **options)[-1].clamp(0, 1)

    @torch.no_grad()
    def sample(self, images: Tensor | None = None, mask: Tensor | None = None, **options: Any) -> list[Tensor]:
        """Return the images of `ResidualDiffusion.sample`, computed by the folded networks.

        Args:
            images, mask: (B, C, H, W) in [0, 1], as far as the model takes them.
            options: batch_size, generator, draws, every_step, callback and progress of that method. With `every_step`
                or a `callback` the loop does not run as a graph.
        """
        start = self.diffusion.start(self.steps, images, mask, **options)
        I_0 = self._chosen(start)(start.float())
        return start.finished(I_0)

    def _loop(self, parallel: bool) -> Loop:
        return Loop(self.diffusion, self.networks, self.steps, compiled=self.compile, parallel=parallel)

    def _chosen(self, start: Start) -> Callable[[Start], Tensor]:
        """Return the loop, or its graph for images of this size if nobody watches the steps."""
        if self._measures:
            self._measure(start)
        self._announce(start.I_T.shape)
        return self._replayed if self.graphs and start.on_step is None else self.loop

    def _measure(self, start: Start) -> None:
        """Measure what the table of choices lacks for images of this size."""
        shape = tuple(start.I_T.shape)
        if self.tuner is None or self.tuner.table.pinned:
            return
        with self._turn:
            if shape in self._measured:
                return
            _say(f"measuring how to compute {_times(shape)} images, once for this size")
            if self.tuner.measure(self.loop, start.float(), whole=self._may_choose_parallel):
                self._graphs.clear()  # They hold what was chosen before.
                try:
                    self.tuner.table.write()
                except OSError as error:
                    _say(f"what was measured cannot be kept ({error}): the next process measures again")
            self._measured.add(shape)

    def _replayed(self, start: Start) -> Tensor:
        """Run the loop as a graph, which is captured at the first image of each size."""
        images = [image for image in (start.I_T, start.I_in, start.mask) if image is not None]
        draws = [start.draw() for step in start.steps if step.draws]  # `start.steps` shows the progress

        def walk(inputs: Sequence[Tensor]) -> Tensor:
            own = iter(inputs)
            I_T = next(own)
            I_in, mask = (None if image is None else next(own) for image in (start.I_in, start.mask))
            return self.loop(replace(start, I_T=I_T, I_in=I_in, mask=mask, steps=self.steps, draw=lambda: next(own)))

        return self._graphs([*images, *draws], walk)

    def _announce(self, shape: Sequence[int]) -> None:
        """Log why the first image of a size takes so long."""
        if self.compile and tuple(shape) not in self._seen:
            _say(f"compiling the networks for {_times(shape)} images, once for this size")
        self._seen.add(tuple(shape))

    def warmup(self, shape: Sequence[int]) -> float:
        """Measure, compile and capture for images of `shape` (B, C, H, W) ahead of time; return the seconds it took.

        On a GPU it measures what no table of choices says, unless `tune` is False; on a CPU if `tune` is True. It draws
        no random numbers of torch's generators. Raises ValueError for a shape that the model does not take.
        """
        started = time.perf_counter()
        device = self.diffusion.device
        # Not zeros: what all ways make of those says little about whether they agree.
        image = torch.rand(tuple(shape), generator=torch.Generator(device).manual_seed(0), device=device)
        mask = image if self.diffusion.input_condition else None
        given = image if self.diffusion.condition else None, mask
        options: dict[str, Any] = {"batch_size": len(image), "draws": itertools.repeat(image)}
        if self._measures or image.is_cuda:
            self._measure(self.diffusion.start(self.steps, *given, **options))
        self.sample(*given, **options)
        if image.is_cuda:
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    def reset(self) -> None:
        """Drop all captured graphs and free their memory."""
        self._graphs.clear()
        self._seen.clear()
        if self.diffusion.device.type == "cuda":
            torch.cuda.empty_cache()

    def explain(self, shape: Sequence[int] | None = None) -> str:
        """Describe how this sampler differs from the published loop, one line per difference.

        Args:
            shape: the shape (B, C, H, W) of images for which to measure the share of the time of each kind of work;
                None skips the measurement. It takes two runs, of which the second is measured.
        """
        device, networks = self.diffusion.device, self.networks
        on_gpu = device.type == "cuda"
        at_once = self.loop.parallel and (on_gpu or can_be_together())
        fused = sum(isinstance(module, FusedBlock) for module in networks.modules())
        blocks = sum(isinstance(module, FoldedBlock) for module in networks.modules())
        lines = {
            "steps": f"{len(self.steps)}, eta {self.eta:g}",
            "networks": f"{networks.networks}, {str(networks.dtype).removeprefix('torch.')}, channels-last",
            "two at once": ("on two streams" if on_gpu else "on half of the threads each") if at_once else "no",
            "hoisted": f"standardised weights; the time of {blocks} blocks as tables of {len(self.steps)} rows; "
            f"the first convolution of the images that stay the same",
            "convolutions": self._convolutions(),
            "group_norm_silu": "in the blocks" if fused == blocks else GROUP_NORM_SILU.backend(None, device),
            "channel_norm": implementation("channel_norm", device),
            "linear_attention": self._attention(),
            "reverse_step_": REVERSE_STEP_IN_PLACE.backend(None, device),
            "compiled": "yes, by torch.compile" if self.compile else "no",
            "graphs": f"{len(self._graphs.kept)} captured, at most {self._graphs.at_most}" if self.graphs else "no",
        }
        if shape is not None:
            measured = self._shares(shape)
            lines["time"] = ", ".join(f"{part:.0%} {name}" for name, part in measured.items() if part >= 0.005)
        known = [] if self.tuner is None else self.tuner.known()
        lines["choices"] = "by the rules"
        details: list[str] = []
        if self.tuner is not None and known:
            lines["choices"] = f"{summary(known)}: {self.tuner.table.path}"
            details = lines_of(known, self.tuner.table)
        return "\n".join([*(f"{name + ':':18}{text}" for name, text in lines.items()), *details])

    def _convolutions(self) -> str:
        """Count the kinds of convolutions that are larger than 1x1."""
        kinds = {
            "blocks of two with their norms in AMX": FusedBlock,
            "3x3 in AMX" if 1 in tiles() else "3x3 by Winograd's filtering": TiledConv2d,
            "packed for oneDNN": PackedConv2d,
            "3x3 by our kernel": ImplicitConv2d,
            "of other sides by our kernel": TapConv2d,
            "of the stem by our kernel": StemConv,
        }
        modules = list(outermost(self.networks))
        counts = {name: sum(isinstance(module, kind) for module in modules) for name, kind in kinds.items()}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "torch's"

    def _attention(self) -> str:
        """Say how linear attention is computed: with its norms and projections as one op, or by itself."""
        layers = [module for module in self.networks.modules() if isinstance(module, AttentionLayer)]
        device = self.diffusion.device
        if layers:
            return f"{len(layers)} with norms and projections, {ATTENTION_LAYER.backend(None, device)}"
        return implementation("linear_attention", device)

    def _shares(self, shape: Sequence[int]) -> dict[str, float]:
        """Measure the share of the time of each kind of work, largest first."""
        sampler = self
        if self.loop.parallel and self.diffusion.device.type == "cpu":
            # The profiler sees one thread, so run one network after the other.
            sampler = copy.copy(self)
            sampler.loop = self._loop(parallel=False)
        sampler.warmup(shape)
        return shares(lambda: sampler.warmup(shape), self.diffusion.device)


def _say(text: str) -> None:
    print(f"rddm_fast: {text}", file=sys.stderr, flush=True)


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
