"""range_null_step against the torch ops that DDNM's published step runs, and torch.compile of our definition.

rddm-fast bench range_null_step [--quick] [--json FILE] [--csv FILE] [--plot STEM]

One step of DDNM (eta = 0.85, a y without noise) for super-resolution by 4, inpainting, colourisation and an old
photograph. `eager` is the published arithmetic, in our own words: x_0, A x_0 - y and A⁺ by the operator's singular
vectors as matrices and permutations, then DDIM's combination. `compile` is torch.compile of our definition in plain
torch. The noise is given as a tensor to all, so that all can be checked, and five images are moved. In `drawn` each
draws its own noise, as in a solver's run, and four are moved. A⁺y counts as an image. `in place` is `range_null_step_`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rddm_fast.ops import noise, range_null_step, range_null_step_, range_null_step_reference
from rddm_fast.ops.inverse.range_null_step import projected, step_numbers

from ..harness import Case, Op, Work, our_backends
from ..report import main as run

A_T, A_S, ETA = 0.25, 0.26, 0.85  # Near to each other: an image that is stepped many times over stays in range.
FACTOR = 4
GREY = (0.3333, 0.3334, 0.3333)
DRAWN_SIGMA, PREDICTED_SIGMA = ETA * (1 - A_S) ** 0.5, (1 - ETA**2) ** 0.5 * (1 - A_S) ** 0.5
STEP: dict[str, float] = {
    **{"root_a_t": A_T**0.5, "sigma_t": (1 - A_T) ** 0.5},
    **{"n_0": A_S**0.5, "n_e": PREDICTED_SIGMA, "n_z": DRAWN_SIGMA},
    **{"r_0": 0.0, "r_e": PREDICTED_SIGMA, "r_z": DRAWN_SIGMA, "k_y": A_S**0.5},
}


class Published:
    """A and A⁺ as the published operators have them: U, singular values and V^T, of flat images."""

    def __init__(self, case: Case, device: torch.device, rows: Tensor) -> None:
        """`rows`: the row of A in a block, (1, n)."""
        dtype = getattr(torch, case.dtype)
        u, s, vt = torch.linalg.svd(rows.double())
        self.shape, self.sign, self.s = case.shape, float(u), float(s)
        self.vt = vt.to(device, dtype)

    def A(self, x: Tensor) -> Tensor:
        return self.sign * (self.s * self.coordinates(x)[:, : self.measured])

    def pinv(self, y: Tensor) -> Tensor:
        z = y.new_zeros(len(y), y[0].numel() * self.vt.shape[1])
        z[:, : self.measured] = self.sign * y.reshape(len(y), -1) / self.s
        return self.image(z)

    measured: int

    def coordinates(self, x: Tensor) -> Tensor:
        """V^T x, the measured coordinates first."""
        raise NotImplementedError

    def image(self, z: Tensor) -> Tensor:
        """V z."""
        raise NotImplementedError


class PublishedMean(Published):
    """Super-resolution: V^T of each block by a matrix product, then one strided copy for each of its rows."""

    def __init__(self, case: Case, device: torch.device) -> None:
        super().__init__(case, device, torch.full((1, FACTOR**2), 1 / FACTOR**2))
        _, c, h, w = case.shape
        self.down, self.across = h // FACTOR, w // FACTOR
        self.measured = c * self.down * self.across

    def coordinates(self, x: Tensor) -> Tensor:
        b, c, f, n = len(x), self.shape[1], FACTOR, FACTOR**2
        blocks = x.reshape(self.shape).unfold(2, f, f).unfold(3, f, f).contiguous().reshape(-1, n, 1)
        turned = torch.matmul(self.vt, blocks).reshape(b, c, -1, n)
        z = x.new_zeros(b, x[0].numel())
        z[:, : self.measured] = turned[..., 0].reshape(b, -1)
        for i in range(n - 1):
            z[:, self.measured + i :: n - 1] = turned[..., i + 1].reshape(b, -1)
        return z

    def image(self, z: Tensor) -> Tensor:
        b, c, f, n = len(z), self.shape[1], FACTOR, FACTOR**2
        turned = z.new_zeros(b, c, self.down * self.across, n)
        turned[..., 0] = z[:, : self.measured].reshape(b, c, -1)
        for i in range(n - 1):
            turned[..., i + 1] = z[:, self.measured + i :: n - 1].reshape(b, c, -1)
        blocks = torch.matmul(self.vt.T, turned.reshape(-1, n, 1)).reshape(b, c, self.down, self.across, f, f)
        return blocks.permute(0, 1, 2, 4, 3, 5).contiguous().reshape(b, -1)


class PublishedGrey(Published):
    """Colourisation: V^T of each pixel's channels by a matrix product."""

    def __init__(self, case: Case, device: torch.device) -> None:
        super().__init__(case, device, torch.tensor([GREY]))
        self.measured = case.shape[2] * case.shape[3]

    def _turned(self, x: Tensor, matrix: Tensor) -> Tensor:
        b, c = len(x), self.shape[1]
        pixels = x.reshape(b, c, -1).permute(0, 2, 1).reshape(-1, c, 1)
        return torch.matmul(matrix, pixels).reshape(b, -1, c).permute(0, 2, 1).reshape(b, -1)

    def coordinates(self, x: Tensor) -> Tensor:
        return self._turned(x, self.vt)

    def image(self, z: Tensor) -> Tensor:
        return self._turned(z, self.vt.T)


class PublishedSelection(Published):
    """Inpainting: V^T is a permutation, by two lists of indices."""

    def __init__(self, case: Case, device: torch.device, mask: Tensor) -> None:
        super().__init__(case, device, torch.ones(1, 1))
        flat = mask.flatten()[:, None].expand(-1, case.shape[1]).flatten()  # pixel by pixel, its channels together
        self.kept, self.missing = flat.nonzero()[:, 0], (~flat).nonzero()[:, 0]
        self.measured = len(self.kept)

    def coordinates(self, x: Tensor) -> Tensor:
        pixels = x.clone().reshape(len(x), self.shape[1], -1).permute(0, 2, 1).reshape(len(x), -1)
        z = torch.zeros_like(pixels)
        z[:, : self.measured] = pixels[:, self.kept]
        z[:, self.measured :] = pixels[:, self.missing]
        return z

    def pinv(self, y: Tensor) -> Tensor:
        z = y.new_zeros(len(y), len(self.kept) + len(self.missing))
        z[:, : self.measured] = y / self.s
        return self.image(z)

    def image(self, z: Tensor) -> Tensor:
        pixels = torch.zeros_like(z)
        pixels[:, self.kept] = z[:, : self.measured]
        pixels[:, self.missing] = z[:, self.measured :]
        return pixels.reshape(len(z), -1, self.shape[1]).permute(0, 2, 1).reshape(len(z), -1)


class PublishedOldPhotograph:
    """Mask, grey and block mean as functions of images; back, the mean again as often as pixels are kept.

    The published inverse does not divide by the share of kept pixels, so it is no pseudo-inverse, and the results could
    not be compared.
    """

    def __init__(self, case: Case, device: torch.device, mask: Tensor) -> None:
        self.shape, self.mask = case.shape, mask.to(device, getattr(torch, case.dtype))
        self.share = torch.nn.functional.avg_pool2d(self.mask[None, None].float(), FACTOR).to(self.mask)

    def A(self, x: Tensor) -> Tensor:
        grey = (x.reshape(self.shape) * self.mask).mean(1, keepdim=True)
        return torch.nn.functional.avg_pool2d(grey, FACTOR)

    def pinv(self, y: Tensor) -> Tensor:
        y = torch.where(self.share > 0, y / self.share.clamp(min=1e-3), 0.0)
        large = y.repeat_interleave(FACTOR, 2).repeat_interleave(FACTOR, 3)
        return large.repeat(1, self.shape[1], 1, 1) * self.mask


def eager(operator: Any, x_t: Tensor, epsilon: Tensor, y: Tensor, z: Tensor | None) -> Tensor:
    """The published step: x_0, its correction in the range space, and DDIM's combination."""
    x_0 = (x_t - epsilon * (1 - A_T) ** 0.5) / A_T**0.5
    x_hat = x_0 - operator.pinv(operator.A(x_0.reshape(len(x_0), -1)) - y).reshape(x_0.shape)
    z = torch.randn_like(x_0) if z is None else z
    return A_S**0.5 * x_hat + DRAWN_SIGMA * z + PREDICTED_SIGMA * epsilon


def needed(
    x_t: Tensor, epsilon: Tensor, pinv_y: Tensor, z: Tensor | None, factor: int, weights: Any, mask: Tensor | None
) -> Tensor:
    """The definition in plain torch."""
    z = torch.randn_like(x_t) if z is None else z
    return range_null_step_reference(x_t, epsilon, pinv_y, mask, z, None, 0, factor, weights, step_numbers(**STEP))


compiled = torch.compile(needed, dynamic=False)


def _work(name: str, drawn: bool, case: Case, device: torch.device, seed: int) -> Work:
    generator = torch.Generator(device).manual_seed(seed)
    x_t, epsilon, clean = (case.image(generator, device) for _ in range(3))
    z = None if drawn else case.image(generator, device)
    mask = torch.rand(case.shape[2:], generator=generator, device=device) < 0.5
    thirds = [1 / case.shape[1]] * case.shape[1]
    kinds: dict[str, Callable[[], tuple[dict[str, Any], Any]]] = {
        "sr4": lambda: ({"factor": FACTOR}, PublishedMean(case, device)),
        "inpaint": lambda: ({"mask": mask}, PublishedSelection(case, device, mask)),
        "colour": lambda: ({"weights": GREY}, PublishedGrey(case, device)),
        "old": lambda: (
            {"factor": FACTOR, "weights": thirds, "mask": mask},
            PublishedOldPhotograph(case, device, mask),
        ),
    }
    blocks, operator = kinds[name]()
    split = {"factor": 1, "weights": None, "mask": None, **blocks}
    pinv_y = projected(clean.float(), **split).to(clean.dtype).to(memory_format=torch.contiguous_format)
    pinv_y = torch.empty_like(clean).copy_(pinv_y)
    y = operator.A(clean.reshape(len(clean), -1))
    given: dict[str, Any] = {**STEP, **split, "noise": z, "seed": seed if drawn else None}

    def functional(backend: str) -> Callable[[], Sequence[Tensor]]:
        return lambda: [range_null_step(x_t, epsilon, pinv_y, **given, impl=backend)]

    def in_place(backend: str) -> Callable[[], Sequence[Tensor]]:
        state = x_t.clone()  # Only the first call is checked; later calls continue from its result.
        return lambda: [range_null_step_(state, epsilon, pinv_y, **given, impl=backend)]

    def exact() -> Sequence[Tensor]:
        draw = noise(case.shape, seed, device=device) if z is None else z
        wide = [image.double() for image in (x_t, epsilon, pinv_y)]
        return [range_null_step(*wide, **{**given, "noise": draw.double(), "seed": None}, impl="reference")]

    calls: dict[str, Callable[[], Sequence[Tensor]]] = {}
    for backend in our_backends(device):
        calls |= {backend: functional(backend), f"{backend} in place": in_place(backend)}
    calls["eager"] = lambda: [eager(operator, x_t, epsilon, y, z)]
    calls["compile"] = lambda: [compiled(x_t, epsilon, pinv_y, z, **split)]
    return Work(calls, exact, draws=("eager", "compile") if drawn else ())


OPS = [
    Op(f"ddnm {name}{' drawn' * drawn}", 5 - drawn, 5 - drawn, functools.partial(_work, name, drawn))
    for drawn in (False, True)
    for name in ("sr4", "inpaint", "colour", "old")
]


def main(argv: Sequence[str] | None = None) -> None:
    """This op's benchmark, with the options of `report.main`."""
    run(OPS, __doc__, argv)
