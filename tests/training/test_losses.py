"""The losses of a batch: the published sum, its weights, and a batch shared among processes."""

import pytest
import torch
from small_models import seeded, small_model
from train_worker import Pairs

from rddm_fast.ops import noise
from rddm_fast.training.losses import Draws, losses_of


def sums(objective: str, loss_type: str, share: tuple[int, int] = (0, 1), lam: float = 0.5) -> list[torch.Tensor]:
    """The loss, its parts and the gradients of one batch of two, seed 9, stream 4."""
    model = small_model(objective, loss_type=loss_type)
    generator = seeded(2)
    items = [Pairs()[i] for i in range(share[0], 2, share[1])]
    I_0, I_in = (torch.stack([item[name] for item in items]) * 2 - 1 for name in ("target", "input"))
    loss, parts = losses_of(model, lam)(I_0, I_in, None, draws=Draws(generator, 9, 4, share))
    loss.backward()
    return [loss.detach(), parts.detach(), *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("loss_type", ["l1", "l2"])
@pytest.mark.parametrize("objective", ["pred_res_noise", "pred_res_add_noise", "pred_x0_noise", "pred_x0_add_noise"])
def test_the_fused_loss_is_the_published_sum(objective: str, loss_type: str) -> None:
    """At lambda 1/2 the scaled joint loss, its noise drawn in the kernels, is the sum of both losses by torch."""
    loss, parts, *gradients = sums(objective, loss_type)
    model = small_model(objective, loss_type=loss_type)
    I_0, I_in = (torch.stack([Pairs()[i][name] for i in range(2)]) * 2 - 1 for name in ("target", "input"))
    t = torch.randint(0, 1000, (2,), generator=seeded(2))
    plain = torch.stack(model.losses(I_0, I_in, t, noise=noise(I_0.shape, 9, 4)))
    plain.sum().backward()
    torch.testing.assert_close(parts, plain.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss, plain.sum().detach(), rtol=1e-5, atol=1e-6)
    scale = max(float(g.abs().max()) for g in gradients)
    for ours, parameter in zip(gradients, model.parameters(), strict=True):
        assert (ours - parameter.grad).abs().max() < 1e-4 * scale


def test_lambda_weighs_the_two_losses() -> None:
    for lam in (0.0, 0.3, 1.0):
        loss, parts, *_ = sums("pred_res_noise", "l1", lam=lam)
        torch.testing.assert_close(loss, 2 * (lam * parts[0] + (1 - lam) * parts[1]))


@pytest.mark.parametrize("objective", ["pred_res", "pred_res_noise"])
def test_two_shares_make_the_whole_batch(objective: str) -> None:
    """What two processes compute, averaged, is what one computes: the same times and the same noise."""
    whole = sums(objective, "l1")
    halves = [sums(objective, "l1", share=(rank, 2)) for rank in range(2)]
    for all_of_it, *parts in zip(whole, *halves, strict=True):
        torch.testing.assert_close((parts[0] + parts[1]) / 2, all_of_it, rtol=1e-4, atol=2e-6)


def test_a_share_of_the_times_is_the_last_and_the_others_are_any() -> None:
    t = Draws(seeded(3), 0, 0, (0, 1)).times(torch.empty(4000), 0, 1000, 0.75)
    others = t[t < 999]
    assert abs(float((t == 999).float().mean()) - 0.75) < 0.02
    assert abs(float(others.float().mean()) - 499) < 30 and others.min() < 10 and others.max() > 985
    plain = [Draws(seeded(3), 0, 0, (0, 1)).times(torch.empty(4000), 0, 1000, share) for share in (0.0, 1.0)]
    assert torch.equal(t[t < 999], plain[0][t < 999]) and (plain[1] == 999).all()


@pytest.mark.parametrize("objective", ["pred_res", "pred_x0", "pred_res_noise", "pred_x0_noise"])
def test_the_loss_sees_the_pixels_that_the_mask_marks_alone(objective: str) -> None:
    """As `Restorer` returns them: what the first output says of the other pixels changes neither loss nor weights."""
    model = small_model(objective, input_condition=True, input_condition_mask=True, mask_marks="change")
    I_0, I_in = (torch.stack([Pairs()[i][name] for i in range(2)]) * 2 - 1 for name in ("target", "input"))
    mask = torch.zeros_like(I_0)
    mask[..., 4:9, 2:] = 1
    outputs: list[torch.Tensor] = []
    predict = model.outputs
    model.outputs = lambda *args, **options: outputs.extend(predict(*args, **options)) or tuple(outputs)  # type: ignore
    loss, parts = losses_of(model, 0.5)(I_0, I_in, mask, draws=Draws(seeded(2), 9, 4, (0, 1)))
    (gradient,) = torch.autograd.grad(loss, outputs[:1])
    assert not gradient[mask == 0].any() and gradient[mask == 1].all()
    target = I_0 if "x0" in objective else I_in - I_0
    expected = ((outputs[0] - target).abs() * mask).mean()
    torch.testing.assert_close(parts[0], expected, rtol=1e-5, atol=1e-6)
