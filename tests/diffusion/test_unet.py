"""The U-Nets beyond the recorded cases: published keys, odd sizes, and what they refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import Golden, golden_cases

from rddm_fast.compat import Unet, UnetRes
from rddm_fast.diffusion.unet import ChannelNorm, WeightStandardizedConv2d, reflected

KEYS = Path(__file__).parents[1] / "data" / "state_dict_keys.json"


@pytest.mark.parametrize("name", json.loads(KEYS.read_text()))
def test_published_state_dict_keys_and_shapes(name: str) -> None:
    described = json.loads(KEYS.read_text())[name]
    with torch.device("meta"):
        network = (Unet if described["class"] == "Unet" else UnetRes)(64, **described["arguments"])
    state = network.state_dict()
    assert len(state) == described["tensors"]
    assert sum(t.numel() for t in state.values()) == described["parameters"]
    for key, shape in described["keys"].items():
        assert list(state[key].shape) == shape, key
    positions = [list(state).index(key) for key in described["keys"]]
    assert positions == sorted(positions)  # optimiser states index parameters by this order


@pytest.mark.parametrize("side", [1, 2, 3, 7, 8])
def test_reflection_is_numpys(side: int) -> None:
    x = torch.arange(side, dtype=torch.float32).expand(1, 1, 2, side).contiguous()
    expected = np.pad(np.arange(side, dtype=np.float32), (0, -side % 8), mode="reflect" if side > 1 else "edge")
    assert reflected(x, 8)[0, 0, 1].tolist() == expected.tolist()


def test_self_condition_defaults_to_zeros_of_one_image() -> None:
    network = Unet(8, dim_mults=(1, 2), self_condition=True, condition=True)
    x, t = torch.randn(2, 6, 8, 8), torch.tensor([1, 2])
    with torch.no_grad():
        assert torch.equal(network(x, t), network(x, t, torch.zeros(2, 3, 8, 8)))


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float32, 1e-5), (torch.float64, 1e-3)])
def test_standardisation_epsilon_follows_the_published_rule(dtype: torch.dtype, eps: float) -> None:
    conv, norm = WeightStandardizedConv2d(3, 8, 3).to(dtype), ChannelNorm(3).to(dtype)
    x = 0.1 * torch.randn(2, 3, 6, 6, dtype=dtype)
    w = conv.weight.detach().double().flatten(1).numpy()
    scaled = (w - w.mean(1, keepdims=True)) / np.sqrt(w.var(1, keepdims=True) + eps)
    weight = torch.from_numpy(scaled).view_as(conv.weight).to(dtype)
    torch.testing.assert_close(conv(x), torch.nn.functional.conv2d(x, weight, conv.bias), rtol=1e-5, atol=1e-5)
    pixels = x.double().numpy()
    normed = (pixels - pixels.mean(1, keepdims=True)) / np.sqrt(pixels.var(1, keepdims=True) + eps)
    torch.testing.assert_close(norm(x).double(), torch.from_numpy(normed), rtol=1e-5, atol=1e-5)


def test_wrong_channels_are_named() -> None:
    with pytest.raises(ValueError, match="takes 6 input channels, not 3: check condition"):
        Unet(8, dim_mults=(1, 2), condition=True)(torch.randn(1, 3, 8, 8), torch.tensor([0]))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"share_encoder": 2}, "share_encoder is 0"),
        ({"num_unet": 3}, "num_unet is 1 or 2"),
        ({"num_unet": 2, "share_encoder": 0}, "not both"),
        ({"learned_sinusoidal_cond": True}, "sinusoidal time embeddings are refused"),
    ],
)
def test_arguments_refused(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        UnetRes(8, **arguments)


@pytest.mark.parametrize("golden", golden_cases("unet"))
def test_unet(golden: Golden) -> None:
    case, tensors = golden.case, golden.tensors
    kind = Unet if case["cls"] == "Unet" else UnetRes
    arguments = {k: v for k, v in case.items() if k not in ("kind", "cls", "weights")}
    network = kind(**arguments)
    network.load_state_dict(golden.weights)
    time = [tensors["time"], tensors["time_noise"]] if "time_noise" in tensors else tensors["time"]
    with torch.no_grad():
        out = network(tensors["x"], time, tensors.get("x_self_cond"))
    out = [out] if isinstance(out, torch.Tensor) else out
    recorded = golden.numbered("out")
    torch.testing.assert_close(out, recorded, rtol=0, atol=1e-5)
