"""Compile the kernels of the networks for triton_compile.py: each for a GPU that is not there."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from compile_one import DTYPES, compile_one

from rddm_fast.kernels.networks import (
    attention_layer,
    channel_norm,
    conv_by_taps,
    group_norm_silu,
    linear_attention,
    norm_product,
    statistics,
    stem_conv,
)
from rddm_fast.kernels.training import group_norm_silu_training


def compile_networks(directory: Path, capability: int) -> list[dict[str, object]]:
    """Every kernel of the networks' ops, in the layouts of images that it serves."""
    rows: list[dict[str, object]] = []
    for image, (layout, together) in itertools.product(DTYPES, (("contiguous", "by_pixel"), ("pixels", "by_channel"))):
        sizes = {**group_norm_silu.launch_config(8, 8, 64 * 64), "groups": 8, "channels": 8, together: 1}
        rows += [
            compile_norm(directory, f"sm{capability}-{image}-{layout}-{kernel}", kernel, capability, image, sizes)
            for kernel in ("statistics", "group_norm_silu")
        ]
    joining = {"groups": 8, "all_groups": 8, "together": statistics.JOINED}
    name, kernel, types = f"sm{capability}-join_pieces", statistics.join_pieces_kernel, {"joined": "i32"}
    compile_one(directory / name, kernel, capability, "fp32", "fp32", joining, types, {"num_warps": 1}, aligned=True)
    rows.append({"name": name, "kernel": "join_pieces"})
    rows.append(compile_network_op(directory, f"sm{capability}-combine", "combine", capability, "fp32", {}))
    for image, kernel in itertools.product(DTYPES, ("channel_norm", "context", "linear_attention")):
        for layout, together in (("contiguous", {"by_pixel": 1}), ("pixels", {"by_channel": 1})):
            name = f"sm{capability}-{image}-{layout}-{kernel}"
            rows.append(compile_network_op(directory, name, kernel, capability, image, together))
    rows += compile_attention_layer(directory, capability)
    rows += compile_stem_conv(directory, capability)
    rows += compile_products(directory, capability)
    rows += compile_gradients(directory, capability)
    return rows


def compile_network_op(
    directory: Path, name: str, kernel: str, capability: int, image: str, together: dict[str, int]
) -> dict[str, object]:
    """Compile a kernel of channel_norm or linear_attention for 64 channels, or 4 heads of 32 features, of 64 x 64."""
    norm = channel_norm.launch_config(64, 64 * 64, channels_together="by_channel" in together)
    config = {"num_warps": norm.pop("num_warps") if kernel == "channel_norm" else 4}
    head = {"features": 32, "width": 32}
    product = {**head, "pixels": linear_attention.PIXELS, "precision": linear_attention.PRECISION[DTYPES[image]]}
    result = {"by_result_pixel": 1} if "by_pixel" in together else {}
    which, constants = {
        "channel_norm": (channel_norm.channel_norm_kernel, {**together, **norm}),
        "context": (linear_attention.linear_attention_context_kernel, {**together, **product, "tiles": 8}),
        "combine": (linear_attention.linear_attention_combine_kernel, {**head, "all_pieces": linear_attention.PIECES}),
        "linear_attention": (linear_attention.linear_attention_kernel, {**together, **product, **result}),
    }[kernel]
    types = {
        **dict.fromkeys(("g_pointer", "parts_pointer", "context_pointer"), "*fp32"),
        "eps": "fp32",
        "factor": "fp32",
    }
    compile_one(directory / name, which, capability, image, image, constants, types, config, aligned=True)
    return {"name": name, "kernel": kernel}


def compile_attention_layer(directory: Path, capability: int) -> list[dict[str, object]]:
    """Compile attention_layer's kernels for the stages of the published network, for an image of 256 x 256."""
    rows: list[dict[str, object]] = []
    floats = ("row_sums_pointer", "parts_pointer", "to_out_pointer", "bias_pointer", "g_pointer")
    types = {**dict.fromkeys(floats, "*fp32"), "eps": "fp32", "factor": "fp32"}
    for channels, side in ((64, 256), (128, 128), (256, 64), (512, 32)):
        config = attention_layer.launch_config(1, channels, side * side)
        constants = {"channels": channels, "heads": 4, "features": 32, "chunk": config["chunk"]}
        for kernel, which, own in (
            ("layer_context", attention_layer.attention_layer_context_kernel, ("pixels", "tiles")),
            ("layer_combine", attention_layer.attention_layer_combine_kernel, ("all_pieces",)),
            ("layer", attention_layer.attention_layer_kernel, ("pixels",)),
        ):
            known = {**config, "all_pieces": attention_layer.PIECES}
            if kernel == "layer":
                known["pixels"] = config["of_third"]
            name = f"sm{capability}-bf16-{kernel}-{channels}"
            fixed = {**constants, **{one: known[one] for one in own}}
            warps = attention_layer.CONTEXT_WARPS if kernel == "layer_context" else attention_layer.WARPS
            compile_one(
                directory / name, which, capability, "bf16", "bf16", fixed, types, {"num_warps": warps}, aligned=True
            )
            rows.append({"name": name, "kernel": kernel})
    return rows


def compile_stem_conv(directory: Path, capability: int) -> list[dict[str, object]]:
    """Compile stem_conv for the 7x7 weight of a network that sees an image of 256 x 256, or two images."""
    rows: list[dict[str, object]] = []
    for channels, width in ((3, 32), (6, 64)):
        constants = {"channels": channels, "side": 7, "width": width, **stem_conv.launch_config(256, 64)}
        name, warps = f"sm{capability}-bf16-stem_conv-{channels}", {"num_warps": stem_conv.WARPS}
        kernel, types = stem_conv.stem_conv_kernel, {"bias_pointer": "*fp32"}
        compile_one(directory / name, kernel, capability, "bf16", "bf16", constants, types, warps, aligned=True)
        rows.append({"name": name, "kernel": "stem_conv"})
    return rows


def compile_products(directory: Path, capability: int) -> list[dict[str, object]]:
    """Compile what multiplies the pixels of the published networks' images.

    These are the halving convolutions, the last one, the middle attention's projection, and the ends of the decoder's
    blocks.
    """
    rows: list[dict[str, object]] = []
    warps = {"num_warps": conv_by_taps.WARPS}
    for side, channels, outputs, pixels in ((4, 64, 64, 128 * 128), (1, 64, 3, 256 * 256), (1, 128, 512, 32 * 32)):
        constants: dict[str, Any] = {"channels": channels, "side": side, "stride": max(1, side // 2)}
        constants |= {"padding": side // 4, **conv_by_taps.launch_config(pixels, outputs, channels)}
        kernel, types = conv_by_taps.conv_by_taps_kernel, {"bias_pointer": "*fp32"}
        name, wide = f"sm{capability}-bf16-conv_by_taps-{side}-{outputs}", outputs % 16 == 0
        compile_one(directory / name, kernel, capability, "bf16", "bf16", constants, types, warps, aligned=wide)
        rows.append({"name": name, "kernel": "conv_by_taps" if wide else "conv_to_colours"})
    floats = ("norm_weight_pointer", "norm_bias_pointer", "scale_shift_pointer", "parts_pointer", "bias_pointer")
    for outputs, skip, side in ((64, 64, 256), (128, 64, 128), (256, 128, 64), (512, 256, 32)):
        constants = {"groups": 8, "width": outputs // 8, "channels": outputs, "channels_2": skip, "all_pieces": 64}
        constants |= norm_product.launch_config(side * side, 8, outputs // 8, outputs, skip)
        types, kernel = {**dict.fromkeys(floats, "*fp32"), "eps": "fp32"}, norm_product.norm_product_kernel
        name = f"sm{capability}-bf16-norm_product-{outputs}"
        compile_one(directory / name, kernel, capability, "bf16", "bf16", constants, types, warps, aligned=True)
        rows.append({"name": name, "kernel": "norm_product"})
    return rows


def compile_gradients(directory: Path, capability: int) -> list[dict[str, object]]:
    """Compile group_norm_silu_training's walks backwards, for 8 groups of 8 channels of an image of 64 x 64 pixels."""
    kernels = {
        "gradient_sums": (group_norm_silu_training.gradient_sums_kernel, {"tiles": 2}),
        "x_gradient": (group_norm_silu_training.x_gradient_kernel, {}),
    }
    rows: list[dict[str, object]] = []
    for name, (kernel, more) in kernels.items():
        constants = {"groups": 8, "channels": 8, **group_norm_silu.launch_config(8, 8, 64 * 64), **more}
        file, warps = f"sm{capability}-fp32-{name}", {"num_warps": group_norm_silu.WARPS}
        compile_one(directory / file, kernel, capability, "fp32", "fp32", constants, {}, warps, aligned=True)
        rows.append({"name": file, "kernel": name})
    return rows


def compile_norm(
    directory: Path, name: str, kernel: str, capability: int, image: str, constants: dict[str, Any]
) -> dict[str, object]:
    """Compile a kernel of group_norm_silu for 8 groups of 8 channels of an image of 64 x 64 pixels."""
    floats = {"x_bias_pointer", "parts_pointer", "weight_pointer", "bias_pointer", "scale_shift_pointer"}
    types = {**dict.fromkeys(floats, "*fp32"), "eps": "fp32"}
    constants = (
        {**constants, "all_pieces": 16, "tiles": 2} if kernel == "group_norm_silu" else {**constants, "tiles": 4}
    )
    which = {
        "statistics": group_norm_silu.group_norm_silu_statistics_kernel,
        "group_norm_silu": group_norm_silu.group_norm_silu_kernel,
    }[kernel]
    compile_one(
        directory / name,
        which,
        capability,
        image,
        image,
        constants,
        types,
        {"num_warps": group_norm_silu.WARPS},
        aligned=True,
    )
    return {"name": name, "kernel": kernel}
