"""Cold Diffusion against what the published code computed (golden/inverse, kind `cold`)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden import Golden, golden_cases
from torch import Tensor

from rddm_fast.inverse import cold
from rddm_fast.inverse.cold.animorphosis import cosine_alphas
from rddm_fast.inverse.cold.blur import kernel
from rddm_fast.inverse.cold.fade import fade_masks
from rddm_fast.inverse.cold.snow import SNOW_LEVELS, enlarged, snow_layers

CASES = golden_cases("cold", "inverse")
FROM_THE_FAR_END = ("fade_generation", "animorphosis", "noise")
"""These were recorded as generation, which starts from x_end."""
ALGORITHM = {"default": "naive", "x0_step_down": "tacos", "ddim": "tacos"}


def cases(degradation: str) -> list[Any]:
    return [case for case in CASES if case.values[0].case["degradation"].startswith(degradation)]


def far(a: Tensor, b: Tensor) -> float:
    """The README's measure."""
    return float((a.double() - b.double()).abs().max()) / max(1.0, float(b.abs().max()))


def degradation_of(golden: Golden) -> cold.Degradation:
    """The degradation of a case, made from its published arguments."""
    case, tensors = golden.case, golden.tensors
    size, T, kind = case["image_size"], case["timesteps"], case["degradation"]
    if kind == "blur":
        schedule = case["routine"].removesuffix("_routine")
        return cold.Blur(size, T, schedule, std=case["std"], taps=case["size"], discrete=case["discrete"])
    if kind == "resolution":
        return cold.Resolution(size, T, case["routine"])
    if kind == "fade":
        return cold.Fade(size, T, discrete=case["discrete"], **fade_arguments(golden))
    if kind == "fade_generation":
        return cold.Fade(size, T, x_end=tensors["x_end"], reverse=case["reverse"], **fade_arguments(golden))
    if kind == "decolor":
        factor, total_remove = case.get("decolor_ema_factor", 0.9), case["decolor_total_remove"]
        return cold.Decolour(T, case["decolor_routine"], factor=factor, total_remove=total_remove)
    if kind == "snow":
        return cold.Snow(tensors["snow"], case["snow_level"], fix_brightness=case["fix_brightness"])
    assert kind in ("animorphosis", "noise")
    return cold.Animorphosis(T, tensors["x_end"])


def fade_arguments(golden: Golden) -> dict[str, Any]:
    case, tensors = golden.case, golden.tensors
    arguments = {
        "std": case["std"],
        "initial_mask": case["initial_mask"],
        "schedule": case.get("routine", "Incremental"),
    }
    if "offset_x" in tensors:
        arguments["offsets"] = torch.stack([tensors["offset_x"], tensors["offset_y"]], 1)
    return arguments


def restorer_of(golden: Golden) -> Callable[[Tensor, int], Tensor]:
    """The case's network: `exact`, or `conv` as the README defines it."""
    tensors, T = golden.tensors, golden.case["timesteps"]
    if golden.case["net"] == "exact":
        return lambda x_s, told: tensors["x0"]
    net = {name.removeprefix("net."): value for name, value in tensors.items() if name.startswith("net.")}

    def conv(x: Tensor, told: int) -> Tensor:
        time = F.linear(torch.tensor([[told / T]]), net["time.weight"], net["time.bias"])[..., None, None]
        h = F.silu(F.conv2d(x, net["conv1.weight"], net["conv1.bias"], padding=1) + time)
        h = F.silu(F.conv2d(h, net["conv2.weight"], net["conv2.bias"], padding=1))
        return x + F.conv2d(h, net["conv3.weight"], net["conv3.bias"], padding=1) / 2

    return conv


@pytest.mark.parametrize("golden", CASES)
def test_sampling_visits_the_published_images(golden: Golden) -> None:
    case, tensors = golden.case, golden.tensors
    net, x_0s, told = restorer_of(golden), [], []

    def restorer(x_s: Tensor, time: int) -> Tensor:
        told.append(time)
        x_0s.append(net(x_s, time))
        return x_0s[-1]

    degradation = cold.Animorphosis(case["timesteps"]) if case["sampling"] == "ddim" else degradation_of(golden)
    x_s = [tensors["degraded"]]
    algorithm = ALGORITHM[case["sampling"]]
    final = cold.sample(
        restorer, degradation, x_s[0], algorithm, official=True, on_step=lambda i, step, x: x_s.append(x)
    )
    assert told == case["times"]
    for i, (x, x_0) in enumerate(zip(x_s, x_0s, strict=False)):
        assert far(x, tensors[f"x_{i}"]) <= 1e-5, f"x_{i}"
        assert far(x_0, tensors[f"x0_{i}"]) <= 1e-5, f"x0_{i}"
    assert far(final, tensors["final"]) <= 1e-5
    assert len(x_s) == case["timesteps"] + 1 and final is x_s[-1]


@pytest.mark.parametrize("golden", [c for c in CASES if c.values[0].case["degradation"] not in FROM_THE_FAR_END])
def test_the_start_is_the_published_degraded_image(golden: Golden) -> None:
    assert far(degradation_of(golden).start(golden.tensors["x0"]), golden.tensors["degraded"]) <= 1e-5


@pytest.mark.parametrize("golden", [c for c in CASES if "D_1" in c.values[0].tensors])
def test_D_is_the_published_chain(golden: Golden) -> None:
    degradation, tensors = degradation_of(golden), golden.tensors
    assert torch.equal(degradation.D(tensors["x0"], 0), tensors["x0"])
    for s in range(1, degradation.T + 1):
        chain = tensors[f"D_{s}"]
        if s == degradation.T and golden.case.get("discrete"):
            chain = chain.mean((2, 3), keepdim=True).expand_as(chain)
        assert far(degradation.D(tensors["x0"], s), chain) <= 1e-5, f"D_{s}"


@pytest.mark.parametrize("golden", cases("blur"))
def test_the_kernels_are_the_published_ones(golden: Golden) -> None:
    case = golden.case
    for i, published in enumerate(golden.numbered("kernel")):
        g = kernel(case["routine"].removesuffix("_routine"), i, case["std"], case["size"])
        assert far(torch.outer(g, g), published) <= 1e-6


@pytest.mark.parametrize("golden", cases("fade"))
def test_the_masks_are_the_published_ones(golden: Golden) -> None:
    case, tensors = golden.case, golden.tensors
    if "masks" in tensors:  # (T, H, W), or (B, T, H, W) if drawn for each picture
        masks = fade_masks(case["image_size"], case["timesteps"], **fade_arguments(golden))
        published = tensors["masks"] if tensors["masks"].dim() == 4 else tensors["masks"][None]
        assert far(masks[:, :, 0].transpose(0, 1), published) <= 1e-6
    else:
        degradation = degradation_of(golden)
        for s, published in enumerate(tensors["alphas"], 1):
            assert far(1 - degradation.alpha_bar(s, tensors["x0"])[0], published) <= 1e-6


@pytest.mark.parametrize("golden", cases("decolor"))
def test_the_factors_are_those_of_the_published_matrices(golden: Golden) -> None:
    degradation, product = degradation_of(golden), torch.eye(3)
    for s, matrix in enumerate(golden.tensors["matrices"], 1):
        product = matrix @ product
        alpha_bar = degradation.alpha_bar(s, product)
        assert far((1 - alpha_bar) * torch.eye(3) + alpha_bar * torch.full((3, 3), 1 / 3), product) <= 1e-6


@pytest.mark.parametrize("golden", [*cases("animorphosis"), *cases("noise")])
def test_the_cosine_schedule_is_the_published_one(golden: Golden) -> None:
    alphas = torch.tensor(cosine_alphas(golden.case["timesteps"]), dtype=torch.float64)
    assert alphas[0] == 1 and far(alphas[1:], golden.tensors["alphas_cumprod"]) <= 1e-6


@pytest.mark.parametrize("golden", cases("snow"))
def test_the_layers_of_snow_are_made_as_published(golden: Golden) -> None:
    """The noise itself is not recorded. The last layer, deblurred, gives it back where it snows at all."""
    numbers = SNOW_LEVELS[golden.case["snow_level"]]
    layers = golden.tensors["snow"].double()
    T, side = layers.shape[:2]
    offsets = torch.arange(side)[:, None] - torch.arange(side)
    blur = torch.exp(-(offsets.double() ** 2) / (2 * numbers.sigma[1] ** 2)) * (offsets.abs() <= numbers.taps // 2)
    noise = torch.linalg.solve(blur / blur[side // 2].sum(), layers[-1].T).T
    assert noise.min() > -1e-3 and noise.max() < 1 + 1e-3
    in_between = (noise > 1e-3) & (noise < 1 - 1e-3)
    assert in_between.any() and noise[in_between].min() > numbers.threshold[1] - 1e-3

    # The layers with a threshold below 1 follow from it; above 1 the noise was clipped.
    made = snow_layers(noise[None], T, golden.case["snow_level"])[0]
    below = [
        i for i in range(T) if numbers.threshold[0] + (numbers.threshold[1] - numbers.threshold[0]) * i / (T - 1) < 1
    ]
    assert len(below) >= 3 and far(made[below], layers[below]) <= 1e-5

    # And it is coarse noise, enlarged: coarse noise fits all visible pixels, of which there are more than unknowns.
    coarse = -(-side * 2 // round(numbers.zoom * 2))
    basis = enlarged(torch.eye(coarse**2, dtype=torch.float64).view(-1, coarse, coarse), (side, side), numbers.zoom)
    visible = basis.flatten(1).T[in_between.flatten()]
    fit = visible @ torch.linalg.lstsq(visible, noise[in_between][:, None], driver="gelsd").solution
    assert len(visible) > coarse**2 and (fit[:, 0] - noise[in_between]).abs().max() <= 1e-4
