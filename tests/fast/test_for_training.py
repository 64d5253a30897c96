"""Networks made to train faster have the reference's outputs, gradients and state dict."""

import copy

import pytest
import torch
from small_models import assert_same_bits, perturbed_unets, seeded, small_model
from torch import Tensor, nn

from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.diffusion.unet import ChannelNorm, WeightStandardizedConv2d
from rddm_fast.fast import FastSampler
from rddm_fast.fast.for_training import Conv3x3, for_training
from rddm_fast.ops.networks.conv3x3 import tiles

amx = pytest.mark.skipif(1 not in tiles(), reason="this machine has no AMX")


def gradients(unets: nn.Module, x: Tensor, autocast: bool = False) -> tuple[list[Tensor], dict[str, Tensor]]:
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = unets(x, torch.tensor([900.0, 3.0], dtype=x.dtype))
    sum((i + 1) * o.float().square().mean() for i, o in enumerate(out)).backward()
    found = {name: p.grad for name, p in unets.named_parameters() if p.grad is not None}
    return out, {"x": x.grad, **found}


def distance(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    assert found.keys() == exact.keys()
    return max(float((found[k] - exact[k]).abs().max() / exact[k].abs().max().clamp(min=1e-6)) for k in exact)


@pytest.mark.parametrize("kind", ["one", "two", "shared"])
def test_outputs_and_gradients_are_the_reference_s(kind: str) -> None:
    reference, x = perturbed_unets(kind), torch.randn(2, 6, 20, 12)
    faster = for_training(copy.deepcopy(reference))
    single = [gradients(unets, x) for unets in (reference, faster)]
    reference.zero_grad(), faster.zero_grad()
    exact, double = (gradients(unets.double(), x.double()) for unets in (reference, faster))
    torch.testing.assert_close(double[0], exact[0], rtol=1e-9, atol=1e-9)
    assert distance(double[1], exact[1]) < 1e-9
    torch.testing.assert_close(single[1][0], single[0][0], rtol=0, atol=1e-5)
    assert distance(single[1][1], single[0][1]) < 1e-3


def test_in_bfloat16_it_is_as_close_to_float32_as_the_reference() -> None:
    reference, x = perturbed_unets(), torch.randn(2, 6, 16, 16)
    faster = for_training(copy.deepcopy(reference))
    exact, theirs, ours = gradients(reference, x), gradients(reference, x, True), gradients(faster, x, True)
    for own, other, truth in zip(ours[0], theirs[0], exact[0], strict=True):
        assert (own - truth).square().mean() <= 2 * (other - truth).square().mean()


def test_parameters_stay_where_they_are() -> None:
    unets = perturbed_unets()
    before = {name: p.clone() for name, p in unets.state_dict().items()}
    parameters = list(unets.parameters())
    assert for_training(unets) is unets
    assert all(p is q for p, q in zip(unets.parameters(), parameters, strict=True))
    assert list(unets.state_dict()) == list(before)
    assert_same_bits(unets.state_dict(), before)
    perturbed_unets().load_state_dict(unets.state_dict())
    assert isinstance(copy.deepcopy(unets), ResidualUnets)
    kinds = [type(m) for m in unets.modules() if isinstance(m, (WeightStandardizedConv2d, ChannelNorm))]
    assert kinds and not {WeightStandardizedConv2d, ChannelNorm} & set(kinds)


def test_less_is_kept_for_the_backward_pass() -> None:
    def kept(unets: nn.Module) -> int:
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = unets(torch.randn(2, 6, 32, 32), torch.tensor([900.0, 3.0]))
        assert len(out) == 2
        return sum(seen.values())

    reference = perturbed_unets()
    assert kept(for_training(copy.deepcopy(reference))) < 0.6 * kept(reference)


def test_what_is_being_trained_can_be_sampled_with_fast() -> None:
    diffusion, x = small_model(), torch.rand(1, 3, 16, 16)
    expected = FastSampler(diffusion)(x, generator=seeded(0))
    for_training(diffusion)
    found = FastSampler(diffusion)(x, generator=seeded(0))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tile, error", [pytest.param(1, 1e-5, marks=amx), (4, 1e-4)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convolutions_have_the_gradients_of_torch_s(
    bias: bool, layout: torch.memory_format, tile: int, error: float
) -> None:
    given = [torch.randn(2, 40, 11, 18), torch.randn(48, 40, 3, 3) / 19, torch.randn(48) if bias else None]
    given = [None if tensor is None else tensor.requires_grad_() for tensor in given]
    wide = [None if tensor is None else tensor.detach().double().requires_grad_() for tensor in given]
    y = Conv3x3.apply(given[0].contiguous(memory_format=layout), *given[1:], tile)
    exact = nn.functional.conv2d(*wide, padding=1)
    assert (y - exact).abs().max() <= error
    (y.square().sum() / 2).backward()
    (exact.square().sum() / 2).backward()
    for own, other in zip(given, wide, strict=True):
        if own is not None:
            assert (own.grad - other.grad).abs().max() <= error * other.grad.abs().max()


def test_only_the_gradients_that_are_needed_are_computed() -> None:
    x, weight, bias = torch.randn(1, 16, 9, 9), torch.randn(24, 16, 3, 3), torch.randn(24)
    for needed in ((True, False, False), (False, True, False), (False, False, True)):
        given = [tensor.clone().requires_grad_(needs) for tensor, needs in zip((x, weight, bias), needed, strict=True)]
        Conv3x3.apply(*given, 4).sum().backward()
        assert [tensor.grad is not None for tensor in given] == list(needed)


@pytest.mark.skipif(4 not in tiles(), reason="the library is not compiled")
def test_wide_networks_train_with_the_reference_s_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, forward = [], Conv3x3.forward
    monkeypatch.setattr(Conv3x3, "forward", lambda *args: calls.append(args[1].shape) or forward(*args))
    torch.manual_seed(0)
    reference = ResidualUnets(32, networks="one", dim_mults=[1, 2], channels=3, condition=True)
    faster, x = for_training(copy.deepcopy(reference)), torch.randn(2, 6, 16, 24)
    (theirs, exact), (ours, found) = gradients(reference, x), gradients(faster, x)
    assert len(calls) == 25
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-5)
    assert distance(found, exact) < 1e-3
    with torch.autocast("cpu", torch.bfloat16):
        faster(x, torch.tensor([900.0, 3.0]))
    assert len(calls) == 25
