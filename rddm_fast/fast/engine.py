"""`FastSampler`: a model folded for its steps, called with images."""

from __future__ import annotations

import itertools
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.residual import ResidualDiffusion
from ..models.published import from_published
from ..ops import backends
from ..ops.group_norm_silu import LACKING as GROUP_NORM_SILU_LACKS
from ..theory.steps import Step
from .dispatch import implementation
from .fold import fold, packs
from .graphs import CapturedLoop
from .loop import Loop
from .time_shares import shares
from .together import can_be_together

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class FastSampler:
    """Restore or generate with `diffusion`'s weights several times faster than its own loop, and the same images.

    Args:
        diffusion: a `ResidualDiffusion` (ours, `compat`'s, or an object of the published class: see
            `models.published.from_published`) whose networks are RDDM's U-Nets, or a built-in model's name or a
            model folder. It is left as it was; changing its weights later does not change this sampler.
        steps, eta: sampling steps and their stochasticity; the model's own if None.
        dtype: what the networks compute in: float32, bfloat16 or float16. By default bfloat16 on a GPU, and on a CPU
            the weights' own. The image itself, the statistics of the norms and the steps are in float32 in any case.
        compile: whether torch.compile compiles the networks, at the first image of each size: by default on a GPU.
        graphs: whether the whole loop is captured as one CUDA graph for each size: by default on a GPU.
        max_graphs: how many sizes' graphs are kept; the one not used for longest goes first.

    The networks are folded once, here (see `rddm_fast.fast.fold`), and each step is one call of `ops.reverse_step_`. In
    float32 a seed gives the images that `diffusion.sample` gives, within rounding.

    Raises TypeError for networks that cannot be folded, ValueError for options that this device does not have,
    ModelError (a ValueError) for a diffusion object or a model that is none.
    """

    def __init__(
        self,
        diffusion: ResidualDiffusion | nn.Module | str | PathLike[str],
        *,
        steps: int | None = None,
        eta: float | None = None,
        dtype: torch.dtype | None = None,
        compile: bool | None = None,
        graphs: bool | None = None,
        max_graphs: int = 8,
    ) -> None:
        if isinstance(diffusion, str | PathLike):
            from ..models.folder import load_model

            diffusion = load_model(diffusion)
        elif not isinstance(diffusion, ResidualDiffusion):
            diffusion = from_published(diffusion)
        device = diffusion.alphas_cumsum.device
        on_gpu = device.type == "cuda"
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype}: choose torch.float32, torch.bfloat16 or torch.float16")
        if graphs and not on_gpu:
            raise ValueError(f"there are no CUDA graphs on {device}: leave graphs out, or move the model to a GPU")
        if max_graphs < 1:
            raise ValueError(f"max_graphs is {max_graphs}: at least one graph has to be kept")
        self.diffusion = diffusion
        self.steps = diffusion.steps(steps, eta)
        # The tables are of these steps, whatever is set on the model later.
        self.sampling_timesteps = diffusion.sampling_timesteps if steps is None else steps
        self.eta = diffusion.eta if eta is None else eta
        self.compile = on_gpu if compile is None else compile
        self.graphs = on_gpu if graphs is None else graphs
        self.max_graphs = max_graphs
        indices = torch.tensor([step.t for step in self.steps], device=device)
        times = diffusion.network_times(indices)
        dtype = torch.bfloat16 if dtype is None and on_gpu else dtype
        self.networks = fold(
            diffusion.model,  # type: ignore[arg-type]
            times if isinstance(times, list) else [times, times],
            dtype=dtype,
        )
        self.loop = Loop(
            self.networks,
            self.steps,
            objective=diffusion.read_objective,
            only=diffusion.read_outputs,
            clip_res=diffusion.clip_res,
            compiled=self.compile,
            parallel=self.graphs or not (on_gpu or self.compile),
        )
        self._graphs: OrderedDict[tuple[Any, ...], CapturedLoop] = OrderedDict()
        self._seen: set[tuple[int, ...]] = set()

    def __call__(self, images: Tensor | None = None, mask: Tensor | None = None, **options: Any) -> Tensor:
        """Images (B, C, H, W) in [0, 1] to images of the same shape in [0, 1]; `options` as in `sample`."""
        return self.sample(images, mask, **options)[-1].clamp(0, 1)

    @torch.no_grad()
    def sample(self, images: Tensor | None = None, mask: Tensor | None = None, **options: Any) -> list[Tensor]:
        """What `ResidualDiffusion.sample` returns, by the folded networks.

        `options` are that method's: batch_size, generator, draws, every_step, callback, progress. With every_step or a
        callback the loop is not run as a graph.
        """
        # The class's own: `compat`'s subclass has the published arguments instead.
        return ResidualDiffusion.sample(
            self.diffusion,
            images,
            mask,
            sampling_timesteps=self.sampling_timesteps,
            eta=self.eta,
            walk=self._walk,
            **options,
        )

    def _walk(
        self,
        I_T: Tensor,
        steps: Iterable[Step],
        I_in: Tensor | None,
        mask: Tensor | None,
        draw: Callable[[], Tensor],
        on_step: Callable[[int, Step, Tensor], None] | None,
    ) -> Tensor:
        I_T = I_T.float()
        I_in = None if I_in is None else I_in.float()
        parts = [part.float() for part in self.diffusion.constant_input(I_in, mask)]
        self._announce(I_T.shape)
        if not self.graphs or on_step is not None:
            return self.loop(I_T, I_in, parts, draw, steps, on_step)
        draws = [draw() for step in steps if step.draws]
        return self._graph(I_T, I_in, parts, len(draws))(I_T, I_in, parts, draws)

    def _graph(self, I_T: Tensor, I_in: Tensor | None, parts: Sequence[Tensor], draws: int) -> CapturedLoop:
        key = (tuple(I_T.shape), I_T.device, draws)
        if key not in self._graphs:
            while len(self._graphs) >= self.max_graphs:
                self._graphs.popitem(last=False)
            self._graphs[key] = CapturedLoop(self.loop, I_T, I_in, parts, draws)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _announce(self, shape: Sequence[int]) -> None:
        """Say at the first image of a size why it takes so long."""
        if self.compile and tuple(shape) not in self._seen:
            size = "x".join(map(str, shape))
            print(
                f"rddm_fast: compiling the networks for {size} images, once for this size", file=sys.stderr, flush=True
            )
        self._seen.add(tuple(shape))

    def warmup(self, shape: Sequence[int]) -> float:
        """Compile and capture for images of `shape` (B, C, H, W) ahead of time; returns the seconds that it took.

        It draws no random numbers. Raises ValueError for a shape that the model does not take.
        """
        started = time.perf_counter()
        device = self.diffusion.alphas_cumsum.device
        image = torch.zeros(tuple(shape), device=device)
        mask = image if self.diffusion.input_condition else None
        draws = itertools.repeat(image)
        self.sample(image if self.diffusion.condition else None, mask, batch_size=len(image), draws=draws)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    def reset(self) -> None:
        """Let go of all captured graphs and their memory."""
        self._graphs.clear()
        self._seen.clear()
        if self.diffusion.alphas_cumsum.device.type == "cuda":
            torch.cuda.empty_cache()

    def explain(self, shape: Sequence[int] | None = None) -> str:
        """What this sampler does otherwise than the published loop, a line each.

        With the `shape` (B, C, H, W) of some images, also the share of the time that each kind of work takes when
        such images are sampled: measured, in one run after one to warm up.
        """
        device, networks = self.diffusion.alphas_cumsum.device, self.networks
        on_gpu = device.type == "cuda"
        at_once = self.loop.parallel and (on_gpu or can_be_together())
        packed = packs(device, networks.dtype)
        example = torch.empty(1, 1, 1, 1, device=device, dtype=networks.dtype)
        tables = sum(name.endswith("table") for name, _ in networks.named_buffers())
        lines = {
            "steps": f"{len(self.steps)}, eta {self.eta:g}",
            "networks": f"{networks.networks}, {str(networks.dtype).removeprefix('torch.')}, channels-last",
            "two at once": ("on two streams" if on_gpu else "on half of the threads each") if at_once else "no",
            "hoisted": f"standardised weights; the time of {tables} blocks as tables of {len(self.steps)} rows; "
            f"the first convolution of the images that stay the same",
            "packed weights": "yes, in oneDNN's layout" if packed else "no",
            "group_norm_silu": backends.choose(None, device, GROUP_NORM_SILU_LACKS),
            "channel_norm": implementation("channel_norm", example),
            "linear_attention": implementation("linear_attention", example),
            "reverse_step_": backends.choose(None, device),
            "compiled": "yes, by torch.compile" if self.compile else "no",
            "graphs": f"{len(self._graphs)} captured, at most {self.max_graphs}" if self.graphs else "no",
        }
        if shape is not None:
            self.warmup(shape)
            together, self.loop.parallel = self.loop.parallel, self.loop.parallel and on_gpu
            try:  # on a CPU one network after the other: the profiler looks at one thread
                measured = shares(lambda: self.warmup(shape), device)
            finally:
                self.loop.parallel = together
            lines["time"] = ", ".join(f"{part:.0%} {name}" for name, part in measured.items() if part >= 0.005)
        return "\n".join(f"{name + ':':18}{text}" for name, text in lines.items())
