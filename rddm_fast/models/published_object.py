"""Models from live objects of the published `ResidualDiffusion` classes, RDDM's and DiffUIR's.

The published class can be edited in its source, and often is. So the object's own `sample` is run once with small
stand-ins for its networks, and must make the images that our loop makes with the same ones.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.residual import ResidualDiffusion
from ..system.errors import one_line
from ..theory.experiments import AOSA, CHOICES, DIFFUIR, EXPERIMENTS, Experiment
from .errors import MissingArgument, ModelError
from .identity import named, settings_of
from .published import assembled

SIDE = 16
"""Height and width of the images by which two loops are compared."""
TOLERANCE = 1e-3
"""Of images in [0, 1]. Float32 loops of 1000 steps differ by 1e-5; a changed coefficient by more than 1e-2."""


def from_published(diffusion: Any, experiment: str | int | None = None) -> ResidualDiffusion:
    """Build our model with the weights and settings of `diffusion`, an object of the published ResidualDiffusion.

    Any class will do that has the published attributes and state-dict keys. Weights are copied, to the same device.

    Args:
        diffusion: the object; it stays as it was.
        experiment: the published experiment whose source the class is from (`theory.experiments`). Objects of the later
            generation (`num_unet`) need it; the earlier one has one experiment, "restoration".

    Raises:
        MissingArgument: (a ModelError) the experiment is needed.
        ModelError: an attribute is missing, the networks are not RDDM's, or the object's own loop makes other images
            than the experiment's.
    """
    name = type(diffusion).__name__
    wanted = ("model", "objective", "num_timesteps", "sampling_timesteps", "alphas_cumsum", "betas_cumsum")
    if absent := [attribute for attribute in wanted if not hasattr(diffusion, attribute)]:
        raise ModelError(
            f"{name} is not an RDDM diffusion object, it has no attribute {absent[0]!r}: pass a ResidualDiffusion, "
            "a built-in model's name or a model folder"
        )
    known, later = named(experiment), hasattr(diffusion.model, "num_unet")
    if known is None and later:
        raise MissingArgument(
            "experiment",
            f"{name} is of the later published generation, whose experiments differ in their source alone",
            CHOICES,
        )
    known = known or EXPERIMENTS["restoration"]
    state = {key: value.detach().float().cpu() for key, value in diffusion.state_dict().items()}
    condition = bool(getattr(diffusion, "condition", False))
    settings: dict[str, Any] = settings_of(state, name, known, later=later)
    groups = {module.num_groups for module in diffusion.model.modules() if isinstance(module, nn.GroupNorm)}
    # Where it restores, the published code samples with eta = 0 whatever it was given; DiffUIR's does not.
    eta_is_0 = known.eta_is_0 or (condition and known is not DIFFUIR)
    with torch.random.fork_rng(devices=[]):  # The new networks' first weights, which are not used, are drawn.
        ours = assembled(
            state,
            name,
            known,
            objective=None if known is AOSA else str(diffusion.objective),
            condition=condition,
            input_condition=bool(getattr(diffusion, "input_condition", False)),
            self_condition=bool(getattr(diffusion, "self_condition", False)),
            resnet_block_groups=groups.pop() if len(groups) == 1 else 8,
            sum_scale=getattr(diffusion, "sum_scale", None) or (0.01 if condition else 1.0),
            sampling_timesteps=int(diffusion.sampling_timesteps),
            eta=0.0 if eta_is_0 else float(getattr(diffusion, "ddim_sampling_eta", 0.0)),
            test_res_or_noise=getattr(diffusion, "test_res_or_noise", None),
            input_condition_mask=bool(getattr(diffusion, "input_condition_mask", False)),
            loss_type=getattr(diffusion, "loss_type", "l1"),
            image_size=getattr(diffusion, "image_size", None),
            **settings,
        ).to(diffusion.alphas_cumsum.device)
    _check_loop(diffusion, ours, known)
    return ours


def _check_loop(diffusion: Any, ours: ResidualDiffusion, experiment: Experiment) -> None:
    """Raise ModelError unless `diffusion` samples as `ours` does."""
    name = type(diffusion).__name__
    with stand_in(ours.model, ours), stand_in(diffusion.model, ours) as times:
        if not hasattr(diffusion, "sample"):  # It has no loop of its own; its networks still see a time.
            _check_times(diffusion, ours, times)
            return
        try:
            theirs = _run(ours, lambda given: _their_images(diffusion, ours, given, experiment))
        except Exception as error:
            raise ModelError(f"{name}.sample() fails, so its images are not known: {one_line(error)}") from error
        expected = _run(ours, lambda given: ours.sample(*given, batch_size=1, every_step=True))
    same = len(theirs) == len(expected) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=TOLERANCE)
        for a, b in zip(theirs, expected, strict=True)
    )
    if not same:
        raise ModelError(
            f"{name}.sample() does not sample as experiment {experiment} does: name another experiment, or see what is "
            "edited in its source by rddm-fast doctor SOURCE.py"
        )


def _check_times(diffusion: Any, ours: ResidualDiffusion, seen: list[Any]) -> None:
    t = torch.full((1,), ours.num_timesteps // 2, dtype=torch.long, device=ours.device)
    image = torch.zeros(1, ours.channels, SIDE, SIDE, device=ours.device)
    given = image if ours.condition and not ours.img_to_img_translation else 0
    diffusion.model_predictions(given, image, t, image if ours.input_condition else 0)
    both = (ours.network_times(t), *seen)
    expected, found = (times if isinstance(times, list | tuple) else [times] for times in both)
    if not torch.allclose(found[0].float(), expected[0].float(), rtol=1e-5, atol=1e-3):
        raise ModelError(
            f"{type(diffusion).__name__} gives its networks the time {float(found[0]):g} at t = {int(t)}, where its "
            f"experiment gives {float(expected[0]):g}: name another experiment"
        )


def _run(ours: ResidualDiffusion, sample: Callable[[list[Tensor]], list[Tensor]]) -> list[Tensor]:
    """Return the images of a sampling of small images, the same for every loop, without printing."""
    on_gpu = [ours.device] if ours.device.type == "cuda" else []
    with torch.random.fork_rng(devices=on_gpu), torch.no_grad():
        torch.manual_seed(0)
        count = ours.condition + ours.input_condition
        given = [torch.rand(1, ours.channels, SIDE, SIDE).to(ours.device) for _ in range(count)]
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return [image.detach() for image in sample(given)]


def _their_images(diffusion: Any, ours: ResidualDiffusion, given: list[Tensor], experiment: Experiment) -> list[Tensor]:
    kept, diffusion.image_size = diffusion.image_size, ours.image_size
    try:
        if experiment is DIFFUIR:
            return list(diffusion.sample(given[0], batch_size=1, last=False))
        return list(diffusion.sample(given or 0, batch_size=1, last=False))
    finally:
        diffusion.image_size = kept


@contextlib.contextmanager
def stand_in(model: nn.Module, ours: ResidualDiffusion) -> Iterator[list[Any]]:
    """Let `model` compute cheap functions of its image and its times; yield a list that holds its first times."""
    seen: list[Any] = []
    takes_noise_time = ours.read_objective.outputs == 1 and ours.objective.name == "pred_noise"

    def forward(
        x: Tensor, time: Any, x_self_cond: Tensor | None = None, only: tuple[int, ...] | None = None
    ) -> list[Tensor]:
        if not seen:
            seen.append(time)
        times = list(time) if isinstance(time, list | tuple) else [time, time]
        if ours.objective.outputs == 1:
            times = times[1:] if takes_noise_time else times[:1]
        shared = x[:, : ours.channels] + 0.3 * x[:, -ours.channels :]
        if isinstance(x_self_cond, Tensor):
            shared = shared + 0.2 * x_self_cond
        outputs = [
            torch.sin(shared * (1.5 + i) + 0.01 * t.to(x.dtype)[:, None, None, None]) for i, t in enumerate(times)
        ]
        return outputs if only is None else [outputs[i] for i in only]

    model.forward = forward  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        del model.forward
