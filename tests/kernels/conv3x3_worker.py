"""Run by test_conv3x3_kernel.py in processes of their own, because triton reads TRITON_INTERPRET when imported.

`conv3x3_worker.py` interprets the kernel, `conv3x3_worker.py DIRECTORY` compiles it for GPUs that are not there. What
was found is printed as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from cases import conv3x3 as cases
from compile_one import compile_one
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import BF16, F16, LAYOUTS, assert_as_exact_as_torch

from rddm_fast.kernels.networks.conv3x3 import conv3x3_by_tile, conv3x3_kernel
from rddm_fast.kernels.networks.conv3x3_tiles import CANDIDATES, Gpu, Tile
from rddm_fast.ops import conv3x3, conv3x3_reference, pack_conv3x3_taps

A100 = Gpu(108, 163 << 10, described=False)


def convolved(call: dict[str, Any], **launched: Any) -> None:
    """Assert that the kernel is as exact as torch's convolution, with launch options of the kernel's."""
    x, x_2, weight, bias, upsample = (call[name] for name in ("x", "x_2", "weight", "bias", "upsample"))
    packed = pack_conv3x3_taps(weight, x.dtype, upsample)
    ours, _ = conv3x3_by_tile(x, x_2, len(weight), packed, bias, upsample, **launched)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    plain = conv3x3_reference(x, x_2, weight, None, bias, upsample)
    assert_as_exact_as_torch(ours, plain, cases.exact(call), relative=1e-6, subnormal=True)


def tiles() -> int:
    """How many tiles were judged, each with descriptors on one call and without on another."""
    for i, tile in enumerate(CANDIDATES):
        upsample, dtype = i % 2 == 0, (BF16, F16)[i // 2 % 2]
        convolved(cases.call((1, 32, 16, 72, 5, 17), dtype, upsample=upsample), tile=tile, described=True)
        convolved(cases.call((1, 16, 0, 40, 5, 7), dtype, upsample=not upsample), tile=tile, described=False)
    return len(CANDIDATES)


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(
    st.tuples(
        st.integers(1, 2),
        st.sampled_from((16, 32, 48, 80)),
        st.sampled_from((0, 16, 64)),
        st.integers(1, 10).map(lambda n: 8 * n),
        st.integers(1, 17),
        st.integers(1, 17),
    ),
    st.sampled_from((BF16, F16)),
    st.sampled_from(list(LAYOUTS)),
    st.booleans(),
    st.booleans(),
    # Of small tiles there are many, and the interpreter runs them one after the other.
    st.sampled_from([tile for tile in CANDIDATES if tile.pixels >= 128]),
)
def any_shape(shape: cases.Shape, dtype: torch.dtype, layout: str, upsample: bool, biased: bool, tile: Tile) -> None:
    convolved(cases.call(shape, dtype, layout, upsample=upsample, biased=biased), tile=tile)


def bits_of_the_op() -> bool:
    """Whether opcheck passes for the op in Triton, and its bits are the public function's, whatever was packed."""
    op = torch.ops.rddm_fast.conv3x3_triton.default
    for upsample in (False, True):
        call = cases.call((1, 16, 16, 8, 3, 5), F16, "sliced channels_last", upsample=upsample)
        packed = pack_conv3x3_taps(call["weight"], F16, upsample)
        arguments = call["x"], call["x_2"], call["weight"], packed, call["bias"], upsample
        torch.library.opcheck(op, arguments)
        if not torch.equal(conv3x3(**call, impl="triton"), op(*arguments)):
            return False
    return True


def nothing() -> list[list[int]]:
    """The shapes of the results for no images."""
    weight = torch.zeros(8, 16, 3, 3)
    shapes = ((0, 16, 4, 4), (1, 16, 0, 4), (1, 16, 4, 0))
    return [list(conv3x3(torch.zeros(s, dtype=F16), weight, upsample=True, impl="triton").shape) for s in shapes]


def mistakes() -> list[str]:
    """What is said about calls that the kernel does not serve."""
    x, weight = torch.zeros(1, 16, 4, 4, dtype=F16), torch.zeros(8, 16, 3, 3)
    calls: list[dict[str, Any]] = [
        dict(x=x[:, :12], weight=weight[:, :12]),
        dict(x=x, weight=weight[:4]),
        dict(x=x, weight=weight, packed=pack_conv3x3_taps(weight, F16, upsample=True)),
        dict(x=x, weight=weight, packed=pack_conv3x3_taps(weight, BF16)),
    ]
    said = []
    for call in calls:
        try:
            conv3x3(**call, impl="triton")
        except ValueError as error:
            said.append(str(error))
    for wrong in ({"x_2": x}, {"x_2": x[:, :, :3]}, {"x_2": x.bfloat16()}, {"bias": torch.zeros(8, dtype=F16)}):
        both = pack_conv3x3_taps(torch.zeros(8, 32 if "x_2" in wrong else 16, 3, 3), F16)
        try:
            conv3x3_by_tile(**{"x": x, "x_2": None, "out_channels": 8, "packed": both, "bias": None, **wrong})
        except ValueError as error:
            said.append(str(error))
    return said


def interpret() -> dict[str, object]:
    any_shape()
    return {check.__name__: check() for check in (tiles, bits_of_the_op, nothing, mistakes)}


def compile_all(directory: Path) -> list[dict[str, Any]]:
    """Compile each tile for sm_90, and for sm_80 those that it has the registers for: two parts, and enlarged."""
    rows: list[dict[str, Any]] = []
    for capability, (i, tile) in ((c, each) for c in (80, 90) for each in enumerate(CANDIDATES)):
        described = capability == 90
        if not described and not tile.runs_on(A100):
            continue
        for form, second, upsample in (("two parts", 64, False), ("enlarged", 0, True))[: 1 + described]:
            constants: dict[str, Any] = {
                **{"in_channels": 128, "in_channels_2": second, "upsample": upsample, "described": described},
                "whole": tile.sums > 64,  # with a border, if it is not too much for the registers
                **{name: getattr(tile, name) for name in ("rows", "columns", "channels", "depth", "stages")},
                **({"groups": 8, "of_group": 16} if second else {"groups": 1, "of_group": 1}),
                **({} if second else {"image_2": None, "parts_pointer": None}),
            }
            sources = ("image", "image_2", "weights")
            types = {"bias_pointer": "*fp32", "parts_pointer": "*fp32", **dict.fromkeys(sources, "*bf16")}
            types |= dict.fromkeys(("height", "width", "across", "down", "eights"), "i32")
            if described:
                types |= dict.fromkeys(("image", "image_2"), f"tensordesc<bf16[1, {tile.rows}, {tile.columns}, 64]>")
                types["image"] = types["image_2"] = types["image"].replace("64]", f"{tile.depth}]")
                types["weights"] = f"tensordesc<bf16[{tile.channels}, {tile.depth}]>"
            name = f"sm{capability}-{i}-{form.replace(' ', '-')}"
            warps = {"num_warps": tile.warps}
            compile_one(
                *(directory / name, conv3x3_kernel, capability, "bf16", "bf16", constants, types, warps),
                divisible=("bias_pointer", *(() if described else sources)),
            )
            rows.append({"name": name, "capability": capability, "tile": str(tile)})
    return rows


if __name__ == "__main__":
    print(json.dumps(compile_all(Path(sys.argv[1])) if len(sys.argv) > 1 else interpret()))
