"""The blocks of folded networks: the times' tables, and attention in chunks."""

import pytest
import torch
from small_models import small_model

from rddm_fast.diffusion.unet import LinearAttention, ResnetBlock
from rddm_fast.fast import FastSampler
from rddm_fast.fast.folded.attention import PixelsFirstLinearAttention
from rddm_fast.fast.folded.blocks import FoldedBlock


def test_tables_of_the_steps_are_the_time_network_s_values() -> None:
    diffusion = small_model(path_independent=True, sampling_timesteps=4)
    networks = FastSampler(diffusion).networks
    indices = torch.tensor([999, 749, 499, 249])
    curves = (diffusion.schedule.alpha_bar, diffusion.schedule.beta_bar)
    for member, folded, curve in zip(diffusion.model.members, networks.members, curves, strict=True):
        times = torch.from_numpy(curve)[indices].float() * 1000
        blocks = {name: m for name, m in member.named_modules() if isinstance(m, ResnetBlock)}
        tables = {name: folded.time_rows[:, m.own] for name, m in folded.named_modules() if isinstance(m, FoldedBlock)}
        assert blocks.keys() == tables.keys() and len(blocks) == 11
        with torch.no_grad():
            embedding = member.time_mlp(times)
            for name, block in blocks.items():
                torch.testing.assert_close(tables[name], block.mlp(embedding), rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_linear_attention_in_chunks_is_the_whole(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PixelsFirstLinearAttention, "CHUNK", chunk)
    torch.manual_seed(0)
    attention = LinearAttention(24).eval()
    folded = PixelsFirstLinearAttention(attention)
    x = 3 * torch.randn(2, 24, 9, 11).to(memory_format=torch.channels_last)
    with torch.no_grad():
        out = folded(x)
        torch.testing.assert_close(out, attention(x), rtol=1e-5, atol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_large_keys_do_not_overflow() -> None:
    attention = LinearAttention(8).eval()
    with torch.no_grad():
        attention.to_qkv.weight.mul_(300)
        x = torch.randn(1, 8, 80, 80)
        torch.testing.assert_close(PixelsFirstLinearAttention(attention)(x), attention(x), rtol=1e-4, atol=1e-4)
