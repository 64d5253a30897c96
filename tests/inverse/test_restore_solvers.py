"""`restore`: the recorded cases through the front door, exact consistency, and one sentence for each bad input."""

from typing import Any

import pytest
import torch
from dense_operator import DenseOperator, Simplified, block_mean, recorded_operator
from golden import Golden, golden_cases
from recorded_prior import DDPM, Asked, largest_difference, recorded_prior, white_prior
from small_models import small_model
from torch import Tensor, nn

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.noise_network import NoiseDiffusion, NoiseNetwork
from rddm_fast.inverse.operator import Operator
from rddm_fast.inverse.operators import Inpainting
from rddm_fast.inverse.predictor import predictor
from rddm_fast.inverse.restore import METHODS, restore
from rddm_fast.theory.schedule import Schedule

SIZES = ((8, 12), (20, 8), (4, 16))


class WithoutSVD(Operator):
    """An operator of which only A and A+ are known."""

    def __init__(self, operator: Operator) -> None:
        self.operator, self.image, self.measured = operator, operator.image, operator.measured

    def A(self, x: Tensor) -> Tensor:
        return self.operator.A(x)

    def At(self, y: Tensor) -> Tensor:
        return self.operator.At(y)

    def pinv(self, y: Tensor) -> Tensor:
        return self.operator.pinv(y)


def shrinking(height: int = 8, width: int = 12) -> DenseOperator:
    """Means of 2 x 4 blocks of colour pictures."""
    return DenseOperator((3, height, width), torch.kron(block_mean(height, 2), block_mean(width, 4)))


def front_door(golden: Golden) -> dict[str, Any]:
    """The arguments of `restore` for a recorded case."""
    case, noise = golden.case, golden.numbered("noise")
    if case["kind"] == "ddrm":
        stride = case["indices"][0] - case["indices"][1]
        options = {"method": "ddrm", "steps": 1000 // stride, "sigma_y": case["sigma_0"], "eta_b": case["eta_b"]}
        options |= {"official": True, "noise": [golden.tensors["start_noise"], *noise]}
    else:
        method = "ddnm+" if case["variant"] == "svd_plus" else "ddnm"
        travel = (case["travel_length"], case["travel_repeat"])
        options = {"method": method, "steps": case["steps"], "sigma_y": case["sigma_y"], "travel": travel}
        options |= {"official": case["variant"] == "simplified", "noise": [golden.tensors["x_0"], *noise]}
        options["indices"] = "ddnm"
    return {**options, "eta": case["eta"]}


def playable(golden: Golden) -> bool:
    """Whether `restore` makes it: not noise in a wrong basis, nor the published travel without the simplified noise."""
    case = golden.case
    if case["kind"] == "ddrm":
        return not case["args"].get("published")
    return not case["published_noise"] and (case["variant"] == "simplified" or case["travel_repeat"] == 1)


RECORDED = [p for kind in ("ddrm", "ddnm") for p in golden_cases(kind, "inverse") if playable(p.values[0])]


@pytest.mark.parametrize("golden", RECORDED)
def test_recorded_cases_through_the_front_door(golden: Golden) -> None:
    case, tensors = golden.case, golden.tensors
    simplified = case.get("variant") == "simplified"
    operator = Simplified(case, tensors) if simplified else recorded_operator(golden)
    asked = Asked(recorded_prior(case, tensors))
    result = restore(tensors["y"], operator, asked, **front_door(golden))
    assert largest_difference([*asked.inputs, result], golden.numbered("x")) < 1e-4


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["block mean", "colour", "half the pixels", "any matrix"])
@pytest.mark.parametrize("method", [*METHODS, "ddnm without SVD"])
def test_without_noise_the_result_fits_y(size: tuple[int, int], kind: str, method: str) -> None:
    """||A x - y|| <= 1e-5 after the last step, float32, sizes that are not square."""
    height, width = size
    pixels = height * width
    operator = {
        "block mean": lambda: shrinking(height, width),
        "colour": lambda: DenseOperator((3, *size), torch.tensor([[0.3333, 0.3334, 0.3333]]), "pixel"),
        "half the pixels": lambda: DenseOperator((3, *size), torch.eye(pixels)[torch.randperm(pixels)[::2]]),
        "any matrix": lambda: DenseOperator((3, *size), torch.randn(pixels // 3, pixels) / pixels**0.5),
    }[kind]()
    y = operator.A(torch.rand(2, 3, *size) * 2 - 1)
    given = WithoutSVD(operator) if method == "ddnm without SVD" else operator
    x = restore(y, given, white_prior, method.removesuffix(" without SVD"), 0.0, 12)
    assert x.shape == (2, 3, *size) and x.dtype == torch.float32
    assert (operator.A(x) - y).abs().max() <= 1e-5


def test_what_ddnm_chooses() -> None:
    """Without noise Algorithm 1; with noise eq. 51 where there is a decomposition, eq. 19 where there is none."""
    operator, noise = shrinking(), [torch.randn(1, 3, 8, 12) for _ in range(6)]
    y = operator.A(torch.rand(1, 3, 8, 12))

    def result(method: str, operator: Operator, sigma_y: float) -> Tensor:
        return restore(y, operator, white_prior, method, sigma_y, 5, noise=noise)

    plain = WithoutSVD(operator)
    assert torch.equal(result("ddnm", operator, 0.3), result("ddnm+", operator, 0.3))
    assert torch.equal(result("ddnm", plain, 0.3), result("ddnm+eq19", operator, 0.3))
    assert torch.equal(result("ddnm", operator, 0.0), result("ddnm+eq19", plain, 0.0))
    assert (result("ddnm", operator, 0.3) - result("ddnm", plain, 0.3)).abs().max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_a_prior_fills_in_what_a_noisy_y_leaves_open(method: str) -> None:
    """Nearer to the truth than A+ y: prior N(0, 0.25) in every pixel, two thirds of the pixels measured with noise."""
    image = (1, 24, 20)
    operator = DenseOperator(image, torch.eye(480)[torch.randperm(480)[:320]])
    truth = 0.5 * torch.randn(8, *image)
    y = operator.A(truth) + 0.5 * torch.randn(8, 320)
    x = restore(y, operator, white_prior, method, 0.5, 100, eta=0.3)
    assert (operator.A(x - truth)).square().mean() < 0.85 * (operator.A(operator.pinv(y) - truth)).square().mean()


@pytest.mark.parametrize(("method", "travel"), [("ddrm", (1, 1)), ("ddnm", (2, 2)), ("ddnm+", (2, 2))])
@pytest.mark.parametrize("official", [False, True])
def test_on_step_sees_every_image(method: str, travel: tuple[int, int], official: bool) -> None:
    operator, asked, seen, wrapped = shrinking(), Asked(white_prior), [], []

    def progress(walk: list) -> list:
        wrapped.append(len(walk))
        return walk

    y = torch.rand(2, *operator.measured)
    x = restore(
        y,
        operator,
        asked,
        method,
        0.1,
        5,
        travel=travel,
        official=official,
        on_step=lambda i, step, image: seen.append((i, step, image)),
        progress=progress,
    )
    transitions = 5 if travel == (1, 1) else 5 + 2 * 2 * 2  # two jumps of two steps, walked again
    assert [i for i, _, _ in seen] == list(range(transitions)) and wrapped == [transitions]
    assert all(image.shape == (2, 3, 8, 12) for _, _, image in seen)
    assert torch.equal(seen[-1][2], x) and seen[-1][1].s == -1
    # The network is asked at the image that was shown after the step before.
    assert asked.times == [step.t for _, step, _ in seen if not step.up]
    before = [seen[i - 1][2] for i, step, _ in seen if i > 0 and not step.up]
    assert all(torch.equal(a, b) for a, b in zip(asked.inputs[1:], before, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_repeats(method: str) -> None:
    operator = shrinking()
    y = operator.A(torch.rand(2, 3, 8, 12))

    def result(seed: int, y: Tensor = y) -> Tensor:
        return restore(y, operator, white_prior, method, 0.2, 6, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(result(1), result(1))
    assert (result(1) - result(2)).abs().max() > 0.1
    in_float64 = result(1, y.double())
    assert in_float64.dtype == torch.float64 and (in_float64 - result(1)).abs().max() < 1e-4  # the same draws


def test_a_draw_is_an_image_whatever_the_basis() -> None:
    """The same seed gives the same image when V and U have other signs."""
    operator, other = shrinking(), shrinking()
    signs = torch.where(torch.arange(96) % 3 == 0, -1.0, 1.0).double()
    other.vectors, other.measures = operator.vectors * signs, operator.measures * signs
    y = operator.A(torch.rand(1, 3, 8, 12))
    for method in ("ddrm", "ddnm+"):
        results = []
        for op in (operator, other):
            results.append(restore(y, op, white_prior, method, 0.1, 5, generator=torch.Generator().manual_seed(3)))
        assert (results[0] - results[1]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sigma_y": -0.1}, "sigma_y must be a standard deviation of 0 or more, not -0.1"),
        ({"sigma_y": float("nan")}, "sigma_y must be a standard deviation of 0 or more, not nan"),
        ({"y": torch.zeros(2, 11)}, r"the measurement y has shape \(2, 11\), and this operator measures \(B, 36\)"),
        ({"y": torch.zeros(36)}, r"the measurement y has shape \(36,\), and this operator measures \(B, 36\)"),
        ({"method": "dps"}, r"method is 'dps': choose one of ddnm, ddnm\+, ddnm\+eq19, ddrm"),
        ({"steps": 0}, "steps must be between 1 and the schedule's 1000, not 0"),
        ({"steps": 1001}, "steps must be between 1 and the schedule's 1000, not 1001"),
        ({"travel": (7, 2)}, "time travel of 7 steps is longer than the walk of 6 steps: take at most 6"),
        ({"method": "ddrm", "travel": (2, 2)}, r"DDRM has no time travel: leave travel at \(1, 1\)"),
        ({"eta": 1.5}, "eta must be between 0 and 1, not 1.5"),
        ({"method": "ddrm", "eta_b": -0.5}, "eta_b must be between 0 and 1, not -0.5"),
        ({"indices": "ddim"}, "the rule for the indices is 'ddim': choose one of exact, ddrm, ddnm"),
        ({"schedule": Schedule.triangular()}, "need a prior trained with DDPM's noise"),
        (
            {"noise": [torch.zeros(2, 3, 8, 12)] * 6},
            "noise holds 6 draws, and this walk takes 7: one to start, one for",
        ),
        ({"noise": [torch.zeros(3, 8, 12)] * 7}, r"draw 0 of noise has shape \(3, 8, 12\): each must be an image of"),
        ({"predict": lambda x, t: x.repeat(1, 2, 1, 1)}, r"predict returned \(2, 6, 8, 12\) for images of"),
    ],
)
def test_bad_input(change: dict[str, Any], sentence: str) -> None:
    call = {"y": torch.zeros(2, 36), "operator": shrinking(), "predict": white_prior, "steps": 6, **change}
    with pytest.raises(ValueError, match=sentence) as raised:
        restore(**call)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("method", ["ddrm", "ddnm+"])
def test_a_method_that_needs_a_decomposition(method: str) -> None:
    with pytest.raises(
        ValueError, match=r"needs an operator with a singular value decomposition .* WithoutSVD has none"
    ):
        restore(torch.zeros(2, 36), WithoutSVD(shrinking()), white_prior, method)


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match="operator is Linear: pass an"):
        restore(torch.zeros(2, 36), nn.Linear(1, 1), white_prior)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"the measurement y is torch\.int64: pass floating-point values"):
        restore(torch.zeros(2, 36, dtype=torch.long), shrinking(), white_prior)


class White(nn.Module):
    """`white_prior` as a network, in float32 like any."""

    outputs, self_condition = 1, False

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, t: Tensor, x_self_cond: Tensor | None = None) -> Tensor:
        assert x.dtype == torch.float32
        return self.scale * white_prior(x, int(t[0]))


def test_a_trained_model_is_a_prior() -> None:
    """Both kinds of model give the function itself, and `restore` takes their schedule."""
    y, operator, noise = torch.rand(1, 36), shrinking(), [torch.randn(1, 3, 8, 12) for _ in range(5)]
    expected = restore(y, operator, white_prior, steps=4, noise=noise)
    models = (
        NoiseDiffusion(White(), DDPM, channels=3, image_size=8),
        ResidualDiffusion(NoiseNetwork(White(), 3), DDPM, objective="pred_noise", image_size=8),
    )
    for diffusion in models:
        prior = predictor(diffusion)
        assert torch.equal(restore(y, operator, prior, steps=4, noise=noise), expected)
        assert restore(y.double(), operator, prior, steps=4, noise=noise).dtype == torch.float64
    short = predictor(NoiseDiffusion(White(), Schedule.from_ddim(60), channels=3, image_size=8))
    times: list[int] = []
    restore(y, operator, short, on_step=lambda i, step, x: times.append(step.t))
    assert times == list(range(59, -1, -1))


def test_models_that_are_no_priors() -> None:
    with pytest.raises(
        ValueError, match=r"a prior predicts the noise or the clean image .* this model's objective is pred_res"
    ):
        predictor(small_model("pred_res", condition=False, schedule=DDPM))
    with pytest.raises(ValueError, match="a prior sees the noisy image alone"):
        predictor(small_model("pred_noise", condition=True, schedule=DDPM))
    with pytest.raises(ValueError, match=r"another schedule: train one with Schedule\.from_ddim"):
        predictor(small_model("pred_noise", condition=False))


def test_x_0_is_clamped_where_that_is_asked_for() -> None:
    """A prior that takes every image for one of 3: missing pixels become 3, clamped 1, and the known ones are y."""
    mask = (torch.arange(96).view(8, 12) % 2).float()
    operator = Inpainting((3, 8, 12), mask)
    y = operator.A(torch.rand(2, 3, 8, 12) * 2 - 1)

    def of_3(x: Tensor, t: int) -> Tensor:
        root_a = 1 - DDPM.alpha_bar_at(t)
        return (x - 3 * root_a) / (1 - root_a**2) ** 0.5

    for method in METHODS:
        missing = mask == 0
        plain, clamped = (restore(y, operator, of_3, method, 0.0, 5, clip_0=clip) for clip in (None, 1.0))
        torch.testing.assert_close(plain[..., missing], torch.full_like(plain[..., missing], 3.0), rtol=0, atol=1e-4)
        torch.testing.assert_close(clamped[..., missing], torch.ones_like(plain[..., missing]), rtol=0, atol=1e-4)
        torch.testing.assert_close(operator.A(clamped), y, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="clip_0 must be a half-width above 0, such as 1, not 0"):
        restore(y, operator, of_3, clip_0=0.0)
