"""Where the CUDA kernels do not do what the CPU's do; run under the plugin."""

import ctypes
import itertools
import os

import pytest
import torch
from cases.reverse_step import BY_FOURS, noise_alone
from oracle import DTYPES, LAYOUTS

from rddm_fast.ops import StepTable, forward_diffuse, joint_loss, joint_loss_reference, noise, reverse_step_
from rddm_fast.theory.objective import Objective


def test_a_step_that_the_table_does_not_have_is_nan() -> None:
    """A device cannot raise an error without stopping the queue."""
    coefficients = {"alpha_bar": 0.6, "beta_bar": 0.3, "k_t": 1.0, "k_res": -0.1, "k_noise": -0.2, "k_0": 0.1}
    table = StepTable.of([{**coefficients, "sigma": 0.2}] * 4)
    for step in (-1, 4):
        x = torch.zeros(1, 3, 4, 5)
        outputs = {"out0": torch.zeros_like(x), "out1": torch.zeros_like(x)}
        reverse_step_(x, **outputs, objective="pred_res_noise", table=table, step=torch.tensor([step]), seed=1)
        assert x.isnan().all()


def test_an_index_outside_of_the_tables_is_nan() -> None:
    images, tables = torch.zeros(3, 3, 4, 5), (torch.ones(10), torch.ones(10))
    result = forward_diffuse(images, None, torch.tensor([9, 10, -1]), *tables, seed=1)
    assert result[0].isfinite().all() and result[1:].isnan().all()


def test_the_loss_takes_two_numbers_a_block_beside_the_gradients() -> None:
    x = [torch.randn(4, 3, 256, 256, requires_grad=number < 2) for number in range(4)]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        joint_loss(x[0], x[1], I_0=x[2], I_in=x[3], objective="pred_res_noise", lam=0.5, seed=1)[0].backward()
    allocated = sum(e.self_cpu_memory_usage for e in profile.key_averages() if e.self_cpu_memory_usage > 0)
    gradients, blocks = 2 * x[0].numel() * 4, x[0].numel() // (256 * 4)
    assert gradients <= allocated <= gradients + 8 * blocks + 4096


def loss_of(*images: torch.Tensor) -> torch.Tensor:
    return joint_loss(*images, objective="pred_res_noise", seed=1)[0]


@pytest.mark.parametrize("size", [1, 31, 200])
def test_a_replayed_loss_is_that_of_the_new_images(size: int) -> None:
    """Though its blocks are counted in memory that the first run left, under the same number."""
    images = [torch.randn(1, 3, size, size + 1) for _ in range(4)]
    later = [torch.randn_like(x) for x in images]
    change = ctypes.CFUNCTYPE(None)(lambda: [x.copy_(y) for x, y in zip(images, later, strict=True)])
    expected = loss_of(*later)
    ctypes.CDLL(os.environ["RDDM_CUDA_ON_HOST"]).rddm_on_host_replay(change)
    assert torch.equal(loss_of(*images), expected) and torch.equal(images[0], later[0])


def test_an_image_of_more_packs_than_a_launch_has_threads() -> None:
    images = [torch.randn(1, 3, 1048, 1040) for _ in range(5)]  # 3193 blocks of 256 packs, of which 3168 are launched
    given = (*images, None, 0, None, 0.3, 0.7, int(Objective.pred_res_noise), False)
    for ours, expected in zip(torch.ops.rddm_fast.joint_loss(*given), joint_loss_reference(*given), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("content", [0, 1, 0x7F, 0xFF])
def test_the_blocks_are_counted_in_memory_of_any_content(content: int) -> None:
    images = [torch.randn(1, 3, 40, 40) for _ in range(4)]
    expected = joint_loss(*images, objective="pred_res_noise", seed=1, impl="reference")[0]
    for _ in range(3):
        for size in range(8, 128, 8):  # what is freed here is allocated in the call
            torch.full((size,), content, dtype=torch.uint8)
        torch.testing.assert_close(loss_of(*images), expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "unaligned"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_backward_pass_multiplies_unless_by_1(dtype: torch.dtype, layout: str) -> None:
    scale_in_place = torch.ops.rddm_fast.joint_loss_backward_
    for shape, by_loss, factor, two in itertools.product(
        ((2, 3, 5, 7), (1, 3, 64, 64)), (1.0, 0.5, -3.7, float("nan")), (1.0, 0.25), (True, False)
    ):
        gradients = [LAYOUTS[layout](torch.randn(shape).to(dtype)) for _ in range(2)]
        scaled = [(g.float() * torch.tensor(by_loss * factor)).to(dtype) for g in gradients]
        scale_in_place(gradients[0], gradients[1] if two else None, torch.tensor(by_loss), factor)
        for ours, expected in zip(gradients[: 1 + two], scaled, strict=False):
            torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"gradient0": torch.zeros(4, 6)[:, ::2]}, "gradient0 must lie in memory without gaps"),
        ({"gradient1": torch.zeros(4, 4)}, "gradient1 must have the image's shape"),
        ({"gradient1": torch.zeros(4, 3).half()}, "gradient1 has the wrong dtype"),
        ({"gradient1": torch.zeros(3, 4).t()}, "the gradients must have one memory layout"),
        ({"by_loss": torch.zeros(2)}, "by_loss must be one float32 number"),
        ({"by_loss": torch.zeros(1).double()}, "by_loss must be one float32 number"),
    ],
)
def test_the_backward_pass_names_what_does_not_fit(change: dict[str, torch.Tensor], sentence: str) -> None:
    given = {"gradient0": torch.zeros(4, 3), "gradient1": torch.zeros(4, 3), "by_loss": torch.ones(())}
    with pytest.raises(RuntimeError, match=sentence):
        torch.ops.rddm_fast.joint_loss_backward_(**{**given, **change}, factor=1.0)


def test_a_block_s_threads_draw_its_noise_together() -> None:
    for shape, dtype in itertools.product(BY_FOURS, (torch.float32, torch.float16)):
        like = torch.zeros(shape, dtype=dtype).to(memory_format=torch.channels_last)
        error = (noise_alone(like, 2**40 + 3, -5).float() - noise(shape, 2**40 + 3, -5)).abs().max()
        assert error <= (1e-6 if dtype == torch.float32 else 2e-3), (shape, dtype)
