"""How a sampler starts and how it ends. Every sampler here has three pieces:

    start = diffusion.start(steps, I_in, generator=generator)      # shapes, device, range, the noisy image I_T
    I_0 = diffusion.walk(start)                                    # or fast.loop.Loop, or a path
    images = start.finished(I_0)                                   # [0, 1]

`ResidualDiffusion.start` makes a `Start`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..images.given.given import Given
from ..theory.steps import Step
from .reverse import OnStep


def to_signed(x: Tensor) -> Tensor:
    """Map [0, 1] to [-1, 1]."""
    return x * 2 - 1


def to_unit(x: Tensor) -> Tensor:
    """Map [-1, 1] to [0, 1]."""
    return (x + 1) * 0.5


@dataclass(frozen=True, eq=False)
class Start:
    """The first image of a walk and the walk's other inputs. Images are (B, C, H, W) in [-1, 1].

    Attributes:
        I_T: the noisy image that the walk starts from.
        I_in: the degraded image; None for generation.
        mask: the image of `input_condition`, in the range that the network takes; or None.
        steps: the steps to walk; a progress bar may wrap them.
        draw: returns the next standard normal draw of I_T's shape.
        on_step: called after every step; None if nobody watches.
        images: collects the image after every step if `every_step` was asked for.
        given: the pictures that I_in was prepared from, and how the result becomes theirs; None for generation.
    """

    I_T: Tensor
    I_in: Tensor | None
    mask: Tensor | None
    steps: Iterable[Step]
    draw: Callable[[], Tensor]
    on_step: OnStep | None
    images: list[Tensor]
    given: Given | None

    def float(self) -> Start:
        """Return the same start in float32."""
        I_in, mask = (None if image is None else image.float() for image in (self.I_in, self.mask))
        return replace(self, I_T=self.I_T.float(), I_in=I_in, mask=mask)

    def finished(self, I_0: Tensor) -> list[Tensor]:
        """Return the sampler's result: images in [0, 1], not clamped; when restoring, the noisy image first."""
        images = [to_unit(image) for image in self.images or [I_0]]
        if self.given is None:
            return images
        return [to_unit(self.I_T), *images[:-1], self.given.finished(images[-1])]


def check_input(
    I_in: Tensor | None, mask: Tensor | None, *, channels: int, condition: bool, input_condition: bool
) -> None:
    """Raise TypeError or ValueError for images that do not fit the model; the arguments are the model's settings."""
    for name, image in (("the degraded images are", I_in), ("the mask is", mask)):
        if image is not None and not image.is_floating_point():
            raise TypeError(f"{name} {image.dtype}: pass floating-point values in [0, 1]")
    if input_condition and mask is None:
        raise ValueError("this model was trained with a mask (input_condition=True): pass one")
    if not condition and I_in is not None:
        raise ValueError("this model generates: it takes no degraded image")
    if condition and I_in is None:
        raise ValueError("this model restores: pass the degraded images, (B, C, H, W) in [0, 1]")
    if I_in is not None and (I_in.ndim != 4 or I_in.shape[1] != channels):
        raise ValueError(f"images must be (B, {channels}, H, W) in [0, 1], not of shape {tuple(I_in.shape)}")


def in_words(mask_marks: str | None, first_guess: str | None, clean_without: str | None) -> str:
    """Say what these settings of a model do beside the network, for who runs the network alone; "" if nothing."""
    before = {"grey hole": "fills holes with grey", "filled hole": "fills holes", "shadow": "lights shadows"}
    marked = [before[mask_marks]] if mask_marks in before else []
    kept = ["keeps known pixels"] if mask_marks is not None else []
    guesses = [f"guesses the {first_guess}"] if first_guess is not None else []
    without = clean_without or ("blur" if first_guess == "blur" else None)
    clean = [f"leaves pictures without {without} as they are"] if without is not None else []
    return ", ".join(marked + kept + guesses + clean)


def noise_source(
    shape: Sequence[int],
    device: torch.device,
    needed: int,
    generator: torch.Generator | None,
    draws: Iterable[Tensor] | None,
) -> Callable[[], Tensor]:
    """Return a function that returns the next draw: from `draws` if they are given, else from `generator`.

    That function raises ValueError if there are fewer `draws` than the `needed` number.
    """
    if draws is None:
        return lambda: torch.randn(tuple(shape), device=device, generator=generator)
    given = iter(draws)

    def draw() -> Tensor:
        try:
            return next(given).to(device)
        except StopIteration:
            raise ValueError(f"there are too few draws: these steps take {needed}") from None

    return draw


def watcher(images: list[Tensor] | None, callback: Callable[[int, int, Tensor], None] | None) -> OnStep | None:
    """Return a function that collects the image of every step in `images` and passes it to `callback`, in [0, 1]."""
    if images is None and callback is None:
        return None

    def on_step(number: int, step: Step, image: Tensor) -> None:
        if images is not None:
            images.append(image)
        if callback is not None:
            callback(number, step.t, to_unit(image))

    return on_step
