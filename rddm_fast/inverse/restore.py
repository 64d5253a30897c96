"""`restore`: a picture from its measurement y = A x + n, by DDRM or DDNM with any prior."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..diffusion.start import noise_source
from ..ops.noise import noise as normals
from ..ops.noise import signed64
from ..theory.schedule import Schedule
from .ddnm import ddnm, ddnm_plus, ddnm_steps
from .ddrm import ddrm, ddrm_start
from .operator import Operator, SpectralOperator
from .range_null import range_null_steps, range_null_walk
from .solver_steps import OnStep, Predict, SolverStep, solver_indices, solver_steps
from .travel import up_from_x_0, up_from_x_t, visited

METHODS = {"ddnm": ("ddnm", 100), "ddnm+": ("ddnm", 100), "ddnm+eq19": ("ddnm", 100), "ddrm": ("ddrm", 20)}
"""The methods of `restore` by name, each with the published rule for its indices and the published number of steps."""


@torch.no_grad()
def restore(
    y: Tensor,
    operator: Operator,
    predict: Predict,
    method: str = "ddnm",
    sigma_y: float = 0.0,
    steps: int | None = None,
    *,
    eta: float = 0.85,
    eta_b: float = 1.0,
    travel: tuple[int, int] = (1, 1),
    official: bool = False,
    indices: str | None = None,
    clip_0: float | None = None,
    schedule: Schedule | None = None,
    noise: Iterable[Tensor] | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    on_step: OnStep | None = None,
    progress: Callable[[Sequence[Any]], Iterable[Any]] | None = None,
) -> Tensor:
    """Restore images from the measurement `y`. Everything is in the scale of images in [-1, 1].

    Args:
        y: the measurement, (B, *operator.measured), float32 or float64. The work is done on its device in its dtype.
        operator: A.
        predict: the prior, `predict(x_t, t) -> epsilon`; `predictor(diffusion)` makes one.
        method: "ddnm" takes any operator: without noise it is DDNM's Algorithm 1, and with sigma_y > 0 it is DDNM+, by
            eq. 51 if the operator has a decomposition and by eq. 19 if not. "ddnm+" is eq. 51, "ddnm+eq19" eq. 19, for
            every sigma_y. "ddrm" and "ddnm+" need an operator with a decomposition, a `SpectralOperator`.
        sigma_y: the noise of y, a standard deviation. For an 8-bit picture it is twice that in [0, 1].
        steps: the number of steps; None for the published one, 20 for DDRM and 100 for DDNM.
        eta: the share of new noise, 0 to 1. It is DDRM's, not DDIM's: at 1 a step forgets epsilon.
        eta_b: DDRM's weight of y where y is cleaner than the step, 0 to 1. DDNM takes none.
        travel: DDNM's time travel (l, r); (1, 1) for none. Each step back up goes from x_t.
        official: as the published code does. DDRM: the strict inequality and the start divided by Sigma_T. "ddnm" and
            "ddnm+eq19": the simplified code, whose noise is scaled twice. All: the published indices, and travel from
            the last x_0. "ddnm+" keeps epsilon in its right basis.
        indices: "exact", "ddrm" or "ddnm": the rule for the indices visited (`solver_indices`). None is "exact", and
            the method's own published rule if official.
        clip_0: clamp the x_0 that the prior implies to this half-width, and epsilon with it, before y corrects x_0.
            DDNM's hq_demo takes 1; None clamps nothing, as both published codes for small images. It matters where the
            prior is weak and the null space large, as for colour.
        schedule: what the prior was trained with. None is `predict.schedule`, and DDPM's linear schedule of 1000 steps
            where `predict` has none.
        noise: the standard normal draws as images (B, C, H, W), in order: one for the start, then one for each step.
            Draws are images even where the method works in spectral coordinates, so the basis has no influence.
        generator: the generator of the draws, on the device of `y`. Pass one of noise, generator and seed; torch's
            global generator draws without any.
        seed: draw by `ops.noise`, the same on every device: stream 0 for the start, stream i + 1 for step i. The steps
            of "ddrm" and "ddnm+" draw spectral coordinates inside their kernel, which saves a transform a step.
        on_step: called after every step with its number, the step and the image.
        progress: wraps the list of steps, as tqdm does.

    Returns:
        The images, (B, C, H, W) in [-1, 1], not clamped.

    Raises:
        TypeError: an operator that is not an `Operator`, or a `y` that is not floating point.
        ValueError: arguments that are out of range or do not fit each other; the sentence says which.
    """
    spectral = _check(y, operator, method, sigma_y, eta, eta_b, travel)
    if clip_0 is not None and not clip_0 > 0:
        raise ValueError(f"clip_0 must be a half-width above 0, such as 1, not {clip_0}: None clamps nothing")
    _check_one_source(noise=noise, generator=generator, seed=seed)
    schedule = schedule or getattr(predict, "schedule", None) or Schedule.from_ddim()
    walk = walk_of(schedule, method, steps, travel, official=official, indices=indices)
    shape, needed = (len(y), *operator.image), 1 + len(walk)
    if seed is None:
        source = noise_source(shape, y.device, needed, generator, checked_noise(noise, needed, shape))
    else:
        source = _seeded_source(shape, signed64(seed), y.device)

    def draw() -> Tensor:
        return source().to(y.dtype)

    def ask(x_t: Tensor, t: int) -> Tensor:
        epsilon = predict(x_t, t)
        if epsilon.shape != x_t.shape:
            raise ValueError(
                f"predict returned {tuple(epsilon.shape)} for images of {tuple(x_t.shape)}: it must return the noise "
                f"alone, in the shape of the image"
            )
        epsilon = epsilon.to(x_t.dtype)
        return epsilon if clip_0 is None else clamped(epsilon, x_t, schedule.alpha_bar_at(t), clip_0)

    def shown(walk: Sequence[Any]) -> Iterable[Any]:
        return walk if progress is None else progress(walk)

    x_T = draw()
    of_steps = draw if seed is None else seed
    if method == "ddrm":
        assert spectral is not None
        x_T = ddrm_start(y, spectral, walk[0], sigma_y, x_T, official)
    form = {"ddnm+eq19": "ddnm"}.get(method, method)
    if method == "ddnm" and sigma_y > 0 and spectral is not None and not official:
        form = "ddnm+"

    # One pass over the pixels a step, where all of the range space is treated alike.
    blocks = operator.rank_one_blocks(y)
    from_x_0 = official and any(step.up for step in walk)  # such a step back up needs an image that no op keeps
    if blocks is not None and (form == "ddnm" or blocks.s is not None) and not from_x_0:
        numbers: dict[str, Any] = {"sigma_y": sigma_y, "eta": eta, "eta_b": eta_b, "official": official}
        in_pixels = range_null_steps(form, walk, blocks.s, **numbers)
        return range_null_walk(ask, x_T, operator.pinv(y), blocks, shown(in_pixels), draw=of_steps, on_step=on_step)

    # Else in spectral coordinates, or by A and A+ alone.
    if form == "ddrm":
        assert spectral is not None
        numbers = {"sigma_y": sigma_y, "eta": eta, "eta_b": eta_b, "official": official}
        return ddrm(ask, x_T, y, spectral, shown(walk), draw=of_steps, on_step=on_step, **numbers)
    back_up = up_from_x_0 if official else up_from_x_t
    if form == "ddnm+":
        assert spectral is not None
        numbers = {"sigma_y": sigma_y, "eta": eta, "back_up": back_up}
        return ddnm_plus(ask, x_T, y, spectral, shown(walk), draw=of_steps, on_step=on_step, **numbers)
    with_numbers = ddnm_steps(walk, eta, sigma_y, official=official)
    return ddnm(ask, x_T, y, operator, shown(with_numbers), draw=draw, back_up=back_up, on_step=on_step)


def clamped(epsilon: Tensor, x_t: Tensor, alpha_bar: float, clip_0: float) -> Tensor:
    """Return the noise that leaves x_0 = (x_t - beta_bar epsilon) / (1 - alpha_bar) in [-clip_0, clip_0].

    Args:
        epsilon, x_t: (B, C, H, W).
        alpha_bar: that of x_t, below 1; beta_bar^2 = 1 - (1 - alpha_bar)^2.
        clip_0: the half-width.
    """
    root_a = 1.0 - alpha_bar
    sigma = (1.0 - root_a**2) ** 0.5
    x_0 = ((x_t - sigma * epsilon) / root_a).clamp_(-clip_0, clip_0)
    return (x_t - root_a * x_0) / sigma


def walk_of(
    schedule: Schedule,
    method: str,
    steps: int | None = None,
    travel: tuple[int, int] = (1, 1),
    *,
    official: bool = False,
    indices: str | None = None,
) -> list[SolverStep]:
    """Return the steps that `restore` takes with these settings, which are its own, time travel included.

    Raises:
        ValueError: settings out of range, or a schedule that is not DDPM's.
    """
    published_rule, published_steps = METHODS[method]
    count = min(published_steps, schedule.timesteps) if steps is None else steps
    rule = indices or (published_rule if official else "exact")
    return solver_steps(schedule, visited(solver_indices(schedule.timesteps, count, rule), *travel))


def check_settings(
    method: str,
    sigma_y: float = 0.0,
    eta: float = 0.85,
    eta_b: float = 1.0,
    travel: tuple[int, int] = (1, 1),
) -> None:
    """Raise ValueError for settings of `restore` that are wrong whatever the operator and the measurement."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}: choose one of {', '.join(METHODS)}")
    if not (math.isfinite(sigma_y) and sigma_y >= 0):
        raise ValueError(f"sigma_y must be a standard deviation of 0 or more, not {sigma_y}")
    for name, share in (("eta", eta), ("eta_b", eta_b)):
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"{name} must be between 0 and 1, not {share}")
    if method == "ddrm" and tuple(travel) != (1, 1):
        raise ValueError(
            f"DDRM has no time travel: leave travel at (1, 1) instead of {tuple(travel)}, or choose 'ddnm'"
        )


def _check(
    y: Tensor, operator: Operator, method: str, sigma_y: float, eta: float, eta_b: float, travel: tuple[int, int]
) -> SpectralOperator | None:
    """Raise a sentence for what does not fit; return the operator if it has a decomposition."""
    if not isinstance(operator, Operator):
        raise TypeError(f"operator is {type(operator).__name__}: pass an rddm_fast.inverse Operator")
    if not y.is_floating_point():
        raise TypeError(f"the measurement y is {y.dtype}: pass floating-point values in the scale [-1, 1]")
    if tuple(y.shape[1:]) != tuple(operator.measured):
        expected = ", ".join(map(str, ("B", *operator.measured)))
        raise ValueError(f"the measurement y has shape {tuple(y.shape)}, and this operator measures ({expected})")
    check_settings(method, sigma_y, eta, eta_b, travel)
    spectral = operator if isinstance(operator, SpectralOperator) else None
    if spectral is None and method in ("ddrm", "ddnm+"):
        raise ValueError(
            f"{method!r} needs an operator with a singular value decomposition (SpectralOperator), and "
            f"{type(operator).__name__} has none: choose 'ddnm', which needs only A and its pseudo-inverse"
        )
    return spectral


def _seeded_source(shape: tuple[int, ...], seed: int, device: torch.device) -> Callable[[], Tensor]:
    """Return a function that returns the next draw of the seed, stream after stream."""
    streams = itertools.count()
    return lambda: normals(shape, seed, next(streams), device)


def _check_one_source(**sources: object) -> None:
    given = [name for name, source in sources.items() if source is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} were all given: the draws come from one of {', '.join(sources)}")


def checked_noise(noise: Iterable[Tensor] | None, needed: int, shape: tuple[int, ...]) -> list[Tensor] | None:
    """Return `noise` as a list; raise ValueError unless it holds as many draws as `needed`, each of `shape`."""
    if noise is None:
        return None
    draws = list(noise)
    if len(draws) != needed:
        raise ValueError(
            f"noise holds {len(draws)} draws, and this walk takes {needed}: one to start, one for each step"
        )
    for number, z in enumerate(draws):
        if tuple(z.shape) != shape:
            raise ValueError(f"draw {number} of noise has shape {tuple(z.shape)}: each must be an image of {shape}")
    return draws
