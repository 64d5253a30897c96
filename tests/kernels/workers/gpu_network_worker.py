"""Run by test_gpu_network.py in a process of its own, because triton reads TRITON_INTERPRET when imported.

`gpu_network_worker.py NETWORKS` folds small networks as a GPU does, with the kernels interpreted, and prints as JSON
what modules they have, what ops one evaluation calls, and how far their images are from the float32 networks'.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import torch
from small_models import perturbed_unets
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.diffusion.unet import LinearAttention, ResnetBlock
from rddm_fast.fast import fold as fold_module
from rddm_fast.fast.export import _without_our_ops
from rddm_fast.fast.fold import fold
from rddm_fast.fast.folded import attention, blocks
from rddm_fast.fast.folded.convolutions import is_3x3
from rddm_fast.ops import backends

TIMES = [torch.tensor([900.0, 3.0]), torch.tensor([30.0, 700.0])]


class Ops(TorchDispatchMode):
    """Counts the ops that are called; of convolutions those of 3x3 with stride 1, which torch should not compute."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket._qualified_op_name.replace("::", ".")
        if name == "aten.convolution":
            weight, stride = args[1], args[3]
            name += "_3x3" if (weight.shape[2:], list(stride)) == ((3, 3), [1, 1]) else ""
        self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def choose_as_on_a_gpu() -> None:
    """Let ops and modules choose on the CPU what they choose on a GPU, from now on."""
    backends.PREFERENCE["cpu"] = ("triton", "reference")
    for module in (fold_module, blocks, attention):
        module.adds_bias_apart = lambda conv: True  # type: ignore[attr-defined]


def expected(network: nn.Module) -> dict[str, int]:
    """How often one evaluation of a network, not folded yet, should call each of our ops."""
    modules = list(network.modules())
    halves = 2 * sum(isinstance(module, ResnetBlock) for module in modules)
    convolutions = sum(isinstance(module, nn.Conv2d) and is_3x3(module) for module in modules)
    # The convolutions that halve an image, the last one or two, and the middle attention's projection.
    taps = sum(isinstance(module, nn.Conv2d) and module.kernel_size == (4, 4) for module in modules)
    taps += sum(name.startswith("final_conv") for name, _ in network.named_children()) + 1
    return {
        "rddm_fast.attention_layer_triton": sum(isinstance(module, LinearAttention) for module in modules),
        "rddm_fast.channel_norm_triton": 1,  # before the attention in the middle
        "rddm_fast.conv_by_taps_triton": taps,
        "rddm_fast.conv3x3_triton": convolutions - halves,  # between the stages
        "rddm_fast.conv_norm_silu_triton": halves,
        "rddm_fast.stem_conv_triton": 1,
    }


def lost(images: list[Tensor], exact: list[Tensor]) -> list[float]:
    """How far each image is from the exact one, relative to that."""
    return [((x.double() - y).norm() / y.norm()).item() for x, y in zip(images, exact, strict=True)]


def kinds(network: nn.Module) -> dict[str, int]:
    """How many modules of each kind a network is computed by; of torch's convolutions those of 3x3."""
    modules = list(fold_module.outermost(network))
    plain = sum(isinstance(module, nn.Conv2d) and is_3x3(module) for module in modules)
    ours = Counter(type(module).__name__ for module in modules)
    return {**ours, "Conv2d": plain}


def found(unets: ResidualUnets) -> dict[str, Any]:
    """What the test judges."""
    x, steps = torch.randn(1, 6, 8, 4), [time[1:] for time in TIMES]
    previous = torch.randn(1, 3, 8, 4) if unets.members[0].self_condition else None
    exact = [image.double() for image in unets(x, steps, previous)]
    plain = fold(unets, TIMES, dtype=torch.float16, pack=False)
    _without_our_ops(plain, plain.device)
    lost_by_plain = lost(plain(x, 1, previous), exact)

    choose_as_on_a_gpu()
    folded = fold(unets, TIMES, dtype=torch.float16, pack=True)
    image, constant = folded.input(x[:, :3], previous), folded.constant(x[:, 3:])
    images, called = [], []
    for i, part in enumerate(constant):
        with Ops() as ops:
            images += folded.bound(i)(image, folded.row(i, 1), part)
        called.append(ops.counts)
    return {
        "lost": lost(images, exact),
        "lost_by_plain": lost_by_plain,
        "called": called,
        "expected": [expected(network) for network in unets.members],
        "kinds": kinds(folded),
    }


def small_unets(kind: str) -> ResidualUnets:
    """Two networks, a shared encoder, or "narrow": its decoder takes 24 + 24 channels, which divide together alone."""
    if kind == "narrow":
        torch.manual_seed(0)
        return ResidualUnets(24, networks="one", dim_mults=[1, 1], condition=True).eval()
    return perturbed_unets(kind, self_condition=kind == "shared").eval()


if __name__ == "__main__":
    with torch.no_grad():
        print(json.dumps(found(small_unets(sys.argv[1]))))
