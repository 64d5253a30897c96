"""The objectives: residual, noise and clean image from the outputs, and which of them one network learns."""

import numpy as np
import pytest
import torch
from small_models import SCHEDULE, known_model, signed
from torch import Tensor

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.theory.objective import Objective, decision

HALFWAY = torch.tensor([500, 500])
A, B = float(SCHEDULE.alpha_bar[500]), float(SCHEDULE.beta_bar[500])


def table(
    objective: str, x: np.ndarray, x_in: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, ...]:
    """(residual, noise, clean image) of the outputs at HALFWAY, written out row by row."""

    def clip(image: np.ndarray) -> np.ndarray:
        return np.clip(image, -1, 1)

    if objective == "pred_noise":
        clean = clip((x - A * x_in - B * first) / (1 - A))
        return clip(x_in - clean), first, clean
    if objective == "pred_res":
        res = clip(first)
        return res, (x - x_in - (A - 1) * res) / B, clip(x_in - res)
    if objective == "pred_x0":
        res = clip(x_in - first)
        return res, (x - x_in - (A - 1) * res) / B, clip(x_in - res)
    noise = second - first if "add_noise" in objective else second
    if objective.startswith("pred_x0"):
        return clip(x_in - first), noise, clip(first)
    res = clip(first)
    return res, noise, clip(x - A * res - B * noise)


def predicted(diffusion: ResidualDiffusion, x: Tensor, x_in: Tensor) -> list[np.ndarray]:
    return [part.double().numpy() for part in diffusion.predict(x, HALFWAY, x_in)]


@pytest.mark.parametrize("objective", [o.name for o in Objective])
def test_predictions_follow_the_published_table_and_its_clamps(objective: str) -> None:
    x, x_in, first, second = 1.3 * signed(1), signed(2), 1.5 * signed(3), torch.randn(2, 3, 8, 8)
    found = predicted(known_model(first, second, objective=objective), x, x_in)
    expected = table(objective, *(image.double().numpy() for image in (x, x_in, first, second)))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    assert np.abs(found[0]).max() == 1  # the clamps were active


@pytest.mark.parametrize(
    ("objective", "mode", "alone", "which"),
    [
        ("pred_res_noise", "res", "pred_res", 0),
        ("pred_res_noise", "noise", "pred_noise", 1),
        ("pred_x0_noise", "x0", "pred_x0", 0),
        ("pred_x0_noise", "noise", "pred_noise", 1),
    ],
)
def test_a_test_mode_reads_one_of_the_two_outputs_as_if_it_were_alone(
    objective: str, mode: str, alone: str, which: int
) -> None:
    x, x_in = signed(1), signed(2)
    outputs = (signed(3), torch.randn(2, 3, 8, 8))
    found = predicted(known_model(*outputs, objective=objective, test_res_or_noise=mode), x, x_in)
    expected = predicted(known_model(outputs[which], objective=alone), x, x_in)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_without_clamps_the_three_images_add_up_to_the_fourth() -> None:
    x, x_in = 2 * signed(1), 2 * signed(2)
    for objective in Objective:
        if objective in (Objective.pred_x0_noise, Objective.pred_x0_add_noise):
            continue  # two independent answers: they need not agree
        diffusion = known_model(2 * signed(3), torch.randn(2, 3, 8, 8), objective=objective)
        res, noise, clean = diffusion.predict(x, HALFWAY, x_in, clip=False)
        torch.testing.assert_close(clean + A * res + B * noise, x, rtol=0, atol=1e-5)
        assert clean.abs().max() > 1


def test_the_residual_s_clamp_is_adjustable_to_its_true_range() -> None:
    x, x_in, residual = signed(1), signed(2), 2 * signed(3)
    wide = known_model(residual, objective="pred_res", clip_res=2.0).predict(x, torch.tensor([1, 1]), x_in)
    assert torch.equal(wide.pred_res, residual)
    assert torch.equal(wide.pred_x_start, (x_in - residual).clamp(-1, 1))


def test_the_band_of_the_decision() -> None:
    assert [decision(w) for w in (0.491, 0.5, 0.509)] == [None] * 3
    assert decision(0.511) is Objective.pred_res and decision(torch.tensor([0.489])) is Objective.pred_noise
