"""One, two or shared networks behind one call."""

import pytest
import torch

from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.diffusion.unet import reflected


@pytest.mark.parametrize("networks", ["one", "two", "shared"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 3), (17, 30), (16, 16)])
def test_any_size(networks: str, height: int, width: int) -> None:
    network = ResidualUnets(8, networks=networks, dim_mults=(1, 2, 4), condition=True)
    x = torch.randn(1, 6, height, width)
    with torch.no_grad():
        out = network(x, torch.tensor([3]))
        padded = network(reflected(x, 4), torch.tensor([3]))
    for image, whole in zip(out, padded, strict=True):
        assert image.shape == (1, 3, height, width)
        assert torch.equal(image, whole[..., :height, :width])


def test_only_the_wanted_network_is_evaluated() -> None:
    network = ResidualUnets(8, networks="two", dim_mults=(1, 2))
    x, t = torch.randn(1, 3, 8, 8), torch.tensor([3])
    calls: list[int] = []
    network.unet0.register_forward_hook(lambda *_: calls.append(0))
    network.unet1.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        both = network(x, t)
        second = network(x, t, only=(1,))
    assert calls == [0, 1, 1] and torch.equal(second[0], both[1])
