"""Restore image files from a formula of the degradation: `rddm-fast restore --method` as a Python function.

solver = Solver(load_model("prior-photos"), "sr:4", sigma_y=0.05)
for outcome in solve_files(solver, ["small"], "large"):
    print(outcome.source, outcome.error or "restored")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diffusion.residual import ResidualDiffusion
from ..fast.prior import FastPrior
from ..images.find import PathOrText, check_beside
from ..images.picture import ImageError, Picture, sides
from ..inverse.operator import Operator
from ..inverse.operators.named import named, parsed
from ..inverse.restore import check_settings, walk_of
from ..inverse.windows import restore_windows, windows
from ..system.extras import require
from .compare import View, before_and_after, compared_path
from .files.each import each_file
from .files.outcome import Done, Outcome
from .files.plan import plan
from .measurement import (
    GREY,
    MASKED,
    NEED_MASK,
    WINDOWED,
    channels_of,
    check_measurable,
    kept_pixels,
    measurement_of,
    picture_with,
    pixels_of,
)
from .metrics import psnr, ssim

Advance = Callable[[int, int], None]
SMALLEST = 11
"""The least height and width of a picture whose SSIM is measured, that of its window."""
TILE = 256
"""The side of a window, where nobody chooses one."""


@dataclass(frozen=True, eq=False)
class Trial:
    """A clean picture that was degraded and restored.

    Attributes:
        restored: the result.
        degraded: A⁺y, what the measurement alone says of the picture.
        scores: PSNR in dB and SSIM against the clean picture of "input", the measurement where it is a picture of that
            size, of "A⁺y" and of "result".
    """

    restored: Picture
    degraded: Picture
    scores: dict[str, tuple[float, float]]


class Solver:
    """DDRM or DDNM with a prior, an operator and settings; call it with one degraded picture.

    Args:
        diffusion: the prior, a model that `inverse.predictor` accepts, of 1 or 3 channels.
        operator: the name of the degradation, such as "sr:4" (`inverse.operators.listing`).
        method, steps, eta, eta_b, travel, official: as in `inverse.restore`. Unless official, x_0 is clamped to the
            range of pictures at every step (clip_0 = 1), which keeps a weak prior from drifting in colour.
        sigma_y: the noise of the measurement, a standard deviation in the scale of pictures in [0, 1].
        seed: seed of all that is drawn, the same for every picture.
        tile: larger pictures are restored in windows of at most this side in pixels, by the operators in `WINDOWED`;
            None restores every picture whole.
        overlap: the least number of pixels that windows share; a quarter of the window if None.
        dtype: the dtype of the networks' computation, as in `FastPrior`.
        compile: compile the networks. This takes about a minute per image size.

    Raises:
        ValueError: an unknown operator, settings out of range, a model that is no prior, or windows for an operator
            that reaches across their border.
    """

    def __init__(
        self,
        diffusion: ResidualDiffusion,
        operator: str,
        method: str = "ddnm",
        *,
        sigma_y: float = 0.0,
        steps: int | None = None,
        eta: float = 0.85,
        eta_b: float = 1.0,
        travel: tuple[int, int] = (1, 1),
        official: bool = False,
        seed: int = 0,
        tile: int | None = None,
        overlap: int | None = None,
        dtype: torch.dtype | None = None,
        compile: bool = False,
    ) -> None:
        name, _ = parsed(operator)
        check_settings(method, sigma_y, eta, eta_b, travel)
        if tile is not None and name not in WINDOWED:
            raise ValueError(
                f"{operator} reaches across the border of a window: restore pictures whole, without tile (--tile 0)"
            )
        if tile is None and overlap is not None:
            raise ValueError("overlap is for windows, and without a tile there are none: leave it out")
        self.prior = FastPrior(diffusion, dtype=dtype, compile=compile)
        self.channels = diffusion.channels
        if self.channels not in (1, 3):
            raise ValueError(f"this prior makes images of {self.channels} channels, and a picture has 1 or 3")
        if name == "color" and self.channels == 1:
            raise ValueError(
                "this prior makes grey pictures and knows no colours: choose a prior of 3 channels for color"
            )
        self.walk = walk_of(self.prior.schedule, method, steps, travel, official=official)
        self.device, self.operator, self.name = diffusion.device, operator, name
        self.seed, self.tile, self.overlap, self.sigma_y = seed, tile, overlap, sigma_y
        # Solvers work in [-1, 1], where noise is twice that in [0, 1].
        self._settings: dict[str, Any] = {"method": method, "sigma_y": 2 * sigma_y, "steps": steps, "travel": travel}
        self._settings.update(eta=eta, eta_b=eta_b, official=official, clip_0=None if official else 1.0)

    def __call__(self, picture: Picture, mask: Picture | None = None, advance: Advance | None = None) -> Picture:
        """Restore one degraded picture.

        Args:
            picture: the degraded picture: a smaller one for sr, bicubic and old, a grey one for color and old.
            mask: for inpaint and old, of the result's size and white where pixels are missing. Without one old takes
                nothing to be missing.
            advance: called after each step with the number done and the number in all.

        Returns:
            The restored picture, with the input's alpha, bits, profile and resolution; in colour for color and old.

        Raises:
            ImageError: a picture or a mask that does not fit the operator or the prior.
            ValueError: a measurement of the operator is not a picture, or inpaint has no mask.
        """
        check_measurable(self.operator)
        self.check_mask(mask is not None)
        y, image = measurement_of(picture, self.operator, self.channels)
        kept = None if mask is None else kept_pixels(mask, picture, image)
        if kept is None and self.name == "old":
            kept = torch.ones(image[1:], dtype=torch.bool)
        restored = self._restored(y.to(self.device), self._operator(image, kept, picture), self._generator(), advance)
        return self._picture(restored, picture)

    def trial(self, picture: Picture, mask: Picture | None = None, advance: Advance | None = None) -> Trial:
        """Degrade a clean picture with noise of deviation sigma_y, restore and measure it.

        Args:
            picture: the clean picture.
            mask: as for a call; without one inpaint and old draw theirs by the seed.
            advance: as for a call.

        Raises:
            ImageError: a picture or a mask that does not fit the operator or the prior, or too small for SSIM.
            ImportError: torchmetrics is not installed.
        """
        clean = channels_of(picture, self.channels, "this prior makes grey pictures")
        if min(clean.shape[1:]) < SMALLEST:
            raise ImageError(f"{picture.path} is {sides(clean)}: SSIM needs at least {SMALLEST}x{SMALLEST} pixels")
        channels, height, width = clean.shape
        image = (channels, height, width)
        kept = None if mask is None else kept_pixels(mask, picture, image)
        operator, generator = self._operator(image, kept, picture), self._generator()
        y = operator.A(2.0 * clean[None].to(self.device) - 1.0)
        if self.sigma_y > 0:
            y = y + 2 * self.sigma_y * torch.randn(y.shape, generator=generator, device=self.device)
        shown = operator.pinv(y)
        compared = {"A⁺y": shown, "result": self._restored(y, operator, generator, advance)}
        if y.dim() == 4 and y.shape[2:] == shown.shape[2:]:
            compared = {"input": y.expand_as(shown), **compared}
        scores = {}
        for name, tensor in compared.items():
            pixels = pixels_of(tensor[0])
            scores[name] = float(psnr(pixels, clean)), float(ssim(pixels, clean))
        return Trial(self._picture(compared["result"], picture), self._picture(shown, picture), scores)

    def check_mask(self, given: bool, degrade: bool = False) -> None:
        """Raise ValueError if the operator takes no mask and one is given, or needs one that is not given."""
        if given and self.name not in MASKED:
            raise ValueError(f"{self.operator} has no use for a mask: leave it out, or choose inpaint or old:F")
        if not given and self.name in NEED_MASK and not degrade:
            raise ValueError(
                f"{self.operator} needs a mask, white where pixels are missing: pass one or a folder of masks (--mask)"
            )

    def _generator(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self.seed)

    def _operator(self, image: tuple[int, int, int], kept: Tensor | None, picture: Picture) -> Operator:
        try:
            return named(self.operator, image, mask=kept, seed=self.seed)
        except ValueError as error:
            raise ImageError(f"{picture.path}: {error}") from error

    def _restored(self, y: Tensor, operator: Operator, generator: torch.Generator, advance: Advance | None) -> Tensor:
        tile, overlap = (max(operator.image[1:]), None) if self.tile is None else (self.tile, self.overlap)
        count, done = len(self.walk) * len(windows(operator, tile, overlap)), 0

        def progress(walk: Sequence[Any]) -> Iterable[Any]:
            nonlocal done
            for step in walk:
                yield step
                done += 1
                if advance is not None:
                    advance(done, count)

        options = {"generator": generator, "progress": progress, **self._settings}
        return restore_windows(y, operator, self.prior, tile=tile, overlap=overlap, **options)

    def _picture(self, image: Tensor, source: Picture) -> Picture:
        return picture_with(pixels_of(image[0]), source, coloured=self.channels == 3 and self.name in GREY)


def default_tile(operator: str) -> int | None:
    """Return the tile for a `Solver` where nobody chooses one: None by operators that take whole pictures only."""
    return TILE if parsed(operator)[0] in WINDOWED else None


def solve_files(
    solver: Solver,
    inputs: Sequence[PathOrText],
    output: PathOrText,
    *,
    mask: PathOrText | None = None,
    degrade: bool = False,
    overwrite: bool = False,
    compare: bool = False,
    on_left_out: Callable[[Sequence[Path]], None] | None = None,
    on_start: Callable[[int, int, Path], None] | None = None,
    advance: Advance | None = None,
) -> Iterator[Outcome]:
    """Restore files and folders of degraded images into the folder `output`, as `restore_files` does.

    Args:
        solver: the method with its settings.
        inputs: image files, and folders, which stand for every image below them.
        output: the folder for the results, or the name of the one input's result.
        mask: the mask's file, or the folder of masks matched by name, white where pixels are missing.
        degrade: take the images as clean: degrade, restore and measure them. A⁺y is written beside each result
            (`degraded_path`), and the outcomes have scores.
        overwrite: also restore files whose result exists.
        compare: as in `restore_files`; with `degrade` A⁺y, the result and the clean picture are side by side.
        on_left_out: as in `restore_files`.
        on_start: called before each file with its number from 0, how many there are, and its path.
        advance: called after each step of a file with the number done and the number in all.

    Raises:
        ImageError: results would overwrite each other or an input.
        ValueError: a mask that is missing or of no use, or an operator whose measurements are not pictures.
        ImportError: torchmetrics is not installed, and `degrade` measures.
    """
    solver.check_mask(mask is not None, degrade)
    if degrade:
        require("torchmetrics.functional.image", "metrics")
    else:
        check_measurable(solver.operator)
    planned = plan(inputs, output, mask, needs_mask=mask is not None, on_left_out=on_left_out)
    if degrade:
        check_beside(planned.files, degraded_path, "degraded picture")

    def work(picture: Picture, mask: Picture | None, target: Path) -> Done:
        if not degrade:
            return Done([(target, solver(picture, mask, advance))])
        trial = solver.trial(picture, mask, advance)
        # The result comes last: where it is, both are.
        return Done([(degraded_path(target), trial.degraded), (target, trial.restored)], trial.scores)

    views = None
    if compare:
        check_beside(planned.files, compared_path, "comparison")
        views = _degraded_to_clean if degrade else before_and_after
    advice = "make it smaller"
    if solver.name in WINDOWED:
        advice = "use smaller tiles" if solver.tile else "restore it in tiles"
    yield from each_file(planned, work, overwrite=overwrite, views=views, on_start=on_start, advice=advice)


def _degraded_to_clean(source: Path, target: Path) -> list[View]:
    return [("degraded", degraded_path(target)), ("restored", target), ("clean", source)]


def degraded_path(target: Path) -> Path:
    """Where A⁺y of a result goes: out/photo.png has out/photo.degraded.png beside it."""
    return target.with_name(f"{target.stem}.degraded{target.suffix}")
