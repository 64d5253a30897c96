"""Where the CUDA kernels do not do what the CPU's do; run under the plugin."""

import itertools

import torch
from cases.reverse_step import BY_FOURS, noise_alone

from rddm_fast.ops import StepTable, forward_diffuse, joint_loss, noise, reverse_step_


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


def test_a_block_s_threads_draw_its_noise_together() -> None:
    for shape, dtype in itertools.product(BY_FOURS, (torch.float32, torch.float16)):
        like = torch.zeros(shape, dtype=dtype).to(memory_format=torch.channels_last)
        error = (noise_alone(like, 2**40 + 3, -5).float() - noise(shape, 2**40 + 3, -5)).abs().max()
        assert error <= (1e-6 if dtype == torch.float32 else 2e-3), (shape, dtype)
