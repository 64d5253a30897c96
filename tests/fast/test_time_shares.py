"""What a sampler's time goes to: kernels are told apart by their names."""

import re

import pytest
from small_models import small_model

from rddm_fast.fast import FastSampler
from rddm_fast.fast.time_shares import kind_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mkldnn::_convolution_pointwise", "convolution"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "convolution"),
        ("nvjet_tst_128x64_64x10_1x2_h_bz_TNT", "matrix products and attention"),
        ("aten::bmm", "matrix products and attention"),
        ("rddm_fast::reverse_step_", "reverse_step_"),
        ("triton_poi_fused_add_silu_3", "compiled"),
        ("_group_norm_silu_apply", "group_norm_silu"),
        ("aten::native_layer_norm", "channel_norm"),
        ("aten::copy_", "the rest"),
    ],
)
def test_kernels_are_told_apart_by_their_names(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_explained_for_a_shape_it_measures_what_takes_the_time() -> None:
    sampler = FastSampler(small_model(dim=32))
    assert "time:" not in sampler.explain()
    line = next(line for line in sampler.explain((1, 3, 32, 32)).splitlines() if line.startswith("time:"))
    parts = {name: int(part) for part, name in re.findall(r"(\d+)% ([^,]+)", line)}
    assert {"convolution", "group_norm_silu", "the rest"} <= parts.keys() and 95 <= sum(parts.values()) <= 105
    assert list(parts.values()) == sorted(parts.values(), reverse=True)
